"""The convolution of small maps against torch's own."""

import pytest
import torch
import torchvision
from torch import nn

from tinyclf.models import small_map_conv
from tinyclf.models.small_map_conv import SmallMapConv2d, tap_matrix, use_small_map_conv


def changed(model):
    use_small_map_conv(model)
    return model


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 2), (2, 1), (3, 3), (2, 4), (5, 3), (9, 8)])
@pytest.mark.parametrize("count", [0, 1, small_map_conv.PRODUCT_IMAGES])
@pytest.mark.parametrize("channels", [1, small_map_conv.COLUMNS_CHANNELS])  # that columns pay for
def test_maps_and_gradients_are_those_of_torch(shape, stride, count, channels, monkeypatch):
    monkeypatch.setattr(small_map_conv, "COLUMNS_CHANNELS", channels)
    torch.manual_seed(0)
    theirs = nn.Conv2d(4, 6, 3, stride, 1, bias=False).double().to(memory_format=torch.channels_last)
    ours = changed(nn.Sequential(nn.Conv2d(4, 6, 3, stride, 1, bias=False).double()))
    ours[0].load_state_dict(theirs.state_dict())
    assert type(ours[0]) is SmallMapConv2d
    results = []
    for layer in (ours, theirs):
        maps = torch.rand(count, 4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        out = layer(maps.requires_grad_())
        out.square().sum().backward()
        results.append((out, maps.grad, next(layer.parameters()).grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_used_for_inference_first_can_be_trained_after():
    tap_matrix.cache_clear()
    model = changed(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False)))
    with torch.inference_mode():
        model(torch.rand(1, 2, 1, 1))
    model(torch.rand(1, 2, 1, 1)).sum().backward()
    assert model[0].weight.grad.any()


@pytest.mark.parametrize(
    "channels, side, stride, count, way",
    [
        (4, 1, 1, 1, "product"),
        (4, 2, 2, 31, "columns"),
        (4, 2, 1, 32, "product"),
        (512, 4, 1, 32, "columns"),
        (512, 8, 2, 1, "columns"),
        (511, 4, 1, 1, "torch"),
        (512, 5, 1, 1, "torch"),
    ],
)
def test_each_map_goes_the_way_that_is_fastest(channels, side, stride, count, way, monkeypatch):
    taken = []
    for name in ("product", "columns"):
        monkeypatch.setattr(SmallMapConv2d, name, lambda self, maps, name=name: taken.append(name))
    layer = changed(nn.Sequential(nn.Conv2d(1, channels, 3, stride, padding=1, bias=False)))
    layer(torch.rand(count, 1, side, side))
    assert taken == ([] if way == "torch" else [way])


def test_a_model_is_exported_for_any_number_of_images():
    model = changed(nn.Sequential(nn.Conv2d(3, 512, 3, padding=1, bias=False))).eval()
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(model, (torch.rand(8, 3, 2, 2),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 40):
        images = torch.rand(count, 3, 2, 2)
        torch.testing.assert_close(exported(images), model(images))


def test_what_is_larger_or_elsewhere_is_torchs_own():
    layer = changed(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False)))
    plain = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    plain.load_state_dict(layer[0].state_dict())
    maps = torch.rand(2, 2, 4, 4)
    assert torch.equal(layer(maps), plain(maps))
    assert layer.to("meta")(torch.empty(3, 2, 1, 1, device="meta")).shape == (3, 2, 1, 1)


def test_resnet18_keeps_its_names_and_weights():
    model = torchvision.models.resnet18()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    printed = repr(model)
    use_small_map_conv(model)
    assert repr(model) == printed
    assert all(map(torch.equal, model.state_dict().values(), before.values())) and [*model.state_dict()] == [*before]
    assert sum(type(layer) is SmallMapConv2d for layer in model.modules()) == 16  # all but the stem and the 1x1


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding_mode": "reflect"},
        {"kernel_size": 3, "bias": True},
    ],
)
def test_any_other_convolution_stays(options):
    model = changed(nn.Sequential(nn.Conv2d(4, 4, **{"bias": False, "padding": 1} | options)))
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_step_of_resnet18_is_that_of_torchvisions(size):
    losses = []
    for change in (changed, lambda model: model):
        torch.manual_seed(0)
        model = change(torchvision.models.resnet18(num_classes=5)).double()
        images = torch.rand(4, 3, size, size, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), torch.arange(4))
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)
