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
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write

VERSION = 2  # raise it when an older tinyclf could not go on from a checkpoint; 1 was in safetensors
SHA256 = hashlib.sha256().digest_size  # bytes


@dataclass(frozen=True)
class Saved:
    """What an undamaged checkpoint holds."""

    path: Path
    about: dict[str, Any]  # what `save` was told about the run, with its history
    state: dict[str, Any]  # the state dicts of a run's parts, by name
    time: float  # when it was written, in seconds since 1970

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state dict of the trained model: the average of the weights where there is one."""
        if "ema" not in self.state:
            return dict(self.state["model"])
        ema = self.state["ema"]
        return {name.removeprefix("module."): ema[name] for name in ema if name.startswith("module.")}


def save(path: Path, parts: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the states of `parts` and `about`. At every moment `path` is a whole checkpoint, the last one or this.

    Raises TinyclfError when it cannot be written, and for a state dict with more than tensors, numbers, text and
    containers of them.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "about": json.dumps(about), "state": state, "time": time.time()}, buffer)
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
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        written, expected = content[:-SHA256], content[-SHA256:]
        if hashlib.sha256(written).digest() != expected:
            raise ValueError("its content is not what was written")
        held = torch.load(io.BytesIO(written), "cpu", weights_only=True)
        if held["version"] > VERSION:
            raise ValueError(f"a later tinyclf wrote it, as version {held['version']}")
        return Saved(path, json.loads(held["about"]), held["state"], held["time"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise TinyclfError(
            f"checkpoint {path} cannot be read ({error}): delete it, and the run starts again"
        ) from error


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over name, type, shape and bytes of every tensor, hexadecimal."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
