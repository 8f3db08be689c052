"""torchvision's classification models for any number of classes, and the surgery on ResNets: stems, growing depth."""

from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, unfold
from torchvision import models
from torchvision.models import get_model, get_model_builder, list_models  # type: ignore[attr-defined] # they are public

from tinyclf.data.registry import STEMS
from tinyclf.utils.errors import TinyclfError, one_of

# Both have auxiliary heads, for training alone, and pretrained weights that expect another normalization than all other
# models: with `transform_input` they take images normalized like theirs.
INCEPTIONS = ("googlenet", "inception_v3")
WHITENING_PIXELS = 2**21  # of the images whose patches are looked at: 2,000 of 32x32; more hardly change the result
WHITENING_NOISE = 1e-2  # added to each variance, so that directions in which images hardly vary are not blown up


def build_model(name: str, num_classes: int, *, stem: str = "imagenet", zero_init: bool = False) -> nn.Module:
    """torchvision's model `name`: images float32 (B, 3, H, W) in, logits float32 (B, num_classes) out.

    Its weights are torchvision's random initialization, from torch's global generator. stem: see `change_stem`.
    zero_init: the last norm of each block of a ResNet starts at 0, so that the block starts as the identity.

    Raises TinyclfError for an unknown name, and for a stem or zero_init that the model does not have.
    Source: the surgery on ResNets is that of the open project Tiny-ImageNet-Classifier.
    """
    one_of("model", name, tuple(list_models(module=models)))
    options = {}
    if zero_init:
        if get_model_builder(name).__module__ != models.resnet.__name__:
            raise TinyclfError(f"zero_init, shallow: only ResNets have them, and the model is {name!r}")
        options = {"zero_init_residual": True}
    if name in INCEPTIONS:
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    model: nn.Module = get_model(name, num_classes=num_classes, **options)
    if isinstance(model, models.ResNet):
        model.avgpool = nn.AdaptiveAvgPool2d(1)
    if isinstance(model, models.MNASNet):  # its own method refuses state dicts without a version: pickles alone keep it
        model._load_from_state_dict = partial(nn.Module._load_from_state_dict, model)  # type: ignore[method-assign]
    change_stem(model, stem)
    return model


def change_stem(model: nn.Module, stem: str) -> None:
    """Give a ResNet another stem, in place, with random weights.

    stem: `imagenet` (7x7, stride 2, then max pool; the model keeps it), `small` (3x3, stride 1, with a bias, no pool),
    `small-pool` (the same with a max pool of stride 1, as the pretrained layers behind it expect maxima) or `sub-pixel`
    (see `SubPixelConv2d`, then the max pool of `imagenet`).
    Raises TinyclfError for an unknown stem, and for a model that is no torchvision ResNet.
    """
    one_of("stem", stem, STEMS)
    if stem == "imagenet":
        return
    if not isinstance(model, models.ResNet):
        raise TinyclfError(f"stem = {stem!r}: only torchvision's ResNets can have it, not {type(model).__name__}")
    if stem == "sub-pixel":
        model.conv1 = SubPixelConv2d(3, 4 * 64, kernel_size=5, padding=2, padding_mode="replicate", bias=False)
        return
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1)
    pool: nn.Module = nn.Identity() if stem == "small" else nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    model.add_module("maxpool", pool)


class SubPixelConv2d(nn.Conv2d):
    """A convolution whose output channels are the sub-pixels of maps of twice the size, four of each map.

    Images (B, C, H, W) to maps (B, C' / 4, 2 H, 2 W), in the order of torch's `PixelShuffle(2)`: channel 4 c + 2 i + j
    is row i and column j of each 2x2 of map c. So an image of 64x64 gives maps of 128x128, as large as those that the
    7x7 stem makes of an image of 256x256, see `compose_filters`.
    Source: Shi et al. 2016, arXiv:1609.05158.
    """

    def forward(self, images: Tensor) -> Tensor:
        """As the class says; the maps are channels last in memory, which those of `pixel_shuffle` are not on a GPU."""
        return pixel_shuffle(super().forward(images), 2).contiguous(memory_format=torch.channels_last)


def stem_of(state: dict[str, Tensor]) -> str:
    """The stem of a ResNet's state dict, by its filters: `small` for `small-pool` too, empty for no known one."""
    stems: dict[tuple[int, ...], str] = {(3, 7, 7): "imagenet", (3, 3, 3): "small", (3, 5, 5): "sub-pixel"}
    return stems.get(tuple(state["conv1.weight"].shape[1:]), "") if "conv1.weight" in state else ""


