"""Augmentation of a batch on its device: crop and mirror with random numbers for each image; mixup, CutMix by batch."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from tinyclf.utils.errors import TinyclfError

ORDER, FLIP, CROP, MIX, MODEL = range(5)  # the purposes of random numbers, each with a stream of its own
TRANSFORM = 2**20  # the same; of it and of MODEL each process has one, which follow one another
# One's own, after the augmentation: of uint8 images (B, 3, H, W), giving such. Or one that mixes, as `v2.MixUp`: of
# float32 images (B, 3, H, W) and targets (B, classes), giving both.
Transform = Callable[..., Any]


def random(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """Random numbers that depend on (seed, epoch, purpose) only, so that any epoch can be repeated alone."""
    return np.random.default_rng([seed, epoch, purpose])


def seeded(transform: Transform, draw: np.random.Generator, device: torch.device) -> Transform:
    """`transform` with a seed of `draw` for each call; torch's own random numbers go on as if it drew none."""

    def call(*values: Tensor) -> Any:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(draw.integers(2**63)))
            return transform(*values)

    return call


def mixes(transform: Transform | None) -> bool:
    """Whether a transform is torchvision's MixUp or CutMix, or a choice of them; not in one with others."""
    kinds = {mixes(part) for part in getattr(transform, "transforms", [])}
    if len(kinds) > 1:
        raise TinyclfError("transform: MixUp and CutMix cannot be in one with others; give them as settings instead")
    return any(kinds) or isinstance(transform, v2.MixUp | v2.CutMix)  # type: ignore[attr-defined]


def as_jpeg(images: Tensor, quality: int) -> Tensor:
    """uint8 images (B, 3, H, W) as they are once saved as JPEG of a quality in 1..100, and read again; by the CPU."""
    read = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=quality)
        read.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).to(images.device)


class SampleParams(NamedTuple):
    """Random parameters of the N images of an epoch, in its order."""

    mirrored: Tensor  # bool (N,)
    corner: Tensor  # int64 (N, 2): top and left of the crop, in pixels of the padded image


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented. By default, not at all."""

    flip: bool = False  # mirror with probability 1/2
    crop_padding: int = 0  # pixels of black around an image, before a random crop of its own size
    mixup: float = 0.0  # alpha of the Beta distribution of the weights; 0: no mixup
    cutmix: float = 0.0  # alpha of the Beta distribution of the areas; with mixup, each batch gets one of the two

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def sample_params(self, seed: int, epoch: int, count: int, device: str | torch.device = "cpu") -> SampleParams:
        """The parameters of an epoch for `count` images, on `device`."""
        mirrored = (random(seed, epoch, FLIP).random(count) < 0.5) & self.flip
        corner = random(seed, epoch, CROP).integers(0, 2 * self.crop_padding + 1, (count, 2))
        return SampleParams(torch.from_numpy(mirrored).to(device), torch.from_numpy(corner).to(device))

    def crop_and_flip(self, images: Tensor, params: SampleParams, indices: Tensor) -> Tensor:
        """Pad with black, crop and mirror uint8 images (B, H, W, 3), those at `indices`, int64 (B,), of the epoch."""
        if self.crop_padding:
            images = random_crop(images, params.corner[indices], self.crop_padding)
        if self.flip:
            # Whole images are chosen, which takes a CPU a quarter of the time of choosing pixel by pixel.
            chosen = torch.arange(len(images), device=images.device) + len(images) * params.mirrored[indices]
            images = torch.cat([images, images.flip(2)]).index_select(0, chosen)
        return images

    def mix(self, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Each image of a batch mixed with the one before it, and its target, by torchvision's MixUp or CutMix.

        images: float32 (B, 3, H, W); targets: float32 class probabilities (B, classes). What the seed decides holds for
        the whole batch: whether MixUp or CutMix, one share or box for all of its images.
        Sources: mixup, Zhang et al. 2018, arXiv:1710.09412; CutMix, Yun et al. 2019, arXiv:1905.04899.
        """
        ways: list[Any] = [v2.MixUp(alpha=self.mixup)] if self.mixup else []  # type: ignore[attr-defined]
        ways += [v2.CutMix(alpha=self.cutmix)] if self.cutmix else []  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # that of the CPU alone: a GPU's goes on as it was
            images, targets = v2.RandomChoice(ways)(images, targets)  # type: ignore[attr-defined]
        return images.contiguous(memory_format=torch.channels_last), targets


def random_crop(images: Tensor, corner: Tensor, padding: int) -> Tensor:
    """Crops of uint8 images (B, H, W, C) in black frames of `padding` pixels, of their own size, at corner (B, 2)."""
    count, height, width, channels = images.shape
    padded = pad(images, (0, 0, padding, padding, padding, padding)).flatten(2)
    windows = padded.unfold(1, height, 1).unfold(2, width * channels, channels)  # a view: by image, top, left
    image, (top, left) = torch.arange(count, device=images.device), corner.T
    return windows[image, top, left].view(images.shape)
