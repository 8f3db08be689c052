"""Convolutions of small maps as the matrix products that they are, which is faster on a CPU.

oneDNN is slow at them, most of all in the gradient of the weights. Milliseconds of forward and backward together, from
512 to 512 channels, on one AVX2 core:

    images   maps   oneDNN   here
        64   1x1       113      7   product
       100   2x2       217     66   product
        10   2x2        56     21   columns
        10   3x3        57     25   columns
       100   4x4       480    420   columns
"""

from functools import cache

import torch
from torch import Tensor, nn

# Maps of 1x1 are a product of all inputs with all outputs, those of 2x2 too from so many images on: it has no more
# numbers to multiply with than the convolution, most of whose taps lie on the padding, but a matrix to make first.
PRODUCT_SIDE, PRODUCT_IMAGES = 2, 32
# Other maps of 2x2, and up to this side those of so many output channels, are copied to columns of neighbourhoods.
COLUMNS_SIDE, COLUMNS_CHANNELS = 4, 512


class SmallMapConv2d(nn.Conv2d):
    """torch's `Conv2d`, with its results but for rounding; made by `use_small_map_conv`."""

    def forward(self, maps: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', H', W'), as `Conv2d` does."""
        if maps.device.type != "cpu" or torch.compiler.is_exporting():  # for any number of images
            return super().forward(maps)
        count, side = maps.shape[0], max(maps.shape[2:])
        if side == 1 or (side <= PRODUCT_SIDE and count >= PRODUCT_IMAGES):
            return self.product(maps)
        many = self.out_channels >= COLUMNS_CHANNELS and side <= COLUMNS_SIDE * max(self.stride)
        if side <= PRODUCT_SIDE or many:
            return self.columns(maps)
        return super().forward(maps)

    def product(self, maps: Tensor) -> Tensor:
        """All input pixels times a matrix that leads to all output pixels."""
        count, _, height, width = maps.shape
        taps = tap_matrix((height, width), self.kernel_size, self.stride, self.padding).to(self.weight)
        rows, columns = taps.shape[:2]
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # (C', taps, C), a view of what is channels last
        matrix = torch.matmul(taps.flatten(0, 3), kernels)  # (C', pairs of an output and an input pixel, C)
        product = maps.permute(0, 2, 3, 1).flatten(1) @ matrix.view(-1, height * width * self.in_channels).T
        product = product.view(count, self.out_channels, rows, columns)
        return product.contiguous(memory_format=torch.channels_last)

    def columns(self, maps: Tensor) -> Tensor:
        """The neighbourhood of each output pixel times the kernels."""
        (down, across), (top, left) = self.stride, map(int, self.padding)
        padded = nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        windows = padded.unfold(1, 3, down).unfold(2, 3, across)  # (B, H', W', C, 3, 3)
        columns = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
        return (columns @ self.weight.permute(0, 2, 3, 1).flatten(1).T).permute(0, 3, 1, 2)

    def _get_name(self) -> str:
        return "Conv2d"  # so that a model prints the same with and without these layers


@cache
@torch.inference_mode(False)  # a later backward pass may need the cached tensor
def tap_matrix(*sizes: tuple[int, int]) -> Tensor:
    """Which tap of the kernel joins which pixels: float32 (H', W', H, W, taps), 1 where it does, else 0.

    sizes: height and width of the maps, of the kernel, of the stride and of the padding.
    """
    axes = []  # (outputs, inputs, taps) of height and of width
    for side, size, step, margin in zip(*sizes, strict=True):
        outputs = (side + 2 * margin - size) // step + 1
        tap = torch.arange(side) - step * torch.arange(outputs)[:, None] + margin
        axes.append((tap[:, :, None] == torch.arange(size)).float())
    return torch.einsum("oik,pjl->opijkl", *axes).flatten(4)


def use_small_map_conv(model: nn.Module) -> None:
    """Make `SmallMapConv2d` of a model's plain 3x3 convolutions, in place; weights and names stay the same.

    Plain are those of all channels, over zeros at the borders, without dilation and bias.
    """
    for layer in model.modules():
        if type(layer) is not nn.Conv2d or layer.bias is not None or isinstance(layer.padding, str):
            continue
        if (layer.kernel_size, layer.dilation, layer.groups, layer.padding_mode) == ((3, 3), (1, 1), 1, "zeros"):
            layer.__class__ = SmallMapConv2d
