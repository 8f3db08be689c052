"""Pretrained weights: their files, and their tensors copied into a model."""

import hashlib
import re
import sys
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights  # type: ignore[attr-defined] # it is public

from tinyclf.models import standin
from tinyclf.models.choices import FILE, NAMED_WEIGHTS, existing_file, is_file
from tinyclf.models.resnet import compose_filters, head_names, shrink_filters, stem_of
from tinyclf.utils.checks import one_of
from tinyclf.utils.errors import TinyclfError

IMAGENET_CLASSES = 1000
AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # in torchvision's files of GoogLeNet and Inception v3
# torchvision's files of DenseNets have `norm.1` for today's `norm1`
DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_weights(model: nn.Module, weights: str, *, model_name: str = "resnet18", stem_init: str = "random") -> None:
    """Copy pretrained weights into a model of `build_model`, in place.

    weights: `none` (nothing is copied), `imagenet` (torchvision's own, through torch's cache), `mini` (see standin.py)
    or the path of a state dict. A head of ImageNet's 1000 classes, or of the classes of `mini`, is left out where the
    model's has another number of them; for the stem see `copy_weights`.
    Raises TinyclfError for unknown names, unreadable files, and tensors that do not fit, by name.
    """
    if weights == "none":
        return
    state, head = load_state(weights, model_name), head_names(model)
    classes = {tuple(state[name].shape[:1]) for name in head if name in state}
    own_classes = len(model.state_dict()[head[0]])
    other_head = weights == "mini" or classes == {(IMAGENET_CLASSES,)} != {(own_classes,)}
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
    if faults := mismatches(own, state):
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise TinyclfError(f"weights {origin!r} do not fit this {type(model).__name__}: {'; '.join(faults[:5])}{more}")
    model.load_state_dict(state, strict=False)


def convert_stem(state: dict[str, Tensor], stem: str, origin: str) -> dict[str, Tensor]:
    """A state dict with the 7x7 filters of its stem made those of a small or sub-pixel one. Raises TinyclfError."""
    if stem_of(state) != "imagenet":
        raise TinyclfError(f"stem_init = 'shrunk': weights {origin!r} have no stem of 7x7 to shrink")
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
    return faults + [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]


def load_state(weights: str, model_name: str = "resnet18") -> dict[str, Tensor]:
    """The state dict of `weights`, on the CPU, read without executing pickles. Raises TinyclfError."""
    path = weights_file(weights, model_name)
    if path is None:
        raise TinyclfError("weights = 'none': they have no tensors to load")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # pickle's own errors are many; none of them is let through as a traceback
        raise TinyclfError(
            f"{path}: not readable as a state dict of tensors ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TinyclfError(f"{path}: expected a state dict, a mapping of names to tensors")
    if any(name.startswith("model.") for name in state):
        raise TinyclfError(f"{path} is the checkpoint of a run: name the run instead, weights=run:{path.parent.name}")
    named = {DENSENET_NAME.sub(r"\1\2", name): value for name, value in state.items()}
    return {name: value for name, value in named.items() if not name.startswith(AUXILIARY_HEADS)}


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
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rsplit("-", 1)[-1]  # torchvision names its files after the start of their sha256
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
        except (URLError, OSError, RuntimeError) as error:
            raise TinyclfError(
                f"weights = 'imagenet': could not download {url} ({error}). Put that file at {path} by hand, "
                "or give the path of a state dict instead: weights=PATH.pth or PATH.safetensors"
            ) from error
    return path


def fingerprint(path: Path) -> str:
    """sha256 of a weights file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
