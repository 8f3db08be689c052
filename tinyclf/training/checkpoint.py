"""The checkpoint of a run: the state between two epochs, read without executing pickles.

The file is what `torch.save` writes, followed by the sha256 of that. It is replaced as a whole after each epoch.
"""

import hashlib
import io
import json
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils
from torch.serialization import get_unsafe_globals_in_checkpoint

from tinyclf.utils.errors import NewerVersionError, TinyclfError
from tinyclf.utils.files import atomic_write, is_there

VERSION = 2  # raise it when an older tinyclf could not go on from a checkpoint; 1 was in safetensors
SHA256 = hashlib.sha256().digest_size  # bytes


@dataclass
class TrainingState:
    """What changes while a model trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: lr_scheduler.LRScheduler | None = None
    ema: swa_utils.AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    criterion: nn.Module | None = None

    def parts(self) -> dict[str, Any]:
        """What has a state, by name. A loss without weights and buffers has none."""
        return {name: part for name, part in vars(self).items() if part is not None and part.state_dict()}

    @property
    def trained_model(self) -> nn.Module:
        """The model to evaluate and to use: the average where there is one."""
        return self.ema.module if self.ema else self.model


@dataclass(frozen=True)
class Saved:
    """What an undamaged checkpoint holds."""

    path: Path
    about: dict[str, Any]  # what `save` was told about the run, with its history
    state: dict[str, Any]  # the state dicts of the parts of TrainingState, by name
    time: float  # when it was written, in seconds since 1970

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state dict of the trained model: the average of the weights where there is one."""
        if "ema" not in self.state:
            return dict(self.state["model"])
        ema = self.state["ema"]
        return {name.removeprefix("module."): ema[name] for name in ema if name.startswith("module.")}


def save(path: Path, state: TrainingState, about: dict[str, Any]) -> None:
    """Write `state` and `about`. At every moment `path` is a whole checkpoint, the last one or this.

    Raises TinyclfError when it cannot be written, and for a state dict with more than tensors, numbers, text and
    containers of them.
    """
    parts = {name: part.state_dict() for name, part in state.parts().items()}
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "about": json.dumps(about), "state": parts, "time": time.time()}, buffer)
    buffer.seek(0)
    if unsafe := get_unsafe_globals_in_checkpoint(buffer):
        raise TinyclfError(f"a checkpoint cannot hold {', '.join(unsafe)}: use tensors, numbers and text")
    content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content + hashlib.sha256(content).digest())


def read(path: Path) -> Saved | None:
    """The checkpoint at `path`; None where there is none.

    Raises TinyclfError if it is cut short or a bit of it was flipped, and for one of a newer version of tinyclf.
    """
    if not is_there(path):
        return None
    try:
        content = path.read_bytes()
        written, expected = content[:-SHA256], content[-SHA256:]
        if hashlib.sha256(written).digest() != expected:
            raise ValueError("its content is not what was written")
        held = torch.load(io.BytesIO(written), "cpu", weights_only=True)
        if (version := held["version"]) <= VERSION:
            return Saved(path, json.loads(held["about"]), held["state"], held["time"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise TinyclfError(f"checkpoint {path} is damaged ({error}): delete it, and the run starts again") from error
    raise NewerVersionError(
        f"{path} has version {version}, and this tinyclf reads {VERSION}: use the one that wrote it"
    )


def restore(saved: Saved, state: TrainingState) -> None:
    """Load the state dicts into `state`. Raises TinyclfError where they do not fit or one is missing, naming it."""
    parts = state.parts()
    for name in sorted(parts.keys() | saved.state.keys()):
        try:
            parts[name].load_state_dict(saved.state[name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TinyclfError(f"the checkpoint {saved.path} is of another {name}: {error}") from error


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over name, type, shape and bytes of every tensor, hexadecimal."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
