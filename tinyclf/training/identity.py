"""What decides a run's numbers, as text: any model, loss, optimizer, scheduler or function, with its own code.

A text is the same in each process, on each device and however far something has trained: of what trains, it has shapes
alone. Of code that is no library's it has a hash of the bytecode, and the values that this captured.
"""

import dis
import enum
import functools
import hashlib
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from tinyclf.training.checkpoint import digest

Texts = dict[str, str | None]
LIBRARIES = {"torch", "torchvision", "tinyclf", "builtins"}
SHORT = ("torch.nn.modules.", "torch.optim.", "torchvision.", "tinyclf.")  # whose classes are told without their module
# Attributes that change while a scheduler steps
MOVING = {
    *("optimizer", "last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "base_lrs"),
    *("T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "mode_worse"),
}
# Of an optimizer's options, how a step is computed, and not what
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
HOOKS = "_(forward|backward)(_pre)?_hooks"
LARGE = 10**7  # numbers of a tensor, from which on it is told by its shape alone
FIRST: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # the buffers of own modules, before they trained


def identify(
    model: nn.Module,
    criterion: Any,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    scheduler_interval: str,
    ema: AveragedModel | None = None,
    before_step: Any = None,
    transform: Any = None,
) -> Texts:
    """The texts of what `Run.fit` takes, by the names of its arguments. The first line of each sums it up."""
    names = {id(optimizer): "the optimizer", id(scheduler): "the scheduler", id(ema): "the average"}
    parts = (*model.named_parameters(), *model.named_modules())
    names |= {id(part): f"the model's {name}".removesuffix("'s ") for name, part in parts}
    count = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": f"{type(model).__name__}, {count:,} parameters\n{canonical(model)}",
        "criterion": Canonical(names)(criterion),
        "optimizer": canonical(optimizer),
        "scheduler": f"{canonical(scheduler)} each {scheduler_interval}" if scheduler else None,
        "ema": canonical(ema) if ema else None,
        "before_step": Canonical(names)(before_step) if before_step else None,
        "transform": Canonical(names)(transform) if transform else None,
    }


def headlines(texts: Texts) -> Texts:
    """The first line of each text."""
    return {name: text and text.partition("\n")[0] for name, text in texts.items()}


def canonical(value: Any) -> str:
    """The text of a value: the call that makes it, as far as a reader can tell."""
    return Canonical()(value)


@dataclass
class Canonical:
    """Makes the texts of values that belong together."""

    names: dict[int, str] = field(default_factory=dict)  # of what is told by a name alone, by their id
    told: dict[int, Any] = field(default_factory=dict)  # what was told already; kept, so that no other gets its id
    captured: bool = False  # whether the value is one that own code works with

    def __call__(self, value: Any) -> str:
        """The text of `value`; where it comes again, its type."""
        if id(value) in self.names:
            return self.names[id(value)]
        if id(value) in self.told:
            return f"the same {getattr(value, '__qualname__', type(value).__name__)}"
        is_name = isinstance(value, enum.Enum) or (isinstance(value, type) and is_library(value.__module__))
        if hasattr(value, "__dict__") and not is_name:
            self.told[id(value)] = value
        return next(text for kind, text in KINDS if isinstance(value, kind))(self, value)

    def attributes(self, values: Mapping[Any, Any]) -> str:
        """Names and values, sorted by name."""
        return ", ".join(f"{name}={self(values[name])}" for name in sorted(values, key=str))

    def of_class(self, value: type) -> str:
        """Its name; with a hash of its code, and of the classes that it is made of, where that is not a library's."""
        name = value.__name__ if value.__module__.startswith(SHORT) else f"{value.__module__}.{value.__qualname__}"
        own = [base for base in value.__mro__ if not is_library(base.__module__)]
        members = [(base, key, getattr(item, "__func__", item)) for base in own for key, item in vars(base).items()]
        told = [member for member in members if member[1][:2] != "__" or isinstance(member[2], types.FunctionType)]
        code = {f"{base.__qualname__}.{key}": item for base, key, item in told}
        return f"{name} {sha(replace(self, captured=True).attributes(code))}" if own else name

    def of_function(self, value: types.FunctionType) -> str:
        """Its name and what it captured; with a hash of its code where that is not a library's."""
        name, codes = f"{value.__module__}.{value.__qualname__}", with_inner(value.__code__)
        captured: dict[str, Any] = {}
        for key, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # it has no value yet
                captured[key] = cell.cell_contents
        if is_library(value.__module__):
            return f"{name}({self.attributes(captured)})" if captured else name
        steps = [step for code in codes for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
        captured |= {step.argval: value.__globals__.get(step.argval) for step in steps}
        captured |= {"defaults": value.__defaults__, **(value.__kwdefaults__ or {})}
        return f"{name} {sha(*map(bytecode, codes))}({replace(self, captured=True).attributes(captured)})"

    def of_module(self, value: nn.Module) -> str:
        """A line for each layer."""
        layers = {"": value} if isinstance(value, AveragedModel) else dict(value.named_modules())
        return "\n".join(f"{name}: {self.of_layer(layer)}".removeprefix(": ") for name, layer in layers.items())

    def of_layer(self, value: nn.Module) -> str:
        """Class, public attributes, parameters, hooks; of losses and own classes the first values of buffers too."""
        library = is_library(type(value).__module__)
        public = {key: item for key, item in vars(value).items() if not key.startswith("_") and key != "training"}
        said = {key: item for key, item in public.items() if item is not None and item is not False}
        told = replace(self, captured=True).attributes(said)
        name = value._get_name() if type(value).__module__.startswith("tinyclf.") else self(type(value))
        text = f"{name}({told.replace('[1, 1]', '1')})"
        text += "".join(f", {name} {tensor(each)}" for name, each in value.named_parameters(recurse=False))
        hooks = [hook for name, each in vars(value).items() if re.fullmatch(HOOKS, name) for hook in each.values()]
        text += "".join(f", hooked by {getattr(hook, '__qualname__', type(hook).__name__)}" for hook in hooks)
        buffers = "".join(f", {name} {tensor(each)}" for name, each in value.named_buffers(recurse=False))
        if library:
            return text + buffers * isinstance(value, nn.modules.loss._Loss)
        return text + FIRST.setdefault(value, buffers)

    def of_optimizer(self, value: Optimizer) -> str:
        """The class with its defaults, and what its parameter groups have other than these.

        A group's learning rate is the one that it started from: a scheduler keeps that as `initial_lr`.
        """
        defaults = {name: item for name, item in value.defaults.items() if name not in IMPLEMENTATION}
        groups = []
        for group in value.param_groups:
            moving = {"momentum", "betas"} if "max_momentum" in group else set()  # by a scheduler, between its limits
            options = group | {"lr": group.get("initial_lr", group["lr"])}
            for name in (*IMPLEMENTATION, *moving, "params", "initial_lr"):
                options.pop(name, None)
            changed = {name: item for name, item in options.items() if item != defaults.get(name)}
            groups.append(f"{len(group['params'])} tensors with {self.attributes(changed)}" if changed else "")
        text = f"{self(type(value))}({self.attributes(defaults)})"
        return text if not any(groups) else f"{text}, groups: {'; '.join(group or 'the defaults' for group in groups)}"

    def of_scheduler(self, value: LRScheduler) -> str:
        """The class with what does not move; functions that are the same for all groups are told once."""
        values = {name: item for name, item in vars(value).items() if name not in MOVING}
        if (functions := values.get("lr_lambdas")) and all(each is functions[0] for each in functions):
            values["lr_lambdas"] = functions[:1]
        return f"{self(type(value))}({self.attributes(values)})"

    def of_object(self, value: Any) -> str:
        """The class with its public attributes, of a library's object that own code works with the class alone."""
        if not hasattr(value, "__dict__"):
            return re.sub(" at 0x[0-9a-f]+", "", repr(value))
        library, name = is_library(type(value).__module__), self(type(value))
        if library and self.captured:  # a log or a progress bar moves on
            return name
        public = {key: item for key, item in vars(value).items() if not key.startswith("_")}
        return f"{name}({replace(self, captured=not library).attributes(public)})"


KINDS: tuple[tuple[Any, Callable[[Canonical, Any], str]], ...] = (
    (float, lambda _, value: f"{value:.12g}"),
    (types.NoneType | str | int | enum.Enum, lambda _, value: str(value)),
    (types.ModuleType | torch.device, lambda _, value: type(value).__name__),
    (Tensor, lambda _, value: tensor(value)),
    (list | tuple, lambda tell, value: f"[{', '.join(map(tell, value))}]"),
    (set | frozenset, lambda tell, value: f"{{{', '.join(sorted(map(tell, value)))}}}"),
    (Mapping, lambda tell, value: f"{{{tell.attributes(value)}}}"),
    (functools.partial, lambda tell, value: f"{tell(value.func)}({tell(value.args)}, {tell(value.keywords)})"),
    (types.MethodType, lambda tell, value: f"{tell(value.__self__)}.{tell(value.__func__)}"),
    (types.FunctionType, Canonical.of_function),
    (type, Canonical.of_class),
    (nn.Module, Canonical.of_module),
    (Optimizer, Canonical.of_optimizer),
    (LRScheduler, Canonical.of_scheduler),
    (object, Canonical.of_object),
)


@functools.cache
def is_library(module: str | None) -> bool:
    """Whether a module is installed or Python's, and not the user's own code."""
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    if module in (None, "__main__") or str(module).partition(".")[0] in LIBRARIES or not file:
        return module not in (None, "__main__")
    installed = {"site-packages", "dist-packages"}.intersection(Path(file).parts)
    return bool(installed) or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def tensor(value: Tensor) -> str:
    """Shape and type of a tensor, and a hash of its content where it does not train; a single number as such."""
    text = f"{'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
    if value.requires_grad or value.is_meta or value.numel() >= LARGE:
        return text
    return f"{text} constant {digest({'': value.detach().cpu()})[:8]}" if value.ndim else f"{value.item():.12g}"


def with_inner(code: types.CodeType) -> list[types.CodeType]:
    """The code of a function and of those within it."""
    inner = [with_inner(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return sum(inner, [code])


def bytecode(code: types.CodeType) -> str:
    """What code computes: instructions, names and constants, without those of functions within it and its place."""
    constants = [part for part in code.co_consts if not isinstance(part, types.CodeType)]
    texts = [sorted(map(repr, part)) if isinstance(part, frozenset) else repr(part) for part in constants]
    return f"{code.co_code.hex()} {code.co_names} {code.co_freevars} {texts}"


def sha(*texts: str) -> str:
    """The start of the sha256 of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What differs between two tables of values or texts, and how: of a long text, the first line that differs."""
    found: dict[str, tuple[str, str]] = {}
    for name in now | before:
        lines = zip_longest(*(str(values.get(name)).splitlines() or [""] for values in (before, now)))
        for old, new in list(lines)[::-1]:
            found |= {name: (str(old), str(new))} if old != new else {}
    return found
