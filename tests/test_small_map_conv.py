"""The convolution of small maps against torch's own."""

from itertools import product

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from tinyclf.models import small_map_conv
from tinyclf.models.small_map_conv import PRODUCT_IMAGES, SmallMapConv2d, tap_matrix, use_small_map_conv

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


def test_a_model_is_exported_for_any_number_of_images():
    model = changed(nn.Sequential(nn.Conv2d(3, 512, **PLAIN))).eval()
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(model, (torch.rand(8, 3, 2, 2),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 40):
        images = torch.rand(count, 3, 2, 2)
        torch.testing.assert_close(exported(images), model(images))


def test_any_other_convolution_stays_and_resnet18_keeps_its_names_and_weights():
    others = {"kernel_size": 1}, {"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding_mode": "reflect"}
    for options in (*others, {"bias": True}):
        assert type(changed(nn.Sequential(nn.Conv2d(4, 4, **PLAIN | options)))[0]) is nn.Conv2d
    model = resnet18()
    before, printed = {name: value.clone() for name, value in model.state_dict().items()}, repr(model)
    use_small_map_conv(model)
    assert repr(model) == printed
    assert all(map(torch.equal, model.state_dict().values(), before.values())) and [*model.state_dict()] == [*before]
    assert sum(type(layer) is SmallMapConv2d for layer in model.modules()) == 16  # all but the stem and the 1x1
