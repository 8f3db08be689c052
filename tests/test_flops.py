"""What a model costs, against values computed by hand and published ones."""

import pytest
import torch
from torch import nn

from tinyclf.models.flops import multiply_adds
from tinyclf.models.resnet import build_model
from tinyclf.utils.errors import TinyclfError


def by_hand(side, stem, classes):
    """Multiply-adds of ResNet18 forward: the stem, and 16 convolutions of 3x3 and 3 of 1x1 behind it.

    side: of the maps of layer1; each of the three layers after it halves it and doubles the channels.
    """
    first = 4 * side**2 * 64 * 64 * 9
    weights = 9 / 2 + 3 * 9 + 1 / 2  # into it from half as many channels, 3 more of its own size, and 1x1 past two
    later = sum((side // 2**level) ** 2 * (64 * 2**level) ** 2 * weights for level in (1, 2, 3))
    return stem + first + later + 512 * classes


@pytest.mark.parametrize(
    ("stem", "side", "products"),
    [("imagenet", 16, 32**2 * 64 * 3 * 49), ("small", 64, 64**2 * 64 * 3 * 9), ("sub-pixel", 64, 128**2 * 64 * 3 * 25)],
)
def test_the_counts_of_resnet18_are_those_by_hand(stem, side, products):
    model = build_model("resnet18", 200, stem=stem)
    assert multiply_adds(model, 64) == 3 * by_hand(side, products, 200) - products  # no gradient of the image itself


@pytest.mark.parametrize(
    ("name", "forward", "first"),
    [("mobilenet_v3_small", 0.057e9, 112**2 * 16 * 3 * 9), ("vit_b_16", 17.564e9, 14**2 * 768 * 3 * 16**2)],
)
def test_any_model_takes_forward_what_torchvision_publishes_and_backward_twice_that(name, forward, first):
    with torch.device("meta"):
        model = build_model(name, 1000)
    assert multiply_adds(model, 224) == pytest.approx(3 * forward - first, rel=0.01)


def test_a_size_that_a_model_cannot_take_is_named_and_nothing_of_a_model_is_changed():
    with torch.device("meta"):
        model = build_model("alexnet", 10)
    with pytest.raises(TinyclfError, match=r"input_size = 32: .* cannot be trained on images of that size"):
        multiply_adds(model, 32)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).train()
    before = [value.clone() for value in model.state_dict().values()]
    assert multiply_adds(model, 3) == 2 * 4 * 27 + 3 * 8
    assert model.training and all(map(torch.equal, model.state_dict().values(), before))
