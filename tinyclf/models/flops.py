"""What training a model costs, in multiply-adds."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tinyclf.utils.errors import TinyclfError


def multiply_adds(model: nn.Module, input_size: int) -> int:
    """Multiply-adds, forward and backward, of training `model` on one image of `input_size` x `input_size` pixels.

    Those of convolutions and matrix products, as torch's FlopCounterMode counts them; norms, activations and biases are
    not counted. Nothing is computed: a copy on torch's `meta` device has shapes alone. `model` stays as it is.
    Raises TinyclfError for a size that the model cannot take.
    """
    model = copy.deepcopy(model).to("meta").eval()  # batch norm takes a single image in evaluation alone
    images = torch.empty(1, 3, input_size, input_size, device="meta")
    try:
        with FlopCounterMode(display=False, custom_mapping=GROUPED) as counter, torch.enable_grad():
            model(images).sum().backward()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise TinyclfError(
            f"input_size = {input_size}: {type(model).__name__} cannot be trained on images of that size ({error})"
        ) from error
    return int(counter.get_total_flops()) // 2


def convolution_backward(gradient: Sequence[int], maps: Any, weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Operations of a convolution's gradients, of shapes: for each of the weights' and the input's as many as forward.

    gradient, that of the output: (B, C', H', W'); weight: (C', C / groups, h, w).
    """
    gradients = sum(args[-1][:2])  # the last argument tells whether the input, the weight and the bias need theirs
    return 2 * int(gradients) * gradient[0] * math.prod(gradient[2:]) * math.prod(weight)


# torch's own count takes the gradient of the weights for one over all pairs of channels, whatever the groups
GROUPED = {torch.ops.aten.convolution_backward: convolution_backward}
