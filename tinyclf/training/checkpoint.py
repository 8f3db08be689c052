"""The checkpoints of a run: the state between two epochs as one safetensors file, read without pickles.

Its tensors are the state dicts of model, optimizer, scheduler and average (`model.*`, `optimizer.*`, `scheduler.*`,
`ema.*`). Its metadata holds, as JSON, the rest of those state dicts and what the run is, with its history; a sha256
covers all of it. The file before it stays as `<name>.previous.safetensors`, for when the newer one is damaged.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from tinyclf.utils.errors import NewerVersionError, TinyclfError
from tinyclf.utils.files import atomic_write

VERSION = 1  # raise it when an older tinyclf could not go on from a checkpoint; those of before have none
# What a broken file may raise
DAMAGE = (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError, AttributeError, RecursionError)
PARTS = ("model", "optimizer", "scheduler", "ema", "scaler")


@dataclass
class TrainingState:
    """What changes while a model trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None = None
    ema: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None  # of fp16

    @property
    def trained_model(self) -> nn.Module:
        """The model to evaluate and to use: the average where there is one."""
        return self.ema.module if self.ema else self.model


@dataclass(frozen=True)
class Saved:
    """What an undamaged checkpoint holds."""

    path: Path
    about: dict[str, Any]  # what `save` was told about the run
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # the state dicts, with the names of their tensors for the tensors
    time: float  # when it was written, in seconds since 1970

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state dict of the trained model: the average of the weights where there is one."""
        return self.part("ema.module.") or self.part("model.")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_suffix(".previous.safetensors")


def unfinished(path: Path) -> Path:
    """Where a new checkpoint is until it takes its final name."""
    return path.with_suffix(".new")


def save(path: Path, state: TrainingState, about: dict[str, Any]) -> None:
    """Write `state` and `about`. At every moment `path` or the one before it is a whole checkpoint.

    Raises TinyclfError when it cannot be written, with the old ones as they were.
    """
    tensors: dict[str, Tensor] = {}
    parts = {name: getattr(state, name) for name in PARTS if getattr(state, name) is not None}
    tree = {name: flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
    metadata = {"about": json.dumps(about), "state": json.dumps(tree), "time": repr(time.time())}
    metadata["version"] = str(VERSION)
    metadata["sha256"] = digest("".join(metadata.values()), tensors)
    new = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # As bytes: safetensors' own files could be read by nobody but their owner, and stay where it is killed
        atomic_write(new, serialized(tensors, metadata))
        if path.exists():
            os.replace(path, previous(path))
        os.replace(new, path)
    except OSError as error:
        raise TinyclfError(f"could not write the checkpoint {path} ({error}): is the disk full?") from error


def flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it; its tensors go into `tensors`, by names that start with `name`.

    JSON has no tuples and no keys but text, so that containers say what they are. Raises TinyclfError for anything
    but tensors, numbers, text, None and lists, tuples and dicts of them.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, flatten(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [flatten(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TinyclfError(f"a checkpoint cannot hold {name}, a {type(value).__name__}: use tensors, numbers and text")


def unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `flatten` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in content}
    items = [unflatten(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    """sha256 over the text and over name, type, shape and bytes of every tensor, hexadecimal."""
    total = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def read(path: Path) -> Saved:
    """The checkpoint at `path`. Raises TinyclfError if it is cut short or a bit of it was flipped."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        if not {"about", "state", "sha256"} <= metadata.keys():
            raise ValueError("it is no checkpoint of this version of tinyclf")
        covered = "".join(metadata.get(key, "") for key in ("about", "state", "time", "version"))
        if digest(covered, tensors) != metadata["sha256"]:  # so in every version
            raise ValueError("its content is not what was written")
        if int(metadata.get("version", VERSION)) > VERSION:
            raise NewerVersionError(
                f"the checkpoint {path} is of version {metadata['version']}, and this tinyclf reads up to {VERSION}: "
                "use the tinyclf that wrote it, or a newer one"
            )
        about, state = json.loads(metadata["about"]), json.loads(metadata["state"])
        if not (isinstance(about["history"], list) and state.keys() <= set(PARTS)):
            raise ValueError("it has no history, or holds more than a run does")
        written = float(metadata.get("time") or path.stat().st_mtime)  # older ones do not say when
        return Saved(path, about, tensors, state, written)
    except DAMAGE as error:
        raise TinyclfError(f"the checkpoint {path} is damaged: {error}") from error


def newest(path: Path, report: Callable[[str], None] = print) -> Saved | None:
    """The checkpoint at `path`, or the one before it if that is damaged or missing; None if there is neither.

    report: called with a line that names a damaged one. Raises TinyclfError if there are checkpoints and none of them
    can be used, and for one of a newer version of tinyclf.
    """
    damage = []
    for candidate in filter(Path.is_file, (path, previous(path))):
        try:
            saved = read(candidate)
        except NewerVersionError:
            raise
        except TinyclfError as error:
            damage.append(str(error))
            continue
        for line in damage:
            report(f"{line}; going on from the one before it")
        return saved
    if damage:
        raise TinyclfError(f"{'; '.join(damage)}: delete it, and the run starts again")
    return None


def restore(saved: Saved, state: TrainingState) -> None:
    """Load the state dicts into `state`. Raises TinyclfError where they do not fit, naming the part."""
    for name, value in saved.state.items():
        try:
            getattr(state, name).load_state_dict(unflatten(value, saved.tensors))
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise TinyclfError(f"the checkpoint {saved.path} is of another {name}: {error}") from error
    for parameter, values in state.optimizer.state.items():
        for name, value in values.items():  # in its parameter's memory layout, which a step takes for granted
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).detach().copy_(value)


def delete(path: Path) -> None:
    """Remove the checkpoint at `path` and the one before it."""
    for file in (path, previous(path), unfinished(path)):
        file.unlink(missing_ok=True)
