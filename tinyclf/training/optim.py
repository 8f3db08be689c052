"""The optimizer, and its learning rate from step to step."""

import math
from dataclasses import dataclass

from torch import nn, optim
from torch.optim import lr_scheduler

from tinyclf.utils.errors import TinyclfError

# The parts of torchvision's ResNet from the head to the image, for learning rates that fall from one to the next.
DEPTHS = {"fc": 0, "layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "bn1": 5, "conv1": 5}


def make_optimizer(
    model: nn.Module, learning_rate: float, momentum: float, *, nesterov: bool, weight_decay: float, layer_decay: float
) -> optim.SGD:
    """SGD over all parameters of `model`. Without weight decay and layer decay it has one group, as plain PyTorch.

    weight_decay leaves out norms and biases. layer_decay: the learning rate of the head is `learning_rate`, and from
    each part of a ResNet to the one before it the rate is multiplied by this factor. Raises TinyclfError for a model
    of other parts.
    """
    unknown = {name.partition(".")[0] for name, _ in model.named_parameters()} - DEPTHS.keys()
    if unknown and layer_decay != 1:
        parts = ", ".join(sorted(unknown))
        raise TinyclfError(f"layer_decay = {layer_decay}: it is for a ResNet, and this model has {parts}; give 1.0")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = weight_decay if parameter.ndim > 1 else 0.0
        rate = learning_rate * layer_decay ** DEPTHS.get(name.partition(".")[0], 0)
        groups.setdefault((decay, rate), []).append(parameter)
    tables = [{"params": values, "weight_decay": decay, "lr": rate} for (decay, rate), values in groups.items()]
    return optim.SGD(tables, lr=learning_rate, momentum=momentum, nesterov=nesterov)


@dataclass(frozen=True)
class RateSchedule:
    """The part of its learning rate that an optimizer uses in a step, counted from 0.

    The rate rises linearly from 0 over the share `warmup` of the epochs. Then `step` multiplies it by `gamma` every
    `step_size` epochs; `cosine` and `linear` bring it to 0 at the end.
    Source of the cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """

    schedule: str  # step | cosine | linear
    epochs: int
    steps: int  # in an epoch
    warmup: float = 0.0
    step_size: int = 7
    gamma: float = 0.1

    def __call__(self, step: int) -> float:
        epoch, step_in_epoch = divmod(step, self.steps)
        now, rising = epoch + step_in_epoch / self.steps, self.warmup * self.epochs
        if now < rising:
            return now / rising
        remaining = 1 - (now - rising) / (self.epochs - rising)  # from 1 to 0
        if self.schedule == "step":
            return self.gamma ** (epoch // self.step_size)
        return (1 - math.cos(math.pi * remaining)) / 2 if self.schedule == "cosine" else remaining


def make_scheduler(optimizer: optim.Optimizer, rates: RateSchedule) -> tuple[lr_scheduler.LRScheduler, str]:
    """A scheduler for `rates`, and its interval: "epoch" or "step".

    The published schedule, steps without a warm-up, is torch's `StepLR`; any other is a `LambdaLR`.
    """
    if rates.schedule == "step" and not rates.warmup:
        return lr_scheduler.StepLR(optimizer, step_size=rates.step_size, gamma=rates.gamma), "epoch"
    return lr_scheduler.LambdaLR(optimizer, rates), "step"
