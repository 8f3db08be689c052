"""Bicubic resizing of a batch on its device, to the very pixels that PIL makes of each image."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

SHARPNESS = -0.5  # the parameter of the cubic convolution: Keys 1981, doi:10.1109/TASSP.1981.1163711; PIL's choice
ONE = 2.0**22  # PIL rounds its weights to multiples of 1 / ONE
REACH = 2  # of the kernel, in pixels of whichever image is coarser


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 images (B, H, W, C) at `size` x `size` pixels, uint8; the very same tensor where that is their size.

    As in PIL, rows are resized first, then columns, each rounded and cut off at 0 and 255. All numbers on the way are
    whole and below 2**53, so that the sums are exact in float64 and every device gives the same pixels.
    """
    height, width = images.shape[1:3]
    if height == width == size:
        return images
    exact = images.permute(0, 3, 1, 2).to(torch.float64)
    across, down = (weights(length, size, images.device) for length in (width, height))
    return rounded(down @ rounded(exact @ across.T)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def rounded(sums: Tensor) -> Tensor:
    """Weighted sums of pixels as the nearest whole numbers from 0 to 255."""
    return sums.div_(ONE).add_(0.5).floor_().clamp_(0, 255)


@cache  # also for the device, which a copy for every batch would keep waiting
def weights(source: int, size: int, device: torch.device) -> Tensor:
    """`kernels`, rounded as PIL rounds them: float64 (size, source), in units of 1 / ONE."""
    kernel = kernels(source, size)
    return torch.from_numpy(np.copysign(np.floor(np.abs(kernel) * ONE + 0.5), kernel)).to(device)


def kernels(source: int, size: int) -> np.ndarray:
    """What each of `source` pixels in a line adds to each of `size`: float64 (size, source)."""
    scale = source / size
    places, centres = np.arange(source) + 0.5, (np.arange(size)[:, None] + 0.5) * scale
    x = np.abs(places - centres) / max(scale, 1)
    near = ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * SHARPNESS
    kernel = np.where(x < 1, near, np.where(x < REACH, far, 0))
    rows: np.ndarray = kernel / kernel.sum(1, keepdims=True)
    return rows
