"""torchvision's ResNet18 with the surgery of the published recipe, and the weights that it starts from."""

import hashlib
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tinyclf import parents
from tinyclf.convolution import quickened
from tinyclf.errors import TinyclfError
from tinyclf.resize import kernels
from tinyclf.settings import NAMED_WEIGHTS, OTHER_WEIGHTS, STEMS, Settings, one_of

IMAGENET = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
IMAGENET_CLASSES = 1000
SHAPES = {"imagenet": (64, 3, 7, 7), "small": (64, 3, 3, 3), "sub-pixel": (256, 3, 5, 5)}  # of a stem's filters


def resnet18(
    num_classes: int,
    weights: str = "none",
    stem: str = "imagenet",
    *,
    shrink_stem: bool = False,
    zero_init: bool = False,
) -> nn.Module:
    """ResNet18 for `num_classes` classes: images float32 (B, 3, H, W) in, logits float32 (B, num_classes) out.

    weights: `none` (torchvision's random initialisation, from torch's global generator), `imagenet` (torchvision's
    IMAGENET1K_V1, through torch's own cache), `mini` (see standin.py) or the path of a state dict.
    stem: `imagenet` (7x7, stride 2, then max pool), `small` (3x3, stride 1, with a bias, no pool), `small-pool` (the
    same with a max pool of stride 1, as the layers behind it learned on maxima) or `sub-pixel` (see `SubPixel`, then
    the max pool of `imagenet`).
    Every weight is taken over but these: a head for other classes, and under another stem the 7x7; they start afresh.
    On a CPU, convolutions of maps of 1x1 and 2x2 are quicker than torch's own, see convolution.py.
    With `shrink_stem`, that stem starts with the 7x7 filters instead, see `shrunk` and `composed`. zero_init: of the
    random weights, those of each block's last norm are 0.

    Raises TinyclfError for unknown names, unreadable files, and missing or wrongly shaped tensors, by name.
    Source: He et al. 2015, arXiv:1512.03385; the surgery is that of the open project Tiny-ImageNet-Classifier.
    """
    one_of("stem", stem, STEMS)
    model: nn.Module = torchvision.models.resnet18(num_classes=num_classes, zero_init_residual=zero_init)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    if stem == "sub-pixel":
        model.conv1 = SubPixel(3, 256, kernel_size=5, padding=2, padding_mode="replicate", bias=False)
    elif stem != "imagenet":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1)
        model.maxpool = nn.Identity() if stem == "small" else nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    if weights != "none":
        load_pretrained(model, load_state(weights), weights, shrink_stem=shrink_stem)
    return quickened(model)


