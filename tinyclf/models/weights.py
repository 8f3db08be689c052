"""Pretrained weights: their files, and their tensors copied into a model."""

import argparse
import hashlib
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights  # type: ignore[attr-defined] # it is public

from tinyclf.models import standin
from tinyclf.models.choices import FILE, NAMED_WEIGHTS, existing_file, is_file
from tinyclf.models.resnet import compose_filters, head_names, shrink_filters, stem_of
from tinyclf.utils.errors import TinyclfError, one_of

IMAGENET_CLASSES = 1000
AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # in torchvision's files of GoogLeNet and Inception v3
# torchvision's files of DenseNets have `norm.1` for today's `norm1`
REAL = "real numbers"
LFS = b"version https://git-lfs"  # starts what Git LFS leaves in place of a file
# Where training scripts, Lightning and timm keep the state dict within a checkpoint, and what starts its names there
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.", "net.")
DENSE = (Tensor, nn.Parameter)  # others are views with rules of their own, as nested tensors
DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_weights(
    model: nn.Module,
    weights: str,
    *,
    model_name: str = "resnet18",
    stem_init: str = "random",
    fresh_head: bool = False,
) -> None:
    """Copy pretrained weights into a model of `build_model`, in place.

    weights: `none` (nothing is copied), `imagenet` (torchvision's own, through torch's cache), `mini` (see standin.py)
    or the path of a state dict. A head of ImageNet's 1000 classes, or of the classes of `mini`, is left out where the
    model's has another number of them; any head with `fresh_head`; for the stem see `copy_weights`.
    Raises TinyclfError for unknown names, unreadable files, and tensors that do not fit, by name.
    """
    if weights == "none":
        return
    state, head = load_state(weights, model_name), head_names(model)
    classes = {tuple(state[name].shape[:1]) for name in head if name in state}
    own_classes = len(model.state_dict()[head[0]])
    other_head = fresh_head or weights == "mini" or classes == {(IMAGENET_CLASSES,)} != {(own_classes,)}
    copy_weights(model, state, weights, head if other_head else (), stem_init=stem_init)


def copy_weights(
    model: nn.Module, state: dict[str, Tensor], origin: str, fresh: tuple[str, ...] = (), *, stem_init: str = "random"
) -> None:
    """Copy a state dict into `model`, in place.

    origin: what messages call `state`. fresh: the starts of the names of tensors that keep the model's own values.
    stem_init: what another stem takes from one of 7x7: `random`, nothing, or `shrunk`, see `shrink_filters` and
    `compose_filters`.
    Raises TinyclfError naming missing, foreign and misshapen tensors.
    """
    own = model.state_dict()
    if stem_init == "shrunk":
        state = convert_stem(state, stem_of(own), origin)
        fresh = tuple(name for name in fresh if name != "conv1.")
    elif stem_of(state) == "imagenet" != stem_of(own):
        fresh += ("conv1.",)
    own = {name: value for name, value in own.items() if not name.startswith(fresh)}
    state = {name: value for name, value in state.items() if not name.startswith(fresh)}
    if faults := mismatches(own, state) or [fault for name in state if (fault := bad_values(name, state[name]))]:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        head = any(fault.startswith(head_names(model)) for fault in faults)
        more += ". With -p adapt=classes, the head starts afresh" if head else ""
        raise TinyclfError(f"weights {origin!r} do not fit this {type(model).__name__}: {'; '.join(faults[:5])}{more}")
    model.load_state_dict(state, strict=False)


def convert_stem(state: dict[str, Tensor], stem: str, origin: str) -> dict[str, Tensor]:
    """A state dict with the 7x7 filters of its stem made those of a small or sub-pixel one. Raises TinyclfError."""
    if stem_of(state) != "imagenet":
        raise TinyclfError(f"stem_init = 'shrunk': weights {origin!r} have no stem of 7x7 to shrink")
    if (what := kind(state["conv1.weight"])) != REAL:
        raise TinyclfError(f"weights {origin!r}: conv1.weight is of {what}, expected {REAL}")
    filters = state["conv1.weight"].float()
    if stem == "sub-pixel":
        return state | {"conv1.weight": compose_filters(filters)}
    return state | {"conv1.weight": shrink_filters(filters), "conv1.bias": torch.zeros(len(filters))}


