"""Bicubic resizing of a batch on its device, to exactly the pixels that PIL makes, or by OpenCV's kernel.

Both are cubic convolutions (Keys 1981, doi:10.1109/TASSP.1981.1163711) whose weights are whole numbers of a small unit.
All sums are whole numbers below 2**53, so that float64 is exact and every device gives the same pixels. A Mac's GPU has
no float64: its images are resized by the CPU.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

# The parameter a of the convolution, and the unit of its weights. PIL widens the kernel to shrink an image (antialias),
# and rounds after the rows as after the columns; OpenCV (INTER_CUBIC) does neither, and repeats the pixels at the edge.
KERNELS = {"pil": (-0.5, 2.0**22), "opencv": (-0.75, 2.0**11)}
ONE = 2**22  # the unit of the sums: of PIL's weights once, or of OpenCV's twice
REACH = 2  # of the kernel, in pixels of whichever image is coarser; OpenCV: of the source


def resize(images: Tensor, size: int, kernel: str = "pil") -> Tensor:
    """uint8 images (B, H, W, C) at `size` x `size` pixels, uint8; the same tensor where they have that size.

    kernel: "pil" or "opencv", see KERNELS. Values are rounded and clipped to 0..255.
    """
    height, width = images.shape[1:3]
    if height == width == size:
        return images
    if not has_float64(images.device):
        return resize(images.cpu(), size, kernel).to(images.device)
    exact = images.permute(0, 3, 1, 2).to(torch.float64)
    across, down = (weights(length, size, kernel, images.device) for length in (width, height))
    rows = exact @ across.T
    sums = down @ (to_grey_levels(rows) if kernel == "pil" else rows)
    return to_grey_levels(sums).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_grey_levels(sums: Tensor) -> Tensor:
    """Sums of pixels, in units of 1 / ONE, as the nearest whole numbers from 0 to 255; in place."""
    return sums.div_(ONE).add_(0.5).floor_().clamp_(0, 255)


def has_float64(device: torch.device) -> bool:
    """Whether `device` computes in float64: all but a Mac's GPU do."""
    return device.type != "mps"


@cache  # also by the device: copying the weights for every batch would make it wait
def weights(source: int, size: int, kernel: str, device: torch.device) -> Tensor:
    """The weight of each of `source` pixels in each of `size`: float64 (size, source), in the unit of the kernel."""
    a, unit = KERNELS[kernel]
    scale = source / size
    edge = 0 if kernel == "pil" else REACH  # pixels beyond the image, which are as the one at its edge
    positions, centres = np.arange(-edge, source + edge) + 0.5, (np.arange(size)[:, None] + 0.5) * scale
    x = np.abs(positions - centres) / (max(scale, 1) if kernel == "pil" else 1)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    matrix = np.where(x < 1, near, np.where(x < REACH, far, 0))
    matrix /= matrix.sum(1, keepdims=True)
    matrix = np.copysign(np.floor(np.abs(matrix) * unit + 0.5), matrix)
    if edge:
        matrix[:, edge] += matrix[:, :edge].sum(1)
        matrix[:, -edge - 1] += matrix[:, -edge:].sum(1)
        matrix = matrix[:, edge:-edge].copy()
    return torch.from_numpy(matrix).to(device)
