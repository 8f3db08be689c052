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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler, swa_utils

from tinyclf.training.checkpoint import digest

Texts = dict[str, str | None]
INSTALLED = (Path(torch.__file__).parents[1], Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
SHORT = ("torch.nn.modules.", "torch.optim.", "torchvision.", "tinyclf.")  # whose classes are told without their module
# Of libraries, whose objects are told with their attributes: those of others may move on, as a log or a progress bar
STILL = ("torchvision.", "tinyclf.models.", "tinyclf.training.")
# Attributes that change while a scheduler steps
MOVING = {
    *("optimizer", "last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "base_lrs"),
    *("T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "mode_worse"),
}
# Of an optimizer's options, how a step is computed, and not what
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
# Where torch keeps the hooks of modules, parameters and optimizers
HOOKS = (
    *("_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_post_accumulate_grad_hooks"),
    *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
)
LARGE = 10**7  # numbers of a tensor, from which on it is told by its shape alone
FIRST: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()  # buffers of own modules, before they trained


def canonical(value: Any, names: Mapping[int, str] = types.MappingProxyType({})) -> str:
    """The text of a value: the call that makes it, as far as a reader can tell. names: of values told by them alone."""
    return Canonical(dict(names))(value)


@dataclass
class Canonical:
    """Makes the texts of values that belong together."""

    known: dict[int, str]  # what a value is called that was told already, by its id
    kept: list[Any] = field(default_factory=list)  # these values, so that no others get their ids

    def __call__(self, value: Any) -> str:
        """The text of `value`; where it comes again, its type."""
        if id(value) in self.known:
            return self.known[id(value)]
        is_name = isinstance(value, enum.Enum) or (isinstance(value, type) and is_library(value.__module__))
        if hasattr(value, "__dict__") and not is_name:
            self.known[id(value)] = f"the same {getattr(value, '__qualname__', type(value).__name__)}"
            self.kept.append(value)
        return next(text for kind, text in KINDS if isinstance(value, kind))(self, value)

    def attributes(self, values: Mapping[Any, Any]) -> str:
        """Names and values, sorted by name."""
        return ", ".join(f"{name}={self(values[name])}" for name in sorted(values, key=str))

    def of_class(self, value: type) -> str:
        """Its name; with a hash of its code, and of the classes that it is made of, where that is not a library's."""
        name = value.__name__ if value.__module__.startswith(SHORT) else f"{value.__module__}.{value.__qualname__}"
        own = [base for base in value.__mro__ if not is_library(base.__module__)]
        members = {f"{base.__qualname__}.{key}": item for base in own for key, item in vars(base).items()}
        told = {key: item for key, item in members.items() if ".__" not in key or isinstance(item, types.FunctionType)}
        return f"{name} {sha(self.attributes(told))}" if own else name

    def of_function(self, value: types.FunctionType, kinds: Any = object) -> str:
        """Its name and what it captured, of these kinds; with a hash of its code where that is not a library's."""
        name, codes = f"{value.__module__}.{value.__qualname__}", [*with_inner(value.__code__)]
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        captured = {key: cell.cell_contents for key, cell in cells}
        if is_library(value.__module__):
            return f"{name}({self.attributes(captured)})" if captured else name
        steps = [step for code in codes for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
        captured |= {step.argval: value.__globals__[step.argval] for step in steps if step.argval in value.__globals__}
        captured |= {"defaults": value.__defaults__, **(value.__kwdefaults__ or {})}
        captured = {key: item for key, item in captured.items() if isinstance(item, kinds)}
        return f"{name} {sha(*map(bytecode, codes))}({self.attributes(captured)})"

    def of_module(self, value: nn.Module) -> str:
        """A line for each layer."""
        layers = {"": value} if isinstance(value, swa_utils.AveragedModel) else dict(value.named_modules())
        return "\n".join(f"{name}: {self.of_layer(layer)}".removeprefix(": ") for name, layer in layers.items())

    def of_layer(self, value: nn.Module) -> str:
        """Class, public attributes, parameters, hooks; of losses and own classes the first values of buffers too."""
        name = value._get_name() if type(value).__module__.startswith("tinyclf.") else self(type(value))
        hidden = (key for key, item in vars(value).items() if key[0] == "_" or item is None or item is False)
        said = {key: vars(value)[key] for key in vars(value).keys() - {"training", *hidden}}
        texts = [f"{name}({self.attributes(said).replace('[1, 1]', '1')})"]
        for key, each in value.named_parameters(recurse=False):
            texts += [f"{key} {tensor(each)}", *self.hooks(each)]
        texts += self.hooks(value)
        buffers = [f"{name} {tensor(each)}" for name, each in value.named_buffers(recurse=False)]
        if is_library(type(value).__module__):
            return ", ".join(texts + buffers * isinstance(value, nn.modules.loss._Loss))
        return ", ".join(texts + FIRST.setdefault(value, buffers))

    def hooks(self, value: Any) -> list[str]:
        """Each by name; of a function its code and the values that stay: what it collects in others is not told."""
        texts = []
        for kept in HOOKS:
            for hook in (getattr(value, kept, None) or {}).values():
                is_plain = isinstance(hook, types.FunctionType)
                told = self.of_function(hook, (int, float, str, tuple, types.FunctionType)) if is_plain else ""
                texts.append(f"hooked by {told or getattr(hook, '__qualname__', type(hook).__name__)}")
        return texts

    def of_optimizer(self, value: Optimizer) -> str:
        """The class with its defaults, and what its parameter groups have other than these.

        A group's learning rate is the one that it started from: a scheduler keeps that as `initial_lr`.
        """
        defaults = {name: item for name, item in value.defaults.items() if name not in IMPLEMENTATION}
        groups = []
        for group in value.param_groups:
            options = group | {"lr": group.get("initial_lr", group["lr"])}
            told = options.keys() - {*IMPLEMENTATION, "params", "initial_lr"}
            told -= {"momentum", "betas"} if "max_momentum" in group else set()  # a scheduler moves them between limits
            changed = {name: options[name] for name in told if options[name] != defaults.get(name)}
            groups.append(f"{len(group['params'])} tensors with {self.attributes(changed)}" if changed else "")
        text = f"{self(type(value))}({self.attributes(defaults)})"
        text += f", groups: {'; '.join(group or 'the defaults' for group in groups)}" if any(groups) else ""
        return ", ".join([text, *self.hooks(value)])

    def of_scheduler(self, value: lr_scheduler.LRScheduler) -> str:
        """The class with what does not move; functions that are the same for all groups are told once."""
        values = {name: item for name, item in vars(value).items() if name not in MOVING}
        if (functions := values.get("lr_lambdas")) and all(each is functions[0] for each in functions):
            values["lr_lambdas"] = functions[:1]
        return f"{self(type(value))}({self.attributes(values)})"

    def of_object(self, value: Any) -> str:
        """The class with its public attributes, of most libraries' objects the class alone."""
        if not hasattr(value, "__dict__"):
            return re.sub(" at 0x[0-9a-f]+", "", repr(value))
        name, module = self(type(value)), type(value).__module__
        public = {key: item for key, item in vars(value).items() if key[0] != "_"}
        return name if is_library(module) and not module.startswith(STILL) else f"{name}({self.attributes(public)})"


KINDS: tuple[tuple[Any, Callable[[Canonical, Any], str]], ...] = (
    (float, lambda _, value: f"{value:.12g}"),
    (types.NoneType | str | int | enum.Enum, lambda _, value: str(value)),
    (types.ModuleType | torch.device, lambda _, value: type(value).__name__),
    (Tensor, lambda _, value: tensor(value)),
    (list | tuple, lambda tell, value: f"[{', '.join(map(tell, value))}]"),
    (set | frozenset, lambda tell, value: f"{{{', '.join(sorted(map(tell, value)))}}}"),
    (Mapping, lambda tell, value: f"{{{tell.attributes(value)}}}"),
    (staticmethod | classmethod, lambda tell, value: tell(value.__func__)),
    (functools.partial, lambda tell, value: f"{tell(value.func)}({tell(value.args)}, {tell(value.keywords)})"),
    (types.MethodType, lambda tell, value: f"{tell(value.__self__)}.{tell(value.__func__)}"),
    (types.FunctionType, Canonical.of_function),
    (type, Canonical.of_class),
    (nn.Module, Canonical.of_module),
    (Optimizer, Canonical.of_optimizer),
    (lr_scheduler.LRScheduler, Canonical.of_scheduler),
    (object, Canonical.of_object),
)


@functools.cache
def is_library(module: str | None) -> bool:
    """Whether a module is installed beside torch, Python's or ours, and not the user's own code."""
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    return module not in (None, "__main__") and not (file and not any(map(Path(file).is_relative_to, INSTALLED)))


def tensor(value: Tensor) -> str:
    """Shape and type of a tensor, and a hash of its content where it does not train; a single number as such."""
    text = f"{'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
    if value.requires_grad or value.is_meta or value.numel() >= LARGE:
        return text
    return f"{text} constant {digest({'': value.detach().cpu()})[:8]}" if value.ndim else f"{value.item():.12g}"


def with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of those within it."""
    yield code
    for part in code.co_consts:
        yield from with_inner(part) if isinstance(part, types.CodeType) else ()


def bytecode(code: types.CodeType) -> str:
    """What code computes: instructions, names and constants, without those of functions within it and its place."""
    constants = [part for part in code.co_consts if not isinstance(part, types.CodeType)]
    texts = [sorted(map(repr, part)) if isinstance(part, frozenset) else repr(part) for part in constants]
    return f"{code.co_code.hex()} {code.co_names} {code.co_freevars} {texts}"


def sha(*texts: str) -> str:
    """The start of the sha256 of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def headlines(texts: Texts) -> Texts:
    """The first line of each text."""
    return {name: text and text.partition("\n")[0] for name, text in texts.items()}


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What differs between two tables of values or texts, and how: of a long text, the first line that differs."""
    found: dict[str, tuple[str, str]] = {}
    for name in now | before:
        lines = zip_longest(*(str(values.get(name)).splitlines() or [""] for values in (before, now)))
        for old, new in list(lines)[::-1]:
            found |= {name: (str(old), str(new))} if old != new else {}
    return found
