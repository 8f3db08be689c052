"""What a model costs, against values computed by hand and torch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tinyclf.arithmetic import COUNTS, layers, stages, training_cost
from tinyclf.models import resnet18
from tinyclf.settings import Settings


def by_hand(side, stem_pixels, stem_inputs, classes):
    """Multiply-adds of ResNet18 forward: the stem, and 16 convolutions of 3x3 and 3 of 1x1 behind it.

    side: of the maps of layer1; each of the three layers after it halves it and doubles the channels.
    """
    stem = stem_pixels * 64 * stem_inputs
    first = 4 * side**2 * 64 * 64 * 9
    later = sum(
        (side // 2**level) ** 2 * (64 * 2**level) ** 2 * (9 / 2 + 3 * 9 + 1 / 2) for level in (1, 2, 3)
    )  # into it from half as many channels, 3 more of its own size, and 1x1 past the first two
    return stem + first + later + 512 * classes


@pytest.mark.parametrize(
    ("model", "size", "forward", "stem"),
    [
        (resnet18(1000), 224, by_hand(56, 112**2, 3 * 49, 1000), 112**2 * 64 * 3 * 49),
        (resnet18(200), 64, by_hand(16, 32**2, 3 * 49, 200), 32**2 * 64 * 3 * 49),
        (resnet18(200, stem="small"), 64, by_hand(64, 64**2, 3 * 9, 200), 64**2 * 64 * 3 * 9),
        (resnet18(200, stem="sub-pixel"), 64, by_hand(64, 128**2, 3 * 25, 200), 128**2 * 64 * 3 * 25),
    ],
    ids=["224", "64", "64, small stem", "64, sub-pixel stem"],
)
def test_the_counts_of_resnet18_are_those_by_hand_and_by_torchs_counter(model, size, forward, stem):
    table = layers(model, size)
    assert table["forward"].sum() == forward
    assert table["backward"].sum() == 2 * forward - stem  # no gradient of the image itself
    assert table["parameters"].sum() == sum(each.numel() for each in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(torch.zeros(1, 3, size, size, device="meta"))
    assert counter.get_total_flops() == 2 * forward


def test_resnet18_at_224_costs_what_is_said_of_it():
    costs = stages(resnet18(1000), 224).loc["in all"]
    assert 1.81e9 < costs["forward"] < 1.83e9 and costs["parameters"] == 11_689_512


def test_every_layer_is_listed_as_an_image_passes_it_and_the_stages_are_its_sums():
    model = resnet18(200)
    table, parts = layers(model, 224), stages(model, 224)
    assert table.index[:4].tolist() == ["conv1", "bn1", "relu", "maxpool"] and table.index[-1] == "fc"
    assert table.loc["layer4.1.conv2", "output"] == (512, 7, 7)
    assert parts.index.tolist() == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc", "in all")
    ]
    assert parts["output"][["conv1", "layer1", "layer4", "fc"]].tolist() == [
        (64, 112, 112),
        (64, 56, 56),
        (512, 7, 7),
        (200,),
    ]
    assert (parts.loc["in all", COUNTS] == table[COUNTS].sum()).all()


def test_training_costs_what_its_images_cost_at_the_sizes_that_they_are_shown_at():
    each = {size: int(layers(resnet18(200), size)[["forward", "backward"]].sum().sum()) for size in (48, 56, 64)}
    assert training_cost(Settings(), 200, 100_000) == 15 * 100_000 * each[64]
    growing = Settings(epochs=3, grow_from=48)  # 48, 56, 64
    assert training_cost(growing, 200, 7) == 7 * sum(each.values())


def test_nothing_of_the_model_is_changed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = layers(model, 3)
    assert table["forward"].tolist() == [4 * 27, 0, 0, 8] and table["backward"].tolist() == [4 * 27, 0, 0, 16]
    assert model.training and next(model.parameters()).device.type == "cpu"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
