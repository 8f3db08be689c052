"""torchvision's models by their names, and the surgery on them: stems, whitened filters, growing depth, small maps."""

import copy
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import random_data
import torch
import torchvision
from torch import nn
from torch.nn.functional import conv2d, interpolate, normalize, pad, pixel_shuffle
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from tinyclf import Run, Settings, load_data
from tinyclf.experiments.recipe import build_recipe, compute
from tinyclf.models import small_map_conv
from tinyclf.models.flops import multiply_adds
from tinyclf.models.resnet import GrowingDepth, build_model, head_names, whiten_filters
from tinyclf.models.small_map_conv import PRODUCT_IMAGES, SmallMapConv2d, tap_matrix, use_small_map_conv
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
    def model(**options):
        return build_recipe(Settings(normalization="imagenet", **options), load_data("mini")).model

    plain, whitened = model().state_dict(), model(stem_init="whitened").state_dict()
    assert [name for name in plain if not torch.equal(plain[name], whitened[name])] == ["conv1.weight"]
    larger = model(stem_init="whitened", input_size=32)
    assert not torch.equal(whitened["conv1.weight"], larger.conv1.weight)
    with pytest.raises(TinyclfError, match="stem_init = 'whitened': only ResNets have it, not 'mobilenet_v2'"):
        model(stem_init="whitened", model="mobilenet_v2")


def test_shallow_it_is_a_resnet_of_one_block_a_stage_and_then_the_whole_one():
    torch.manual_seed(0)
    whole, images = resnet18(num_classes=4), torch.randn(4, 3, 32, 32)
    small = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    small.load_state_dict({name: value for name, value in whole.state_dict().items() if name in small.state_dict()})
    model = copy.deepcopy(whole)
    before_step = GrowingDepth(model, 2)
    for step, expected in enumerate((small, small, whole)):
        before_step(step)
        assert torch.equal(model(images), expected(images))
    assert str(model) == str(whole) and model.state_dict().keys() == whole.state_dict().keys()


PLAIN = {"kernel_size": 3, "padding": 1, "bias": False}


def changed(model):
    use_small_map_conv(model)
    return model


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 512])  # from which on columns are taken
def test_maps_and_gradients_are_those_of_torch(stride, channels, monkeypatch):
    monkeypatch.setattr(small_map_conv, "COLUMNS_CHANNELS", channels)
    torch.manual_seed(0)
    theirs = nn.Conv2d(4, 6, stride=stride, **PLAIN).double().to(memory_format=torch.channels_last)
    ours = changed(nn.Sequential(nn.Conv2d(4, 6, stride=stride, **PLAIN).double()))
    ours[0].load_state_dict(theirs.state_dict())
    assert type(ours[0]) is SmallMapConv2d
    shapes = ((1, 1), (2, 2), (1, 2), (2, 4), (5, 3), (9, 8))
    for shape, count in product(shapes, (0, 1, PRODUCT_IMAGES)):
        results, values = [], torch.rand(count, 4, *shape, dtype=torch.float64)
        for layer in (ours, theirs):
            layer.zero_grad()
            maps = values.clone().requires_grad_()
            out = layer(maps)
            out.square().sum().backward()
            results.append((out, maps.grad, next(layer.parameters()).grad))
        torch.testing.assert_close(*results)


def test_a_model_used_for_inference_first_can_be_trained_after():
    tap_matrix.cache_clear()
    model = changed(nn.Sequential(nn.Conv2d(2, 2, **PLAIN)))
    with torch.inference_mode():
        model(torch.rand(1, 2, 1, 1))
    model(torch.rand(1, 2, 1, 1)).sum().backward()
    assert model[0].weight.grad.any()


def test_any_other_convolution_stays_and_resnet18_keeps_its_names_and_weights():
    for options in ({"kernel_size": 1}, {"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"bias": True}):
        assert type(changed(nn.Sequential(nn.Conv2d(4, 4, **PLAIN | options)))[0]) is nn.Conv2d
    model = resnet18()
    before, printed = {name: value.clone() for name, value in model.state_dict().items()}, repr(model)
    use_small_map_conv(model)
    assert repr(model) == printed
    assert all(map(torch.equal, model.state_dict().values(), before.values())) and [*model.state_dict()] == [*before]
    assert sum(type(layer) is SmallMapConv2d for layer in model.modules()) == 16  # all but the stem and the 1x1


GROWING = Settings(
    **{"epochs": 3, "batch_size": 8, "input_size": 32, "start_size": 16, "learning_rate": 0.05, "schedule": "linear"},
    **{"shallow": 0.45, "nesterov": True, "weight_decay": 5e-4},
)  # of 9 steps, the first 4 are shallow


def test_the_blocks_stay_as_they_are_until_they_join_and_are_trained_from_then_on():
    settings, data = replace(GROWING, weight_decay=0.0), random_data.data()
    recipe, changed = build_recipe(settings, data), []
    grow, joining = recipe.before_step, ("layer1.1.", "layer2.1.", "layer3.1.", "layer4.1.")
    blocks = {name: value for name, value in recipe.model.named_parameters() if name.startswith(joining)}
    start = {name: value.clone() for name, value in blocks.items()}

    def look(step):
        changed.append({name for name, value in blocks.items() if not torch.equal(value, start[name])})
        grow(step)

    recipe.before_step = look
    Run(settings, data, "looked-at").fit(**vars(recipe))
    assert changed[:5] == [set()] * 5 and len(changed) == 9
    assert changed[5] == {name for name in start if name.endswith(("bn2.weight", "bn2.bias"))}
    assert changed[7] == start.keys()


def test_compute_counts_the_blocks_that_run_however_deep_the_model_is_left():
    data = random_data.data()
    recipe = build_recipe(GROWING, data)
    small, whole = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4), resnet18(num_classes=4)
    trained = (20, small, 16), (8, small, 24), (12, whole, 24), (20, whole, 32)
    expected = sum(images * multiply_adds(model, size) for images, model, size in trained)
    recipe.before_step(0)  # shallow, as after an interruption
    parent = SimpleNamespace(about={"compute": {"own": 1, "total": 5}})  # which has a parent itself
    counted = compute(recipe.model, GROWING, data, parent)
    assert (counted["own"], counted["total"]) == (expected, expected + 5)
