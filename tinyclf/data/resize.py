"""Bicubic resizing of a batch on its device, to exactly the pixels that PIL makes of each image."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

SHARPNESS = -0.5  # the parameter of the cubic convolution: Keys 1981, doi:10.1109/TASSP.1981.1163711; PIL's choice
BITS = 22
ONE = 2.0**BITS  # PIL rounds its weights to multiples of 1 / ONE
REACH = 2  # of the kernel, in pixels of whichever image is coarser


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 images (B, H, W, C) at `size` x `size` pixels, uint8; the same tensor where they have that size.

    As in PIL, rows are resized first, then columns, each rounded and clipped to 0..255. All intermediate numbers are
    whole and below 2**53, so that the sums are exact in float64 and every device gives the same pixels. A Mac's GPU has
    no float64 and sums int32, in which the numbers fit too.
    """
    height, width = images.shape[1:3]
    if height == width == size:
        return images
    if not has_float64(images.device):
        return resize_in_int32(images, size)
    exact = images.permute(0, 3, 1, 2).to(torch.float64)
    across, down = (weights(length, size, images.device) for length in (width, height))
    return to_grey_levels(down @ to_grey_levels(exact @ across.T)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_grey_levels(sums: Tensor) -> Tensor:
    """Sums of pixels, in units of 1 / ONE, as the nearest whole numbers from 0 to 255; in place."""
    return sums.div_(ONE).add_(0.5).floor_().clamp_(0, 255)


def has_float64(device: torch.device) -> bool:
    """Whether `device` computes in float64: all but a Mac's GPU do."""
    return device.type != "mps"


def resize_in_int32(images: Tensor, size: int) -> Tensor:
    """What `resize` gives, without float64. On a CPU it took 1 to 2.7 times as long, most for the smallest sizes."""
    for axis in (2, 1):
        pixels, factors = taps(images.shape[axis], size, images.device)
        shape = [size if each == axis else 1 for each in range(4)]
        sums = torch.full((), int(ONE) // 2, dtype=torch.int32, device=images.device)  # so that the shift rounds
        for rows, factor in zip(pixels, factors, strict=True):
            sums = sums + images.index_select(axis, rows) * factor.view(shape)
        images = (sums >> BITS).clamp(0, 255).to(torch.uint8)
    return images


@cache
def taps(source: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels of `source` that each of `size` is a sum of, int64 (taps, size), and their weights, int32."""
    matrix = weights(source, size, torch.device("cpu"))
    count = int((matrix != 0).sum(1).max())
    pixels = matrix.abs().argsort(1, descending=True)[:, :count].T.contiguous()
    return pixels.to(device), matrix.gather(1, pixels.T).T.to(torch.int32).contiguous().to(device)


@cache  # also by the device: copying the weights for every batch would make it wait
def weights(source: int, size: int, device: torch.device) -> Tensor:
    """The weight of each of `source` pixels in each of `size`: float64 (size, source), in units of 1 / ONE."""
    scale = source / size
    positions, centres = np.arange(source) + 0.5, (np.arange(size)[:, None] + 0.5) * scale
    x = np.abs(positions - centres) / max(scale, 1)
    near = ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * SHARPNESS
    kernel = np.where(x < 1, near, np.where(x < REACH, far, 0))
    kernel /= kernel.sum(1, keepdims=True)
    return torch.from_numpy(np.copysign(np.floor(np.abs(kernel) * ONE + 0.5), kernel)).to(device)
