"""How a step changes the weights: SGD, its learning rate from step to step, and the average of the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tinyclf.settings import Settings

# The parts of torchvision's ResNet from the head to the image, for learning rates that fall from one to the next.
DEPTHS = {"fc": 0, "layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "bn1": 5, "conv1": 5}


def learning_rate(settings: Settings, epoch: float) -> float:
    """The rate of the step that starts after so many epochs, a fraction from 0 to `settings.epochs`.

    It rises linearly from 0 over the share `warmup` of the epochs. Then `step` takes it times `gamma` at the end of
    every `step_size` epochs, as the published run did; `cosine` and `linear` bring it down to 0 at the end.
    Source of the cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    rising = settings.warmup * settings.epochs
    if epoch < rising:
        return settings.learning_rate * epoch / rising
    left = 1 - (epoch - rising) / (settings.epochs - rising)  # from 1 to 0
    share = {
        "step": settings.gamma ** (int(epoch) // settings.step_size),
        "cosine": (1 - math.cos(math.pi * left)) / 2,
        "linear": left,
    }
    return settings.learning_rate * share[settings.schedule]


def sgd(model: nn.Module, settings: Settings) -> torch.optim.SGD:
    """The optimiser of the recipe. Fused: the same numbers to the last bit as torch's plain one, in fewer passes.

    Weight decay leaves out norms and biases. `factor` of a group is what its learning rate is multiplied by: 1 for the
    head, and `layer_decay` times less from each part of a ResNet to the one before it.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        factor = settings.layer_decay ** DEPTHS.get(name.partition(".")[0], 0)
        groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        settings.learning_rate,
        settings.momentum,
        nesterov=settings.nesterov,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step of `optimizer`, made by `sgd`, be taken at `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class Average:
    """The exponential moving average of a model's weights and batch statistics, to be evaluated in their place.

    decay: the share that each step keeps of it; less in the first steps, so that it is no average with the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model after its step number `step`, from 1, of the whole training."""
        ours, theirs = [], []
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                ours.append(self.values[name])
                theirs.append(value)
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(ours, theirs, 1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def put_into_model(self) -> None:
        """Give the model the averages."""
        for name, value in self.model.state_dict().items():
            value.copy_(self.values[name])

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model has the averages inside of the context, and its own weights again after it."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.put_into_model()
        try:
            yield
        finally:
            self.model.load_state_dict(own)
