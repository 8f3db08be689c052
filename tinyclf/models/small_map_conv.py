"""Convolutions of the smallest maps as the one matrix product that they are, which is faster on a CPU."""

from functools import cache

import torch
from torch import Tensor, nn

# Height and width up to which it is a product: the matrix from all inputs to all outputs has no more numbers to
# multiply with than the convolution has, most of whose taps lie on the padding. oneDNN is slow at those maps, most of
# all in the gradient of the weights: from 512 to 512 channels, of 64 maps of 1x1, forward and backward take it 59 ms
# where the product takes 3 (AVX2, 2 cores); of 100 maps of 2x2, 128 and 36. At 3x3 and 4x4 the product is no faster.
SIDE = 2
Sizes = tuple[int, ...]  # of height and width


class SmallMapConv2d(nn.Conv2d):
    """torch's `Conv2d`, with its results but for rounding; made by `use_small_map_conv`."""

    def forward(self, maps: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', H', W'), as `Conv2d` does."""
        count, _, height, width = maps.shape
        if maps.device.type != "cpu" or max(height, width) > SIDE:
            return super().forward(maps)
        taps = tap_matrix((height, width), self.kernel_size, self.stride, self.padding).to(self.weight)
        rows, columns = taps.shape[:2]
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # (C', taps, C), a view of what is channels last
        matrix = torch.matmul(taps.flatten(0, 3), kernels)  # (C', pairs of an output and an input pixel, C)
        product = maps.permute(0, 2, 3, 1).flatten(1) @ matrix.view(-1, height * width * self.in_channels).T
        product = product.view(count, self.out_channels, rows, columns)
        return product.contiguous(memory_format=torch.channels_last)

    def _get_name(self) -> str:
        return "Conv2d"  # so that a model prints the same with and without these layers


@cache
@torch.inference_mode(False)  # a later backward pass may need the cached tensor
def tap_matrix(sides: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes) -> Tensor:
    """Which tap of the kernel joins which pixels: float32 (H', W', H, W, taps), 1 where it does, else 0."""
    axes = []  # (outputs, inputs, taps) of height and of width
    for side, size, step, margin in zip(sides, kernel, stride, padding, strict=True):
        outputs = (side + 2 * margin - size) // step + 1
        tap = torch.arange(side) - step * torch.arange(outputs)[:, None] + margin
        axes.append((tap[:, :, None] == torch.arange(size)).float())
    return torch.einsum("oik,pjl->opijkl", *axes).flatten(4)


def use_small_map_conv(model: nn.Module) -> None:
    """Make `SmallMapConv2d` of a model's plain 3x3 convolutions, in place; weights and names stay the same."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d and is_plain(layer):
            layer.__class__ = SmallMapConv2d


def is_plain(layer: nn.Conv2d) -> bool:
    """Whether it is a 3x3 convolution of all channels, over zeros at the borders, without dilation and bias."""
    simple = layer.groups == 1 and layer.dilation == (1, 1) and layer.bias is None
    return simple and layer.kernel_size == (3, 3) and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
