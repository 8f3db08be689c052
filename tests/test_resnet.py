"""torchvision's models by their names, and the surgery on ResNets: stems, whitened filters, growing depth."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import conv2d, interpolate, normalize, pad, pixel_shuffle
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from tinyclf.data.cache import load_data
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import GrowingDepth, build_model, head_names, whiten_filters
from tinyclf.utils.errors import TinyclfError


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_a_model_is_torchvisions_own_to_the_last_bit(name):
    torch.manual_seed(0)
    model = build_model(name, 7).eval()
    torch.manual_seed(0)
    original = torchvision.models.get_model(name, num_classes=7).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(images), original(images)) and model(images).shape == (2, 7)


def test_the_head_is_what_depends_on_the_number_of_classes_and_auxiliary_ones_are_left_out():
    for name in ("alexnet", "squeezenet1_0", "vit_b_16", "maxvit_t", "googlenet", "inception_v3"):
        with torch.device("meta"):
            model, other = build_model(name, 3), build_model(name, 4).state_dict()
        own = model.state_dict()
        assert head_names(model) == tuple(each for each, value in own.items() if value.shape != other[each].shape)
        assert not any(each.lower().startswith("aux") for each in own)


def test_stems_and_the_average_pool_take_images_of_any_size():
    for stem, side in {"small": 64, "small-pool": 64, "sub-pixel": 64, "imagenet": 16}.items():
        for name in ("resnet18", "wide_resnet50_2"):
            with torch.device("meta"):
                model = build_model(name, 20, stem=stem).eval()
                assert model.maxpool(model.conv1(torch.rand(1, 3, 64, 64))).shape == (1, 64, side, side)
                assert model(torch.rand(2, 3, 40, 40)).shape == (2, 20)
            assert (model.conv1.bias is not None) == stem.startswith("small")
            assert isinstance(model.maxpool, nn.Identity) == (stem == "small")


def test_the_sub_pixel_stem_is_torchs_pixel_shuffle():
    model, images = build_model("resnet18", 10, stem="sub-pixel"), torch.rand(2, 3, 9, 5)
    maps = model.conv1(images)
    padded = pad(images, (2, 2, 2, 2), mode="replicate")
    torch.testing.assert_close(maps, pixel_shuffle(conv2d(padded, model.conv1.weight), 2))
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_unknown_names_and_what_other_models_do_not_have_are_refused():
    for name, options, said in (
        ("resnet81", {}, "model = 'resnet81': .*did you mean resnet18"),
        ("resnet18", {"stem": "tiny"}, "stem = 'tiny': .*small-pool"),
        ("mobilenet_v3_small", {"stem": "small"}, "stem = 'small': only torchvision's ResNets .* not MobileNetV3"),
        ("vit_b_16", {"zero_init": True}, "zero_init, shallow: only ResNets have them, and the model is 'vit_b_16'"),
    ):
        with pytest.raises(TinyclfError, match=said):
            build_model(name, 10, **options)


def test_whitened_maps_have_variance_one_and_are_uncorrelated_and_the_first_filters_are_the_main_axes():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 16, 7, stride=2, bias=False)
    images = interpolate(torch.randn(300, 3, 8, 8), (32, 32), mode="bilinear")  # neighbouring pixels are alike
    whiten_filters(layer, images)
    maps = layer(images).transpose(0, 1).flatten(1)
    assert torch.equal(maps[:8], -maps[8:])
    torch.testing.assert_close(maps[:8] @ maps[:8].T / maps.shape[1], torch.eye(8), atol=0.05, rtol=0)
    patches = nn.functional.unfold(images, 7, stride=2).transpose(1, 2).flatten(0, 1)
    axes = torch.linalg.svd(patches, full_matrices=False).Vh[:4]
    found = normalize(layer.weight.detach()[:4].flatten(1))
    torch.testing.assert_close((found @ axes.T).abs(), torch.eye(4), atol=1e-3, rtol=0)


def test_a_recipe_has_whitened_filters_of_its_data_and_its_size_and_nothing_else_changes():
    data = load_data("mini")
    plain, whitened, larger = (
        build_recipe(Settings(normalization="tiny-imagenet", **options), data).model.state_dict()
        for options in ({}, {"stem_init": "whitened"}, {"stem_init": "whitened", "input_size": 32})
    )
    assert [name for name in plain if not torch.equal(plain[name], whitened[name])] == ["conv1.weight"]
    assert not torch.equal(whitened["conv1.weight"], larger["conv1.weight"])
    with pytest.raises(TinyclfError, match="stem_init = 'whitened': only ResNets have it, not 'mobilenet_v2'"):
        build_recipe(Settings(stem_init="whitened", normalization="imagenet", model="mobilenet_v2"), data)


def test_shallow_it_is_a_resnet_of_one_block_a_stage_and_then_the_whole_one():
    torch.manual_seed(0)
    whole, images = resnet18(num_classes=4), torch.randn(4, 3, 32, 32)
    small = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    small.load_state_dict({name: value for name, value in whole.state_dict().items() if name in small.state_dict()})
    model = resnet18(num_classes=4)
    model.load_state_dict(whole.state_dict())
    before_step = GrowingDepth(model, 2)
    for step, expected in enumerate((small, small, whole)):
        before_step(step)
        assert torch.equal(model(images), expected(images))
    assert str(model) == str(whole) and model.state_dict().keys() == whole.state_dict().keys()
    model = build_model("resnet18", 4, zero_init=True)
    before_step = GrowingDepth(model, 1)
    before_step(0)
    shallow = model(images)
    before_step(1)
    assert torch.equal(model(images), shallow)  # blocks that start as the identity change nothing when they join
