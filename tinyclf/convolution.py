"""Convolutions of the smallest maps as the one matrix product that they are, which a CPU has sooner."""

from functools import cache

import torch
from torch import Tensor, nn

# Height and width up to which it is a product: there, the matrix from all inputs to all outputs has no more numbers to
# multiply with than the convolution has, most of whose taps lie on the padding. oneDNN is slow at those maps, most of
# all in the gradient of the weights: from 512 to 512 channels, of 64 maps of 1x1, forward and backward take it 59 ms
# where the product takes 3 (AVX2, 2 cores); of 100 maps of 2x2, 128 and 36. At 3x3 and 4x4 the product is no faster.
SIDE = 2


class Convolution(nn.Conv2d):
    """torch's `Conv2d`, with its results but for rounding; what `quickened` makes of those that suit."""

    def forward(self, maps: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', H', W'), as `Conv2d` does."""
        count, _, height, width = maps.shape
        if maps.device.type != "cpu" or max(height, width) > SIDE:
            return super().forward(maps)
        sizes = zip((height, width), self.kernel_size, self.stride, self.padding, strict=True)
        down, across = (taps(*each) for each in sizes)
        # Of every pair of an output and an input place, which tap leads from one to the other, if any
        lead = torch.einsum("oik,pjl->opijkl", down, across).to(self.weight)
        rows, columns = lead.shape[:2]
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # (C', taps, C), a view of what is channels last
        matrix = torch.matmul(lead.view(-1, kernels.shape[1]), kernels)  # (C', pairs, C)
        product = maps.permute(0, 2, 3, 1).flatten(1) @ matrix.view(-1, height * width * self.in_channels).T
        product = product.view(count, self.out_channels, rows, columns)
        return product.contiguous(memory_format=torch.channels_last)


@cache
@torch.inference_mode(False)  # what is kept may be needed by a backward pass
def taps(side: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Along one axis, float32 (outputs, inputs, taps): 1 where a tap leads from an input to an output, else 0."""
    outputs = (side + 2 * padding - kernel) // stride + 1
    tap = torch.arange(side) - stride * torch.arange(outputs)[:, None] + padding
    return (tap[:, :, None] == torch.arange(kernel)).float()


def quickened(model: nn.Module) -> nn.Module:
    """`model` itself, its convolutions of 3x3 without a bias now of the class above: the same weights and names."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size == (3, 3) and layer.bias is None:
            assert layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
            layer.__class__ = Convolution
    return model
