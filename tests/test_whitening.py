"""Whitened filters: what comes out of the first layer is uncorrelated."""

import pytest
import torch
from torch import nn

from tinyclf.data.cache import load_data
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.settings import Settings
from tinyclf.models.whitening import whiten_filters
from tinyclf.utils.errors import TinyclfError


def smooth(count, size):
    """Images whose neighbouring pixels are alike, as those of real images are."""
    torch.manual_seed(0)
    return nn.functional.interpolate(torch.randn(count, 3, size // 4, size // 4), (size, size), mode="bilinear")


def test_maps_have_variance_one_are_uncorrelated_and_come_with_both_signs():
    layer, images = nn.Conv2d(3, 16, 7, stride=2, bias=False), smooth(300, 32)
    whiten_filters(layer, images)
    maps = layer(images).transpose(0, 1).flatten(1)
    assert torch.equal(maps[:8], -maps[8:])
    torch.testing.assert_close(maps[:8] @ maps[:8].T / maps.shape[1], torch.eye(8), atol=0.05, rtol=0)


def test_the_first_filters_are_the_directions_of_most_variance():
    layer, images = nn.Conv2d(3, 16, 7, stride=2, bias=False), smooth(300, 32)
    whiten_filters(layer, images)
    patches = nn.functional.unfold(images, 7, stride=2).transpose(1, 2).flatten(0, 1)
    axes = torch.linalg.svd(patches, full_matrices=False).Vh[:4]
    found = nn.functional.normalize(layer.weight.detach()[:4].flatten(1))
    torch.testing.assert_close((found @ axes.T).abs(), torch.eye(4), atol=1e-3, rtol=0)


def test_a_recipe_has_them_of_its_data_its_size_and_nothing_else_changes():
    data = load_data("mini")
    plain, whitened, larger = (
        build_recipe(Settings(normalization="tiny-imagenet", **options), data).model.state_dict()
        for options in ({}, {"stem_init": "whitened"}, {"stem_init": "whitened", "input_size": 32})
    )
    assert [name for name in plain if not torch.equal(plain[name], whitened[name])] == ["conv1.weight"]
    assert not torch.equal(whitened["conv1.weight"], larger["conv1.weight"])


def test_models_and_weights_that_it_is_not_for_are_refused():
    with pytest.raises(TinyclfError, match="stem_init = 'whitened': it is for stem = 'imagenet' from scratch"):
        Settings(stem_init="whitened", weights="imagenet")
    with pytest.raises(TinyclfError, match="stem_init = 'whitened': it is for stem = 'imagenet' from scratch"):
        Settings(stem_init="whitened", stem="small")
    with pytest.raises(TinyclfError, match="stem_init = 'whitened': it needs images of mean 0"):
        Settings(stem_init="whitened")
    settings = Settings(stem_init="whitened", normalization="imagenet", model="mobilenet_v2")
    with pytest.raises(TinyclfError, match="stem_init = 'whitened': only ResNets have it, not 'mobilenet_v2'"):
        build_recipe(settings, load_data("mini"))
