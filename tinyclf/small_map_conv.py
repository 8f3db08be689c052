"""Convolutions of the smallest maps as the one matrix product that they are, which a CPU has sooner."""

from functools import cache

import torch
from torch import Tensor, nn

# Height and width up to which it is a product: there, the matrix from all inputs to all outputs has no more numbers to
# multiply with than the convolution has, most of whose taps lie on the padding. oneDNN is slow at those maps, most of
# all in the gradient of the weights: from 512 to 512 channels, of 64 maps of 1x1, forward and backward take it 59 ms
# where the product takes 3 (AVX2, 2 cores); of 100 maps of 2x2, 128 and 36. At 3x3 and 4x4 the product is no faster.
SIDE = 2
Sizes = tuple[int, ...]  # of height and width


class Convolution(nn.Conv2d):
    """torch's `Conv2d`, with its results but for rounding; what `quickened` makes of those that suit."""

    def forward(self, maps: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', H', W'), as `Conv2d` does."""
        count, _, height, width = maps.shape
        if maps.device.type != "cpu" or max(height, width) > SIDE:
            return super().forward(maps)
        lead = leads((height, width), self.kernel_size, self.stride, self.padding).to(self.weight)
        rows, columns = lead.shape[:2]
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # (C', taps, C), a view of what is channels last
        matrix = torch.matmul(lead.flatten(0, 3), kernels)  # (C', pairs of an output and an input place, C)
        product = maps.permute(0, 2, 3, 1).flatten(1) @ matrix.view(-1, height * width * self.in_channels).T
        product = product.view(count, self.out_channels, rows, columns)
        return product.contiguous(memory_format=torch.channels_last)


@cache
@torch.inference_mode(False)  # what is kept may be needed by a backward pass
def leads(sides: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes) -> Tensor:
    """Which tap leads from an input place to an output place: float32 (H', W', H, W, taps), 1 where it does, else 0."""
    axes = []  # (outputs, inputs, taps) of each
    for side, size, step, room in zip(sides, kernel, stride, padding, strict=True):
        outputs = (side + 2 * room - size) // step + 1
        tap = torch.arange(side) - step * torch.arange(outputs)[:, None] + room
        axes.append((tap[:, :, None] == torch.arange(size)).float())
    return torch.einsum("oik,pjl->opijkl", *axes).flatten(4)


def quickened(model: nn.Module) -> nn.Module:
    """`model` itself, its convolutions of 3x3 without a bias now of the class above: the same weights and names."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size == (3, 3) and layer.bias is None:
            assert layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
            layer.__class__ = Convolution
    return model
