"""torchvision's models by their names, and the surgery on ResNets."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import conv2d, pad, pixel_shuffle

from tinyclf.models.resnet import build_model, change_stem, head_names
from tinyclf.utils.errors import TinyclfError


@pytest.mark.parametrize(
    "name", ["resnet18", "resnext50_32x4d", "mobilenet_v3_small", "squeezenet1_1", "convnext_tiny", "densenet121"]
)
def test_a_model_is_torchvisions_own_to_the_last_bit(name):
    torch.manual_seed(0)
    model = build_model(name, 7).eval()
    torch.manual_seed(0)
    original = torchvision.models.get_model(name, num_classes=7).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(images), original(images)) and model(images).shape == (2, 7)


def test_mnasnet_takes_a_state_dict_of_a_checkpoint_and_so_does_a_copy():
    model = build_model("mnasnet0_5", 7)
    copied = copy.deepcopy(model)
    copied.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    assert all((value == 1).all() for value in copied.state_dict().values())
    assert not (model.classifier[1].weight == 1).all()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out(name):
    with torch.device("meta"):
        model = build_model(name, 7).train()
        assert model(torch.rand(2, 3, 128, 128)).shape == (2, 7)
    assert not any(tensor.lower().startswith("aux") for tensor in model.state_dict())


def test_the_average_pool_of_a_resnet_takes_images_of_any_size():
    model = build_model("resnet34", 10).eval()
    assert repr(model.avgpool) == "AdaptiveAvgPool2d(output_size=1)"
    assert all(model(torch.rand(1, 3, size, size)).shape == (1, 10) for size in (32, 64, 224))


@pytest.mark.parametrize(("stem", "side"), [("small", 64), ("small-pool", 64), ("sub-pixel", 64), ("imagenet", 16)])
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_stems(name, stem, side):
    model = build_model(name, 20, stem=stem)
    assert (model.conv1.bias is not None) == stem.startswith("small")
    assert model.maxpool(model.conv1(torch.rand(1, 3, 64, 64))).shape == (1, 64, side, side)
    assert isinstance(model.maxpool, nn.Identity) == (stem == "small")


def test_the_weights_are_those_of_the_seed_whichever_way_a_stem_is_changed():
    torch.manual_seed(3)
    model = build_model("resnet18", 20, stem="small")
    torch.manual_seed(3)
    changed = torchvision.models.resnet18(num_classes=20)
    change_stem(changed, "small")
    assert model.state_dict().keys() == changed.state_dict().keys()
    assert all(torch.equal(value, changed.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_sub_pixel_stem_is_torchs_pixel_shuffle(layout):
    model, images = build_model("resnet18", 10, stem="sub-pixel").to(memory_format=layout), torch.rand(2, 3, 9, 5)
    maps = model.conv1(images)
    padded = pad(images, (2, 2, 2, 2), mode="replicate")
    torch.testing.assert_close(maps, pixel_shuffle(conv2d(padded, model.conv1.weight), 2))
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_the_last_norms_of_a_resnets_blocks_can_start_at_0():
    norms = [block.bn2.weight for block in build_model("resnet18", 10, zero_init=True).layer3]
    assert not any(norm.any() for norm in norms)


@pytest.mark.parametrize(
    "name",
    ["resnet50", "alexnet", "vgg11_bn", "squeezenet1_0", "mnasnet0_5", "vit_b_16", "swin_t", "maxvit_t", "googlenet"],
)
def test_the_head_is_what_depends_on_the_number_of_classes(name):
    with torch.device("meta"):
        model, other = build_model(name, 3), build_model(name, 4).state_dict()
    expected = tuple(tensor for tensor, value in model.state_dict().items() if value.shape != other[tensor].shape)
    assert head_names(model) == expected


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet81", {}, "model = 'resnet81': .*did you mean resnet18"),
        ("resnet18", {"stem": "tiny"}, "stem = 'tiny': .*small-pool"),
        ("mobilenet_v3_small", {"stem": "small"}, "stem = 'small': only torchvision's ResNets .* not MobileNetV3"),
        (
            "vit_b_16",
            {"zero_init": True},
            "zero_init, shallow: only ResNets have them, and the model is 'vit_b_16'",
        ),
    ],
)
def test_what_no_model_has_is_refused(name, options, said):
    with pytest.raises(TinyclfError, match=said):
        build_model(name, 10, **options)
