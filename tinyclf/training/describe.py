"""What a model, a loss, an optimizer and a scheduler are, in words: for records, and to tell them from others."""

import functools
import hashlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

# Attributes that change while a scheduler steps
MOVING = {
    *("optimizer", "last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "base_lrs"),
    *("T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "mode_worse"),
}
PLAIN = (bool, int, float, str, list, tuple)
# How a step is computed, and not what
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}


def describe(
    model: nn.Module,
    criterion: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler | None,
    interval: str,
    ema: AveragedModel | None,
    before_step: Any = None,
) -> dict[str, str | None]:
    """The recipe in words: model, criterion, optimizer, scheduler, ema, before_step; the last three may be None.

    Objects of the same class with the same constants give the same words, however far they have trained.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": f"{type(model).__name__}, {count:,} parameters",
        "criterion": describe_object(criterion, skip={"training"}),
        "optimizer": describe_optimizer(optimizer),
        "scheduler": f"{describe_object(scheduler, skip=MOVING)} each {interval}" if scheduler else None,
        "ema": describe_object(ema, skip={"training", "module"}) if ema else None,
        "before_step": describe_function(before_step) if before_step else None,
    }


def describe_function(function: Any) -> str:
    """A function by its name, an object by its class with its public numbers, texts and lists; not what it works on."""
    if hasattr(function, "__qualname__"):
        return describe_object(function)
    public = {name: value for name, value in vars(function).items() if not name.startswith("_")}
    plain = {name: value for name, value in public.items() if isinstance(value, PLAIN)}
    return f"{type(function).__name__}({attributes(plain)})"


def describe_object(value: Any, skip: Collection[str] = ()) -> str:
    """A value as the call that makes it: its class with its attributes, sorted; a function by its name."""
    if isinstance(value, Tensor):
        return f"tensor {hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:8]}"
    if isinstance(value, functools.partial):
        return f"{describe_object(value.func)}({attributes(value.keywords)})"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        items = dict.fromkeys(describe_object(item, skip) for item in value)  # equal ones, of all groups, are told once
        return f"[{', '.join(items)}]"
    if value is None or isinstance(value, bool | int | str | dict):
        return str(value)
    if hasattr(value, "__qualname__"):  # a function or a class
        return f"{value.__module__}.{value.__qualname__}"
    values = {name: item for name, item in vars(value).items() if name not in skip}
    if isinstance(value, nn.Module):
        values = {name: item for name, item in values.items() if not name.startswith("_") and item is not None}
        values |= dict(value.named_buffers(recurse=False))
        values.pop("n_averaged", None)
    return f"{type(value).__name__}({attributes(values, skip)})"


def attributes(values: dict[str, Any], skip: Collection[str] = ()) -> str:
    """Names and values, sorted by name."""
    return ", ".join(f"{name}={describe_object(value, skip)}" for name, value in sorted(values.items()))


def describe_optimizer(optimizer: torch.optim.Optimizer) -> str:
    """The class with its defaults, and what its parameter groups have other than these.

    A group's learning rate is the one that it started from: a scheduler keeps that as `initial_lr`.
    """
    defaults = {name: value for name, value in optimizer.defaults.items() if name not in IMPLEMENTATION}
    groups = []
    for group in optimizer.param_groups:
        extra = {name: value for name, value in group.items() if name not in optimizer.defaults and name != "params"}
        rate = extra.pop("initial_lr", group["lr"])
        changed = {"lr": rate, "weight_decay": group.get("weight_decay")} | extra
        changed = {name: value for name, value in changed.items() if value != defaults.get(name)}
        groups.append(f"{len(group['params'])} tensors with {attributes(changed)}" if changed else "")
    text = f"{type(optimizer).__name__}({attributes(defaults)})"
    return text if not any(groups) else f"{text}, groups: {'; '.join(group or 'the defaults' for group in groups)}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two descriptions, as text."""
    return [f"{name}: {before.get(name)} before, {now[name]} now" for name in now if before.get(name) != now[name]]
