"""What training a model costs: multiply-adds of any model, and a table of its layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.lazy import pd

COUNTS = ["parameters", "forward", "backward"]


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


def convolution_backward(
    gradient: Sequence[int], maps: Sequence[int], weight: Sequence[int], *args: Any, out_shape: Any, **kwargs: Any
) -> int:
    """Operations of a convolution's gradients, of shapes: for each of the weights' and the input's as many as forward.

    gradient, that of the output: (B, C', H', W'); weight: (C', C / groups, h, w).
    """
    gradients = sum(args[-1][:2])  # the last argument tells whether the input, the weight and the bias need theirs
    return 2 * int(gradients) * gradient[0] * math.prod(gradient[2:]) * math.prod(weight)


# torch's own count takes the gradient of the weights for one over all pairs of channels, whatever the groups
GROUPED = {torch.ops.aten.convolution_backward: convolution_backward}


def training_multiply_adds(model: nn.Module, images: Mapping[int, int]) -> int:
    """Multiply-adds of training; images: how many of each input size, in all epochs.

    Evaluation, augmentation and the steps of the optimizer are not counted.
    """
    return sum(count * multiply_adds(model, size) for size, count in images.items())


def layers(model: nn.Module, input_size: int) -> pd.DataFrame:
    """Every layer of `model`, in the order in which an image of `input_size` x `input_size` pixels passes them.

    Indexed by name. Columns: `output`, (C, H, W) or (C,); `parameters`; `forward` and `backward`, the multiply-adds of
    convolutions and linear layers for one image. Backward takes as many for the gradient of a layer's weights as
    forward, and as many again for that of its input, which the first layer does not need.
    """
    model = copy.deepcopy(model).to("meta").eval()
    rows: list[dict[str, Any]] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        products = layer.weight[0].numel() if isinstance(layer, (nn.Conv2d, nn.Linear)) else 0  # a number of the output
        forward = products * output[0].numel()
        rows.append(
            {
                "layer": name,
                "output": tuple(output.shape[1:]),
                "parameters": sum(values.numel() for values in layer.parameters()),
                "forward": forward,
                "backward": forward * (2 if any(row["forward"] for row in rows) else 1),
            }
        )

    for name, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
    model(torch.empty(1, 3, input_size, input_size, device="meta"))
    return pd.DataFrame(rows).set_index("layer")


def stages(model: nn.Module, input_size: int) -> pd.DataFrame:
    """The sums of `layers` for each part of `model`, as torchvision names them, and `in all`.

    `layer1` is four convolutions. `output` is that of a part's last layer.
    """
    table = layers(model, input_size)
    parts = table.groupby(table.index.str.split(".").str[0], sort=False)
    sums = parts.agg({"output": "last"} | dict.fromkeys(COUNTS, "sum"))
    sums.loc["in all"] = {"output": sums["output"].iloc[-1]} | sums[COUNTS].sum().to_dict()
    return sums
