"""The optimizer, its learning rate from step to step, and the average of the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

# The parts of torchvision's ResNet from the head to the image, for learning rates that fall from one to the next.
DEPTHS = {"fc": 0, "layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "bn1": 5, "conv1": 5}


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    momentum: float,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
) -> optim.SGD:
    """SGD over all parameters of `model`. Without weight decay and layer decay it has one group, as plain PyTorch.

    weight_decay leaves out norms and biases. layer_decay: the learning rate of the head is `learning_rate`, and from
    each part of a ResNet to the one before it the rate is multiplied by this factor.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = weight_decay if parameter.ndim > 1 else 0.0
        rate = learning_rate * layer_decay ** DEPTHS.get(name.partition(".")[0], 0)
        groups.setdefault((decay, rate), []).append(parameter)
    return SGD(
        [{"params": parameters, "weight_decay": decay, "lr": rate} for (decay, rate), parameters in groups.items()],
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
    )


class SGD(optim.SGD):
    """torch's SGD, which on a GPU updates the parameters of all groups at once.

    torch does so group by group, which costs a GPU that waits for its next operation more than the arithmetic. The
    results are torch's but for rounding, the state is torch's own. A CPU, a single group, and fp16, whose scale torch
    takes into account, keep to torch's step.
    """

    def step(self, closure: Any = None) -> Any:
        """Update all parameters, once; see `torch.optim.SGD.step`."""
        scaled = getattr(self, "grad_scale", None) is not None
        if closure is None and not scaled and len(self.param_groups) > 1 and self._can_step_at_once():
            return self._step_at_once()
        return super().step(closure)

    def _can_step_at_once(self) -> bool:
        """Whether on a GPU all have a gradient, and groups differ in rate and in whether they decay alone."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if parameters[0].device.type == "cpu" or any(parameter.grad is None for parameter in parameters):
            return False
        names = ("momentum", "nesterov", "dampening", "maximize")
        common, *others = {tuple(group[name] for name in names) for group in self.param_groups}
        decays = {group["weight_decay"] for group in self.param_groups} - {0}
        return not others and bool(common[0]) and not any(common[2:]) and len(decays) < 2

    @torch.no_grad()
    def _step_at_once(self) -> None:
        values = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        parameters = [parameter for parameter, _ in values]
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]
        rates, momentum = [-float(group["lr"]) for _, group in values], self.param_groups[0]["momentum"]
        for parameter in parameters:
            if self.state[parameter].get("momentum_buffer") is None:  # torch starts with the first gradient: the same
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        if decaying := [parameter for parameter, group in values if group["weight_decay"]]:
            decay = max(group["weight_decay"] for group in self.param_groups)
            torch._foreach_add_([parameter.grad for parameter in decaying], decaying, alpha=decay)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        if self.param_groups[0]["nesterov"]:
            torch._foreach_add_(gradients, buffers, alpha=momentum)
            torch._foreach_mul_(gradients, rates)
        else:
            gradients = list(torch._foreach_mul(buffers, rates))
        torch._foreach_add_(parameters, gradients)


def update(optimizer: optim.Optimizer) -> None:
    """`optimizer.step()`, around what torch's fused SGD does slowly, or not at all."""
    start_momenta(optimizer)
    with filters_as_they_lie(optimizer):
        optimizer.step()


def start_momenta(optimizer: optim.Optimizer) -> None:
    """Give parameters that get their first gradient a momentum of 0, where torch's SGD is fused and has no dampening.

    The step then makes it the gradient, as SGD does that is not fused. Without, torch (2.15) raises TypeError where
    others have a momentum already, as when a layer joins the training later. And it leaves the new momentum as memory
    held it, where a step in fp16 is skipped for an overflow.
    """
    for group in optimizer.param_groups:
        if isinstance(optimizer, optim.SGD) and group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@contextmanager
