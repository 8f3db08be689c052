"""Augmentation of a batch on its device, with a draw for every image: pad and crop, mirror, mixup, CutMix."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tinyclf.settings import Settings

ORDER, FLIP, CROP, MIX = range(4)  # what a stream of random numbers is for


def random(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """Random numbers that depend on nothing but (seed, epoch, purpose), so that any epoch can be drawn on its own."""
    return np.random.default_rng([seed, epoch, purpose])


class Draws(NamedTuple):
    """What was drawn for N images, in the order in which an epoch shows them; None for what is not done."""

    mirrored: Tensor | None = None  # bool (N,)
    corner: Tensor | None = None  # int64 (N, 2): top and left of the crop, in pixels of the padded image
    partner: Tensor | None = None  # int64 (N,): place, in the epoch, of the image of the same batch that is mixed in
    box: Tensor | None = None  # int64 (N, 4): top, left, bottom, right of where it is mixed in, in pixels
    weight: Tensor | None = None  # float32 (N,): the image's own weight within that box; outside it is 1

    def on(self, device: torch.device) -> "Draws":
        """The same draws on `device`."""
        return Draws(*(None if each is None else each.to(device) for each in self))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images; the fields are those of `Settings`. By default, nothing."""

    flip: bool = False
    crop_padding: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Augmentation":
        """What `settings` ask for."""
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})

    @property
    def mixes(self) -> bool:
        """Whether images, and with them their labels, are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def draw(self, seed: int, epoch: int, count: int, batch_size: int, side: int) -> Draws:
        """The draws of an epoch for `count` images of `side` x `side` pixels: the same ones for every device."""
        drawn: dict[str, np.ndarray] = {}
        if self.flip:
            drawn["mirrored"] = random(seed, epoch, FLIP).random(count) < 0.5
        if self.crop_padding:
            drawn["corner"] = random(seed, epoch, CROP).integers(0, 2 * self.crop_padding + 1, (count, 2))
        if self.mixes:
            rng, first = random(seed, epoch, MIX), np.arange(count) // batch_size * batch_size
            drawn["partner"] = first + rng.integers(0, np.minimum(batch_size, count - first))
            chance_of_a_box = 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)
            boxed = rng.random(count) < chance_of_a_box
            kept = np.where(boxed, *(rng.beta(alpha or 1, alpha or 1, count) for alpha in (self.cutmix, self.mixup)))
            half, centre = np.sqrt(1 - kept)[:, None] / 2, rng.random((count, 2))
            edges = np.concatenate([centre - half, centre + half], axis=1).clip(0, 1)
            edges[~boxed] = 0, 0, 1, 1
            drawn["box"] = np.rint(edges * side).astype(np.int64)
            drawn["weight"] = np.where(boxed, 0, kept).astype(np.float32)
        return Draws(**{name: torch.from_numpy(each) for name, each in drawn.items()})

    def move(self, images: Tensor, draws: Draws, places: Tensor) -> Tensor:
        """Pad with black, crop and mirror uint8 images (B, H, W, 3), drawn for `places`, int64 (B,), of the epoch."""
        if draws.corner is not None:
            room, (count, height, width, channels) = self.crop_padding, images.shape
            padded = pad(images, (0, 0, room, room, room, room)).flatten(2)
            windows = padded.unfold(1, height, 1).unfold(2, width * channels, channels)  # a view: by image, top, left
            image, (top, left) = torch.arange(count, device=images.device), draws.corner[places].T
            images = windows[image, top, left].view(images.shape)
        if draws.mirrored is not None:
            # Whole images are chosen, which takes a CPU a quarter of the time of choosing pixel by pixel.
            chosen = torch.arange(len(images), device=images.device) + len(images) * draws.mirrored[places]
            images = torch.cat([images, images.flip(2)]).index_select(0, chosen)
        return images


def mix(images: Tensor, others: Tensor, draws: Draws, places: Tensor) -> tuple[Tensor, Tensor]:
    """Mix `others` into float32 images (B, 3, H, W) as drawn for `places`; also the share (B,) each image keeps.

    Sources: mixup, Zhang et al. 2018, arXiv:1710.09412; CutMix, Yun et al. 2019, arXiv:1905.04899.
    """
    assert draws.box is not None and draws.weight is not None
    top, left, bottom, right = draws.box[places].T[:, :, None]
    height, width = images.shape[2:]
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    within = draws.weight[places][:, None, None]
    own = torch.where(inside, within, torch.ones_like(within))
    mixed = ((bottom - top) * (right - left))[:, 0] / (height * width)
    # Two products and a sum, not `lerp`: a GPU would fuse that and round it in another way than a CPU.
    return images * own[:, None] + others * (1 - own)[:, None], 1 - mixed * (1 - within[:, 0, 0])
