"""What a model costs, against values computed by hand and torch's own counter."""

import pytest
import torch
from torch import nn

from tinyclf.models.flops import COUNTS, layers, multiply_adds, stages, training_multiply_adds
from tinyclf.models.resnet import build_model
from tinyclf.utils.errors import TinyclfError


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
        (build_model("resnet18", 1000), 224, by_hand(56, 112**2, 3 * 49, 1000), 112**2 * 64 * 3 * 49),
        (build_model("resnet18", 200), 64, by_hand(16, 32**2, 3 * 49, 200), 32**2 * 64 * 3 * 49),
        (build_model("resnet18", 200, stem="small"), 64, by_hand(64, 64**2, 3 * 9, 200), 64**2 * 64 * 3 * 9),
        (build_model("resnet18", 200, stem="sub-pixel"), 64, by_hand(64, 128**2, 3 * 25, 200), 128**2 * 64 * 3 * 25),
    ],
    ids=["224", "64", "64, small stem", "64, sub-pixel stem"],
)
def test_the_counts_of_resnet18_are_those_by_hand_and_by_torchs_counter(model, size, forward, stem):
    table = layers(model, size)
    assert table["forward"].sum() == forward
    assert table["backward"].sum() == 2 * forward - stem  # no gradient of the image itself
    assert table["parameters"].sum() == sum(values.numel() for values in model.parameters())
    assert multiply_adds(model, size) == 3 * forward - stem


def test_resnet18_at_224_costs_what_is_said_of_it():
    costs = stages(build_model("resnet18", 1000), 224).loc["in all"]
    assert 1.81e9 < costs["forward"] < 1.83e9 and costs["parameters"] == 11_689_512


def test_every_layer_is_listed_as_an_image_passes_it_and_the_stages_are_its_sums():
    model = build_model("resnet18", 200)
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


@pytest.mark.parametrize(
    ("name", "size", "forward"),
    [
        ("resnet34", 224, 3.664e9),
        ("mobilenet_v3_small", 224, 0.057e9),
        ("vit_b_16", 224, 17.564e9),
        ("resnet50", 224, 4.089e9),
    ],
)
def test_any_model_takes_forward_what_torchvision_publishes_and_backward_twice_that(name, size, forward):
    with torch.device("meta"):
        model = build_model(name, 1000)
    counts = layers(model, size)["forward"]
    first = counts[counts > 0].iloc[0]  # the first layer needs no gradient of the image
    assert multiply_adds(model, size) == pytest.approx(3 * forward - first, rel=0.01)


def test_training_takes_what_its_images_take_at_the_sizes_that_they_are_shown_at():
    model = build_model("resnet18", 200)
    image = {size: int(layers(model, size)[["forward", "backward"]].sum().sum()) for size in (48, 56, 64)}
    assert training_multiply_adds(model, {64: 1_500_000}) == 15 * 100_000 * image[64]
    assert training_multiply_adds(model, dict.fromkeys(image, 7)) == 7 * sum(image.values())


@pytest.mark.parametrize("name", ["vit_b_16", "alexnet"])
def test_a_size_that_a_model_cannot_take_is_named(name):
    with torch.device("meta"):
        model = build_model(name, 10)
    with pytest.raises(TinyclfError, match=r"input_size = 32: .* cannot be trained on images of that size"):
        multiply_adds(model, 32)


def test_nothing_of_the_model_is_changed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = layers(model, 3)
    assert multiply_adds(model, 3) == 2 * 4 * 27 + 3 * 8
    assert table["forward"].tolist() == [4 * 27, 0, 0, 8] and table["backward"].tolist() == [4 * 27, 0, 0, 16]
    assert model.training and next(model.parameters()).device.type == "cpu"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