def filters_as_they_lie(optimizer: optim.Optimizer) -> Iterator[None]:
    """While torch's fused SGD updates the weights on a CPU, show it filters in channels-last memory as (C', H, W, C).

    Such a tensor is contiguous, and no number changes. But torch (2.15) copies each gradient that is not contiguous,
    and does not use the copy: on one core, the update of ResNet18 takes 20 ms with it, and 10 without. Other
    optimizers, and those with hooks, may look at the axes: they see them as usual.
    """
    seen = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    plain = type(optimizer) in (optim.SGD, SGD) and not seen
    filters = []
    for group in optimizer.param_groups if plain else []:
        for parameter in group["params"] if group["fused"] else []:
            tensors = [parameter.data, parameter.grad, optimizer.state.get(parameter, {}).get("momentum_buffer")]
            last = all(x is None or x.is_contiguous(memory_format=torch.channels_last) for x in tensors)
            if parameter.ndim == 4 and parameter.device.type == "cpu" and parameter.grad is not None and last:
                filters.append((parameter, parameter.data, parameter.grad))

    def show(order: tuple[int, ...], back: bool) -> None:
        """It can be called again where it was interrupted."""
        for parameter, data, grad in filters:
            parameter.grad = None  # it must have the shape of the data at any time
            parameter.data = data if back else data.permute(order)
            parameter.grad = grad if back else grad.permute(order)
            buffer = optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None and (buffer.shape, buffer.stride()) != (parameter.shape, parameter.stride()):
                optimizer.state[parameter]["momentum_buffer"] = buffer.permute(order)

    last_to_first = (0, 3, 1, 2)
    try:
        show((0, 2, 3, 1), back=False)
        yield
    finally:
        try:
            show(last_to_first, back=True)
        except KeyboardInterrupt:
            show(last_to_first, back=True)
            raise


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


class ExponentialMovingAverage(AveragedModel):
    """The exponential moving average of a model's weights and batch statistics; `module` is the averaged model.

    decay: the share that each step keeps of the average. The first steps keep less, (1 + n) / (10 + n) after n steps,
    so that the average soon forgets the weights that it started from.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay
        self._kept: Pairs | None = None  # those of the model that was taken in last

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in `model` after a step. All tensors are updated at once: one call for each would cost a GPU more."""
        self.n_averaged += 1
        steps = int(self.n_averaged)  # on the CPU, so that this does not wait for a GPU
        if self._kept is None or not self._kept.are_current(model):
            self._kept = Pairs(self.module, model)
        kept, share = self._kept, 1 - min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(kept.averages, kept.values, share)
        if kept.counters:
            torch._foreach_copy_(kept.average_counters, kept.counters)


class Pairs:
    """The tensors of an average and of the model it is of, kept: to walk through both takes longer than to update."""

    def __init__(self, average: nn.Module, model: nn.Module) -> None:
        self.model = model
        self.places = [*places(average), *places(model)]
        self.tensors = [kept[name] for kept, name in self.places]
        half = len(self.tensors) // 2
        pairs = {id(pair[1]): pair for pair in zip(self.tensors[:half], self.tensors[half:], strict=True)}  # each once
        floating = [pair for pair in pairs.values() if pair[1].is_floating_point()]
        counters = [pair for pair in pairs.values() if not pair[1].is_floating_point()]  # of batches
        self.averages, self.values = [pair[0] for pair in floating], [pair[1] for pair in floating]
        self.average_counters, self.counters = [pair[0] for pair in counters], [pair[1] for pair in counters]

    def are_current(self, model: nn.Module) -> bool:
        """Whether these are still the tensors of both models, and the model is the same."""
        return model is self.model and all(
            kept[name] is tensor for (kept, name), tensor in zip(self.places, self.tensors, strict=True)
        )


def places(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where a model has its parameters and buffers: each in a dictionary of one of its modules, by a name."""
    kept = [each for module in model.modules() for each in (module._parameters, module._buffers)]
    return [(each, name) for each in kept for name, tensor in each.items() if tensor is not None]
