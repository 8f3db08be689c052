"""Augmentation of a batch on its device, with random parameters for each image: pad and crop, mirror, mixup, CutMix."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

ORDER, FLIP, CROP, MIX, MODEL = range(5)  # the purposes of random numbers, each with a stream of its own


def random(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """Random numbers that depend on (seed, epoch, purpose) only, so that any epoch can be repeated alone."""
    return np.random.default_rng([seed, epoch, purpose])


class SampleParams(NamedTuple):
    """Random parameters of the N images of an epoch, in its order; None where an operation is not applied."""

    mirrored: Tensor | None = None  # bool (N,)
    corner: Tensor | None = None  # int64 (N, 2): top and left of the crop, in pixels of the padded image
    partner: Tensor | None = None  # int64 (N,): index, in the epoch, of the image of the same batch that is mixed in
    box: Tensor | None = None  # int64 (N, 4): top, left, bottom, right of the box that it is mixed into, in pixels
    weight: Tensor | None = None  # float32 (N,): the image's own weight within that box; outside it is 1

    def to(self, device: torch.device) -> "SampleParams":
        """The same parameters on `device`."""
        return SampleParams(*(None if values is None else values.to(device) for values in self))


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented. By default, not at all."""

    flip: bool = False  # mirror with probability 1/2
    crop_padding: int = 0  # pixels of black around an image, before a random crop of its own size
    mixup: float = 0.0  # alpha of the Beta distribution of the weights; 0: no mixup
    cutmix: float = 0.0  # alpha of the Beta distribution of the areas; with mixup, each image gets one of the two

    def sample_params(self, seed: int, epoch: int, count: int, batch_size: int, side: int) -> SampleParams:
        """The parameters of an epoch for `count` images of `side` x `side` pixels, on the CPU."""
        params: dict[str, np.ndarray] = {}
        if self.flip:
            params["mirrored"] = random(seed, epoch, FLIP).random(count) < 0.5
        if self.crop_padding:
            params["corner"] = random(seed, epoch, CROP).integers(0, 2 * self.crop_padding + 1, (count, 2))
        if self.mixup or self.cutmix:
            params |= self._sample_mixing(random(seed, epoch, MIX), count, batch_size, side)
        return SampleParams(**{name: torch.from_numpy(values) for name, values in params.items()})

    def _sample_mixing(self, rng: np.random.Generator, count: int, batch_size: int, side: int) -> dict[str, np.ndarray]:
        """partner, box and weight of SampleParams: for mixup the box is the whole image, for CutMix the weight is 0."""
        first = np.arange(count) // batch_size * batch_size
        partner = first + rng.integers(0, np.minimum(batch_size, count - first))
        cutmix_share = 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)
        by_cutmix = rng.random(count) < cutmix_share
        own = np.where(by_cutmix, *(rng.beta(alpha or 1, alpha or 1, count) for alpha in (self.cutmix, self.mixup)))
        half, centre = np.sqrt(1 - own)[:, None] / 2, rng.random((count, 2))
        edges = np.concatenate([centre - half, centre + half], axis=1).clip(0, 1)
        edges[~by_cutmix] = 0, 0, 1, 1
        box = np.rint(edges * side).astype(np.int64)
        return {"partner": partner, "box": box, "weight": np.where(by_cutmix, 0, own).astype(np.float32)}

    def crop_and_flip(self, images: Tensor, params: SampleParams, indices: Tensor) -> Tensor:
        """Pad with black, crop and mirror uint8 images (B, H, W, 3), those at `indices`, int64 (B,), of the epoch."""
        if params.corner is not None:
            images = random_crop(images, params.corner[indices], self.crop_padding)
        if params.mirrored is not None:
            # Whole images are chosen, which takes a CPU a quarter of the time of choosing pixel by pixel.
            chosen = torch.arange(len(images), device=images.device) + len(images) * params.mirrored[indices]
            images = torch.cat([images, images.flip(2)]).index_select(0, chosen)
        return images


def random_crop(images: Tensor, corner: Tensor, padding: int) -> Tensor:
    """Crops of uint8 images (B, H, W, C) in black frames of `padding` pixels, of their own size, at corner (B, 2)."""
    count, height, width, channels = images.shape
    padded = pad(images, (0, 0, padding, padding, padding, padding)).flatten(2)
    windows = padded.unfold(1, height, 1).unfold(2, width * channels, channels)  # a view: by image, top, left
    image, (top, left) = torch.arange(count, device=images.device), corner.T
    return windows[image, top, left].view(images.shape)


def mix(images: Tensor, partners: Tensor, params: SampleParams, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Mix `partners` into float32 images (B, 3, H, W), those at `indices`; also the share (B,) that each image keeps.

    Sources: mixup, Zhang et al. 2018, arXiv:1710.09412; CutMix, Yun et al. 2019, arXiv:1905.04899.
    """
    assert params.box is not None and params.weight is not None
    top, left, bottom, right = params.box[indices].T[:, :, None]
    height, width = images.shape[2:]
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    within = params.weight[indices][:, None, None]
    own = torch.where(inside, within, torch.ones_like(within))
    area = ((bottom - top) * (right - left))[:, 0] / (height * width)
    # Two products and a sum, not `lerp`: a GPU would fuse that and round it in another way than a CPU.
    return images * own[:, None] + partners * (1 - own)[:, None], 1 - area * (1 - within[:, 0, 0])
