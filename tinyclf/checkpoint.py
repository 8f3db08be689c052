"""The state of a run between two epochs: one safetensors file, written beside and renamed, read without pickles.

It holds the weights (`model.*`), the momenta (`momentum.*`), the average of the weights where there is one
(`average.*`) and, as JSON, what the run is and its history; a sha256 covers all of it. The file before it stays as
`<name>.previous.safetensors`, to be used should the newer one be damaged.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tinyclf.errors import TinyclfError
from tinyclf.optim import Average

DAMAGE = (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError)  # what a broken file may raise


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds, read and found undamaged."""

    path: Path
    about: dict[str, Any]  # what `save` was told about the run
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state dict of the model to be used: the average of the weights where there is one."""
        return self.part("average.") or self.part("model.")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_suffix(".previous.safetensors")


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    about: dict[str, Any],
    average: Average | None = None,
) -> None:
    """Write weights, momenta, average and `about`.

    Whatever happens meanwhile, a whole checkpoint stays at `path` or before it. Raises TinyclfError when it cannot be
    written, with the old ones as they were.
    """
    tensors = {f"model.{name}": value.cpu().contiguous() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        # There is none before the first step, nor in SGD without momentum
        momentum = optimizer.state[parameter].get("momentum_buffer") if optimizer else None
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum.cpu().contiguous()
    for name, value in average.values.items() if average else ():
        tensors[f"average.{name}"] = value.cpu().contiguous()
    text, beside = json.dumps(about), path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={"about": text, "sha256": digest(text, tensors)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # so that not even a power cut leaves a renamed file with holes
        if path.exists():
            os.replace(path, previous(path))
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise TinyclfError(f"could not write the checkpoint {path} ({error}): is the disk full?") from error
    finally:
        beside.unlink(missing_ok=True)


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    """sha256 over the text and over name, type, shape and bytes of every tensor, hexadecimal."""
    found = hashlib.sha256(text.encode())
    for name, each in sorted(tensors.items()):
        found.update(f"{name} {each.dtype} {tuple(each.shape)}".encode())
        found.update(each.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read(path: Path) -> Saved:
    """The checkpoint at `path`. Raises TinyclfError if it is truncated or a bit of it was flipped."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
            metadata = file.metadata()
        if "sha256" not in metadata:
            raise ValueError("it has no checksum, as those of tinyclf before November 2026")
        if digest(metadata["about"], tensors) != metadata["sha256"]:
            raise ValueError("its content is not what was written")
        return Saved(path, json.loads(metadata["about"]), tensors)
    except DAMAGE as error:
        raise TinyclfError(f"the checkpoint {path} is damaged: {error}") from error


def newest(path: Path, report: Callable[[str], None] = print) -> Saved | None:
    """The checkpoint at `path`, or the one before it if that is damaged or missing; None if there is neither.

    report: called with a line that names a damaged one. Raises TinyclfError if none of those there can be used.
    """
    damage = []
    for candidate in filter(Path.is_file, (path, previous(path))):
        try:
            saved = read(candidate)
        except TinyclfError as error:
            damage.append(str(error))
            continue
        for line in damage:
            report(f"{line}; going on from the one before it")
        return saved
    if damage:
        raise TinyclfError(f"{'; '.join(damage)}: delete it, and the run starts again")
    return None


def restore(
    saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer | None, average: Average | None = None
) -> None:
    """Put weights and, given an optimizer and an average, momenta and that in place.

    Without an optimizer, `model` gets the weights to be used. Raises TinyclfError where they do not fit it.
    """
    try:
        model.load_state_dict(saved.part("model.") if optimizer else saved.weights)
    except RuntimeError as error:
        raise TinyclfError(f"the checkpoint {saved.path} is of another model: {error}") from error
    for name, parameter in model.named_parameters():
        momentum = saved.tensors.get(f"momentum.{name}")
        if optimizer and momentum is not None:  # in its parameter's memory layout, as a fused step takes for granted
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).detach().copy_(momentum)
    if average:
        for name, value in (saved.part("average.") or saved.part("model.")).items():
            average.values[name].copy_(value)


def delete(path: Path) -> None:
    """Remove the checkpoint at `path` and the one before it."""
    for each in (path, previous(path)):
        each.unlink(missing_ok=True)