class SubPixel(nn.Conv2d):
    """A convolution whose output channels are four each, the sub-pixels of maps of twice the size.

    Images (B, C, H, W) to maps (B, C' / 4, 2 H, 2 W), in the order of torch's `PixelShuffle(2)`: channel 4 c + 2 i + j
    is row i and column j of each 2x2 of map c.
    So an image of 64x64 gives the maps of 128x128 that the 7x7 stem makes of one of 256x256, see `composed`.
    Source: Shi et al. 2016, arXiv:1609.05158.
    """

    def forward(self, input: Tensor) -> Tensor:
        maps = super().forward(input)
        count, channels, height, width = maps.shape
        parts = maps.view(count, channels // 4, 2, 2, height, width)
        # Channels last in memory, which torch's own is not on a GPU
        rows = parts.permute(0, 4, 2, 5, 3, 1).reshape(count, 2 * height, 2 * width, channels // 4)
        return rows.permute(0, 3, 1, 2)


def network(settings: Settings, classes: int) -> nn.Module:
    """The model of `settings`, for a state dict to be loaded into it: its weights are fresh."""
    return resnet18(classes, "none", settings.stem)


def starting_model(settings: Settings, classes: list[str]) -> nn.Module:
    """The model that a run of `settings` starts from, its fresh weights drawn from their seed.

    classes: of the data, in order. From a parent's model (weights = run:NAME), everything is taken over but a stem and
    a head that `settings.adapt` lets be others. Raises TinyclfError as `resnet18` and `parents.parent` do.
    """
    torch.manual_seed(settings.seed)
    parent = parents.parent(settings, classes)
    if parent is None:
        kind = {"shrink_stem": settings.shrink_stem, "zero_init": settings.zero_init}
        return resnet18(len(classes), settings.weights, settings.stem, **kind)
    model = network(settings, len(classes))
    before = Settings(**parent.about["settings"])
    afresh = ("conv1.",) * (before.stem != settings.stem) + ("fc.",) * (list(parent.about["classes"]) != classes)
    load_pretrained(model, parent.weights, settings.weights, afresh, shrink_stem=settings.shrink_stem)
    return model


def weights_file(weights: str) -> Path | None:
    """The file behind `weights`, downloaded or made if need be; None for `none`. Raises TinyclfError."""
    if weights == "none":
        return None
    if weights == "imagenet":
        return imagenet_file()
    if weights == "mini":
        from tinyclf import standin  # here, as it trains a model on first use

        return standin.weights_file()
    path = Path(weights).expanduser()
    if path.suffix not in (".pth", ".safetensors"):
        one_of("weights", weights, NAMED_WEIGHTS, OTHER_WEIGHTS)
    if not path.is_file():
        raise TinyclfError(f"weights: no file {path} (looked for from {Path.cwd()})")
    return path


def imagenet_file() -> Path:
    """torchvision's ImageNet weights in torch's own cache, downloaded and checked on first use."""
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET.url.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rsplit("-", 1)[-1]  # torchvision names its files after the start of their sha256
            torch.hub.download_url_to_file(IMAGENET.url, str(path), prefix, progress=sys.stderr.isatty())
        except (URLError, OSError, RuntimeError) as error:
            raise TinyclfError(
                f"weights = 'imagenet': could not download {IMAGENET.url} ({error}). Put that file at {path} by hand, "
                "or give the path of a state dict instead: weights=PATH.pth or PATH.safetensors"
            ) from error
    return path


def load_state(weights: str) -> dict[str, Tensor]:
    """The state dict behind `weights`, on the CPU, read without executing pickles. Raises TinyclfError."""
    path = weights_file(weights)
    assert path is not None
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise unreadable(path, error) from error
    except Exception as error:  # pickle's own errors are many; none of them is let through as a traceback
        raise unreadable(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TinyclfError(f"{path}: expected a state dict, a mapping of names to tensors")
    if any(name.startswith("model.") for name in state):
        raise TinyclfError(f"{path} is the checkpoint of a run: name the run instead, weights=run:{path.parent.name}")
    return state


def unreadable(path: Path, error: Exception) -> TinyclfError:
    return TinyclfError(f"{path}: not readable as a state dict of tensors ({type(error).__name__}: {error})")


def load_pretrained(
    model: nn.Module,
    state: dict[str, Tensor],
    origin: str,
    afresh: tuple[str, ...] = (),
    *,
    shrink_stem: bool = False,
) -> None:
    """Copy `state` into `model`, but for what the surgery replaced; missing and wrongly shaped tensors are named.

    A head of ImageNet's 1000 classes, or of the stand-in's, starts afresh; one of any other wrong number is refused.
    afresh: what the names of more tensors start with that keep the model's own values. shrink_stem: the 7x7 filters of
    `state` are made those of the model's stem, where they would start afresh.
    """
    wanted = model.state_dict()
    if shrink_stem:
        if "conv1.weight" not in state or state["conv1.weight"].shape[2:] != (7, 7):
            raise TinyclfError(f"shrink_stem = True: weights {origin!r} have no stem of 7x7 to shrink")
        if "conv1.bias" in wanted:
            state = state | {"conv1.weight": shrunk(state["conv1.weight"]), "conv1.bias": torch.zeros(64)}
        else:
            state = state | {"conv1.weight": composed(state["conv1.weight"])}
        afresh = tuple(name for name in afresh if name != "conv1.")
    # Old files, torchvision's own among them, lack the counters of batches that batch norm keeps; no result needs them.
    state = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")} | state
    shape = {name: tuple(value.shape) for name, value in state.items()}
    if origin == "mini" or shape.get("fc.weight") == (IMAGENET_CLASSES, 512) != tuple(wanted["fc.weight"].shape):
        afresh += ("fc.",)
    if shape.get("conv1.weight") == SHAPES["imagenet"] != tuple(wanted["conv1.weight"].shape):
        afresh += ("conv1.",)
    state = {name: value for name, value in state.items() if not name.startswith(afresh)}
    state |= {name: value for name, value in wanted.items() if name.startswith(afresh)}
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} is not of this model" for name in state if name not in wanted]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    for stem in ("small", "sub-pixel"):
        if shape.get("conv1.weight") == SHAPES[stem] != tuple(wanted["conv1.weight"].shape):
            faults.insert(0, f"they have a {stem} stem (stem={stem})")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise TinyclfError(f"weights {origin!r} do not fit this ResNet18: {'; '.join(faults[:5])}{more}")
    model.load_state_dict(state)


def shrunk(filters: Tensor, enlargement: float = 224 / 64) -> Tensor:
    """7x7 filters for enlarged images as the 3x3 ones that do the same to the images themselves.

    float (C, 3, 7, 7) to (C, 3, 3, 3). Exact for images enlarged so many times by bilinear interpolation, at pixels
    that lie where one of the small image does; there is one only where `enlargement` is odd, and 3.5 is not. So it is
    the filter at the places between which the model at 224 looks, and half as many of them.
    """
    places = (torch.arange(7, dtype=filters.dtype) - 3) / enlargement  # of the values, in pixels of the small image
    near = (1 - (places - torch.arange(-1, 2)[:, None]).abs()).clamp(min=0)  # (3, 7)
    return near @ filters @ near.T


def composed(filters: Tensor) -> Tensor:
    """7x7 filters, of stride 2 on images enlarged four times, as those of `SubPixel` on the images themselves.

    float (C, 3, 7, 7) to (4 C, 3, 5, 5). Bicubic enlargement is linear, so that it and the filter make one filter, for
    each sub-pixel another. Exact but at the border, and but for the outermost of six taps of the even sub-pixels, which
    has 0.007 times the outermost 7x7 weight: the tap beside it takes it over.
    """
    middle = kernels(11, 44)[:, 2:8]  # of six pixels, in the middle of a line whose ends are far away
    starts = [4 * 5 + 2 * phase - 3 for phase in (0, 1)]
    taps = torch.from_numpy(np.stack([middle[start : start + 7] for start in starts]))  # (sub-pixels, 7, 6)
    taps[:, :, 1] += taps[:, :, 0]
    found = torch.einsum("ocyx,iya,jxb->oijcab", filters.double(), taps[:, :, 1:], taps[:, :, 1:])
    return found.reshape(-1, *found.shape[3:]).to(filters.dtype)


def fingerprint(path: Path | None) -> str | None:
    """sha256 of a weights file, hexadecimal; None where there is none."""
    if path is None:
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
