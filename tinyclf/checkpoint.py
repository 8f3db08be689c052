"""The state of a run between two epochs: one safetensors file, written beside and renamed, read without pickles."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tinyclf.errors import TinyclfError

DAMAGE = (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError)  # what a broken file may raise


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]) -> None:
    """Write weights (`model.*`), momenta (`momentum.*`) and `about` (JSON); the old file stays until this is whole."""
    tensors = {f"model.{name}": value.cpu().contiguous() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")  # none before the first step, nor without momentum
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum.cpu().contiguous()
    beside = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={"about": json.dumps(about)})
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise TinyclfError(f"could not write the checkpoint {path} ({error}): is the disk full?") from error
    finally:
        beside.unlink(missing_ok=True)


def read_about(path: Path) -> dict[str, Any]:
    """What `save` was told about the run. Raises TinyclfError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
    except DAMAGE as error:
        raise damaged(path, error) from error


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the weights and momenta that `save` wrote back in place. Raises TinyclfError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            model.load_state_dict({name: file.get_tensor(f"model.{name}") for name in model.state_dict()})
            for name, parameter in model.named_parameters():
                if f"momentum.{name}" in file.keys():  # noqa: SIM118 - the file is no mapping
                    momentum = file.get_tensor(f"momentum.{name}").to(parameter.device)
                    optimizer.state[parameter]["momentum_buffer"] = momentum
    except DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> TinyclfError:
    return TinyclfError(f"the checkpoint {path} is damaged ({error}): delete it, and the run starts again")
