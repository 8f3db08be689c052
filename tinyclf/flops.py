"""What an image costs a model: sizes, parameters and operations of every layer, counted from the model itself."""

import copy
from functools import cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tinyclf.resnet import resnet18
from tinyclf.settings import Settings

COUNTS = ["parameters", "forward", "backward"]


def layers(model: nn.Module, input_size: int) -> pd.DataFrame:
    """Every layer of `model`, in the order in which an image of `input_size` x `input_size` pixels passes them.

    Indexed by name. Columns: `output`, (C, H, W) or (C,); `parameters`; `forward` and `backward`, the multiply-adds of
    convolutions and products for one image (norms, pools and activations have none; adding a bias is not counted).
    Backward takes as many for the gradient of a layer's weights as forward, and as many again for that of its input,
    which the first layer does not need. Sums over COUNTS are those of the model. Nothing is computed: the model is
    copied to torch's `meta` device, where tensors have shapes alone.
    """
    model = copy.deepcopy(model).to("meta").eval()
    rows: list[dict[str, Any]] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        # For one number of the output
        each = layer.weight[0].numel() if isinstance(layer, (nn.Conv2d, nn.Linear)) else 0
        rows.append(
            {
                "layer": name,
                "output": tuple(output.shape[1:]),
                "parameters": sum(values.numel() for values in layer.parameters()),
                "forward": each * output[0].numel(),
                "backward": each * output[0].numel() * (2 if any(row["forward"] for row in rows) else 1),
            }
        )

    for name, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
    model(torch.empty(1, 3, input_size, input_size, device="meta"))
    return pd.DataFrame(rows).set_index("layer")


def training_cost(settings: Settings, classes: int, images: int) -> int:
    """The multiply-adds, forward and backward, of training by `settings` on so many images an epoch.

    Evaluation, augmentation and the optimiser's own arithmetic are not counted.
    """
    return images * sum(
        image_cost(classes, settings.stem, settings.size_in(1 + epoch)) for epoch in range(settings.epochs)
    )


@cache
def image_cost(classes: int, stem: str, input_size: int) -> int:
    """The multiply-adds, forward and backward, that one image takes of our ResNet18."""
    return int(layers(resnet18(classes, stem=stem), input_size)[["forward", "backward"]].sum().sum())


def stages(model: nn.Module, input_size: int) -> pd.DataFrame:
    """The multiply-adds of `image_cost` for each part of `model`, as torchvision names them, and in all.

    `layer1` is four convolutions. `output` is that of a part's last layer.
    """
    each = layers(model, input_size)
    parts = each.groupby(each.index.str.split(".").str[0], sort=False)
    table = parts.agg({"output": "last"} | dict.fromkeys(COUNTS, "sum"))
    table.loc["in all"] = {"output": table["output"].iloc[-1]} | table[COUNTS].sum().to_dict()
    return table