def shrink_filters(filters: Tensor, enlargement: float = 224 / 64) -> Tensor:
    """7x7 filters for enlarged images resampled to 3x3 for the images themselves: (C, 3, 7, 7) to (C, 3, 3, 3).

    A 3x3 filter computes, at its pixel, what the 7x7 filter computes there in the image enlarged by bilinear
    interpolation. It is a start for training and not the same function: a 224 model's filters are centred between the
    pixels of the 64 image, 2 / 3.5 of a pixel apart, and its images are enlarged by bicubic interpolation.
    """
    positions = (torch.arange(7, dtype=filters.dtype) - 3) / enlargement  # in pixels of the small image
    interpolation = (1 - (positions - torch.arange(-1, 2)[:, None]).abs()).clamp(min=0)  # (3, 7)
    return interpolation @ filters @ interpolation.T


def compose_filters(filters: Tensor) -> Tensor:
    """The filters of `SubPixelConv2d` that do to images what 7x7 filters of stride 2 do to them enlarged four times.

    float (C, 3, 7, 7) to (4 C, 3, 5, 5). Bicubic enlargement is linear, so it and a filter compose to one filter for
    each sub-pixel. They are exact but at the border, and but for the outermost of six taps of the even sub-pixels, of
    0.007 times the outermost 7x7 weight: its neighbour takes it over.
    """
    line = torch.eye(11, dtype=torch.float64)[None, None]
    kernels = interpolate(line, size=(44, 11), mode="bicubic", antialias=True)[0, 0, :, 2:8]  # antialias: PIL's kernel
    starts = [4 * 5 + 2 * phase - 3 for phase in (0, 1)]  # around the middle pixel, far from both ends of the line
    taps = torch.stack([kernels[start : start + 7] for start in starts])  # (sub-pixels, 7, 6)
    taps[:, :, 1] += taps[:, :, 0]
    composed = torch.einsum("ocyx,iya,jxb->oijcab", filters.double(), taps[:, :, 1:], taps[:, :, 1:])
    return composed.flatten(0, 2).to(filters.dtype)


def whiten_filters(layer: nn.Conv2d, images: Tensor) -> None:
    """Make filters of the directions in which the patches of `images` vary most, each divided by its deviation.

    Half of the filters are such directions, in the order of their variance, the other half their negatives, of which
    ReLU keeps what it takes from the former. images: float32 (B, C, H, W), of mean 0, as the layer is to see them.
    Source: Keller Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, has it for 2x2.
    """
    filters, channels, *size = layer.weight.shape
    patches = unfold(images, tuple(size), stride=layer.stride).transpose(1, 2).flatten(0, 1).double()
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))  # in ascending order
    whitened = (directions / (variances + WHITENING_NOISE).sqrt()).T.flip(0)[: filters // 2]
    with torch.no_grad():
        layer.weight.copy_(torch.cat([whitened, -whitened]).view(filters, channels, *size))


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The tensors whose shapes depend on the number of classes: those of the last convolution or linear layer."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    return tuple(name for name in model.state_dict() if name.startswith(f"{layers[-1]}."))


class Stage(nn.Sequential):
    """A stage of a ResNet, of which the first `active` blocks run; None: all of them."""

    active: int | None = None

    def _get_name(self) -> str:
        return "Sequential"  # so that the model prints as torchvision's: it has the same layers

    def forward(self, input: Tensor) -> Tensor:
        for block in islice(self, self.active):
            input = block(input)
        return input


class GrowingDepth:
    """Makes a ResNet shallow for its first training steps: one block of each stage runs, and then all.

    Call it before each step with the number of steps before that one. The blocks that join must start as the identity,
    as `zero_init` has them: then they change nothing when they join, nor in a validation before.
    """

    def __init__(self, model: nn.Module, shallow_steps: int) -> None:
        self.shallow_steps, self._model = shallow_steps, model
        for name in ("layer1", "layer2", "layer3", "layer4"):
            setattr(model, name, Stage(*getattr(model, name)))

    def __call__(self, step: int) -> None:
        set_depth(self._model, 1 if step < self.shallow_steps else None)


def set_depth(model: nn.Module, blocks: int | None) -> None:
    """Have the first `blocks` of each `Stage` run, or all."""
    for stage in model.modules():
        if isinstance(stage, Stage):
            stage.active = blocks