def mismatches(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """What of `state` does not fit a model's `own` state dict, a phrase for each tensor.

    The batch counters of batch norm may be missing, as in torchvision's files: no result depends on them.
    """
    faults = []
    if (stem := stem_of(state)) in ("small", "sub-pixel") and stem != stem_of(own):
        faults.append(f"they have a {stem} stem (stem={stem})")
    faults += [f"{name} is missing" for name in own if name not in state and not name.endswith("num_batches_tracked")]
    faults += [f"{name} is not of this model" for name in state if name not in own]
    for name, value in own.items():
        if name in state and state[name].shape != value.shape:
            faults.append(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}")
        elif name in state and kind(state[name]) != kind(value) and not name.endswith("num_batches_tracked"):
            faults.append(f"{name} is of {kind(state[name])}, expected {kind(value)}")
    return faults


def kind(value: Tensor) -> str:
    """The kind of numbers in a tensor, in words; numbers of one kind are copied to others of it as they are."""
    if value.is_floating_point():
        return REAL
    if value.is_complex():
        return "complex numbers"
    return "truth values" if value.dtype == torch.bool else "whole numbers"


def bad_values(name: str, value: Tensor) -> str:
    """What makes a tensor no weights, in words: values that are no finite numbers; empty where there are none."""
    return "" if value.float().isfinite().all() else f"{name} has values that are NaN or infinite"


def load_state(weights: str, model_name: str = "resnet18") -> dict[str, Tensor]:
    """The state dict of `weights`, on the CPU, read without executing pickles. Raises TinyclfError."""
    path = weights_file(weights, model_name)
    if path is None:
        raise TinyclfError("weights = 'none': they have no tensors to load")
    state = without_prefixes(nested(read_tensors(path)))
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"under {name!r} there is a {type(value).__name__}"
            raise TinyclfError(f"{path}: expected a state dict, a mapping of names to tensors, and {what}")
        odd = value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested
        if odd or type(value) not in DENSE:
            raise TinyclfError(f"{path}: {name} is sparse, quantized or without values: save it as a plain tensor")
    named = {DENSENET_NAME.sub(r"\1\2", name): value for name, value in state.items()}
    return {name: value for name, value in named.items() if not name.startswith(AUXILIARY_HEADS)}


def nested(state: dict[Any, Any]) -> dict[Any, Any]:
    """The state dict within a training script's checkpoint, or `state` itself where it is one."""
    inner = next((state[key] for key in NESTED if isinstance(state.get(key), dict)), None)
    return state if inner is None else nested(inner)


def without_prefixes(state: dict[Any, Any]) -> dict[Any, Any]:
    """A state dict without what wrappers put before every name, one within the other: `model._orig_mod.fc.bias`."""
    names = [name for name in state if name != "n_averaged"]  # torch's AveragedModel counts beside its `module.`
    for prefix in PREFIXES:
        if names and all(isinstance(name, str) and name.startswith(prefix) for name in names):
            return without_prefixes({name.removeprefix(prefix): state[name] for name in names})
    return state


def refuse_checkpoint(path: Path) -> None:
    """Raise TinyclfError for a checkpoint of ours, whose metadata say what the run is."""
    with safe_open(path, "pt") as file:
        if {"about", "state", "sha256"} <= (file.metadata() or {}).keys():
            run = path.parent.name
            raise TinyclfError(f"{path} is the checkpoint of a run: name the run instead, weights=run:{run}")


def read_tensors(path: Path) -> dict[Any, Any]:
    """What a file of weights holds, read without executing pickles. Raises TinyclfError unless that is a mapping."""
    try:
        with open(path, "rb") as file:
            if file.read(len(LFS)) == LFS:
                raise TinyclfError(f"{path}: a pointer of Git LFS, not the file itself: get that by `git lfs pull`")
        if path.suffix == ".safetensors":
            refuse_checkpoint(path)
        # Namespace: the options that timm and many scripts keep beside the weights, plain values
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except TinyclfError:
        raise
    except Exception as error:  # pickle's own errors are many; none of them is let through as a traceback
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:  # torch advises to execute the file
            text = "it holds other things than tensors, or is damaged"
        raise TinyclfError(f"{path}: not readable as a state dict of tensors ({text})") from None
    if not isinstance(state, dict):
        raise TinyclfError(
            f"{path}: expected a state dict, a mapping of names to tensors, not a {type(state).__name__}"
        )
    return state


def weights_file(weights: str, model_name: str = "resnet18") -> Path | None:
    """The file of `weights`, downloaded or trained if need be; None for `none`. Raises TinyclfError."""
    if weights == "none":
        return None
    if weights == "imagenet":
        return imagenet_file(model_name)
    if weights == "mini":
        if model_name != "resnet18":
            raise TinyclfError(f"weights = 'mini': they are those of a resnet18, and the model is {model_name!r}")
        return standin.weights_file()
    if not is_file(weights):
        one_of("weights", weights, NAMED_WEIGHTS, f"or {FILE}")
    return existing_file(weights)


def imagenet_file(model_name: str) -> Path:
    """torchvision's ImageNet weights of a model, in torch's own cache, downloaded and checked on first use."""
    files = get_model_weights(model_name).__members__
    url: str = files.get("IMAGENET1K_V1", files["DEFAULT"]).value.url
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    prefix = path.stem.rsplit("-", 1)[-1]  # torchvision names its files after the start of their sha256
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
        except (URLError, OSError, RuntimeError) as error:
            raise TinyclfError(
                f"weights = 'imagenet': could not download {url} ({error}). Put that file at {path} by hand, "
                "or give the path of a state dict instead: weights=PATH.pth or PATH.safetensors"
            ) from error
    if not fingerprint(path).startswith(prefix):
        raise TinyclfError(
            f"{path}: not the ImageNet weights that its name promises, as its sha256 does not start with {prefix}: "
            "remove it, to have it downloaded again, or give its path as a stand-in: weights=PATH"
        )
    return path


def fingerprint(path: Path) -> str:
    """sha256 of a weights file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
