"""Runs of growing depth: which blocks are trained and counted in which steps, and what else may stand before a step."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import random_data
import torch
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from tinyclf.experiments.recipe import build_recipe, compute
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.models.flops import multiply_adds

SETTINGS = Settings(
    **{"epochs": 3, "batch_size": 8, "input_size": 32, "start_size": 16, "learning_rate": 0.05, "schedule": "linear"},
    **{"shallow": 0.45, "nesterov": True, "weight_decay": 5e-4},
)  # of 9 steps, the first 4 are shallow


@pytest.fixture(name="data")
def data_fixture(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return random_data.data()


def test_the_blocks_stay_as_they_are_until_they_join_and_are_trained_from_then_on(data):
    settings = replace(SETTINGS, weight_decay=0.0)
    recipe, changed = build_recipe(settings, data), []
    grow, joining = recipe.before_step, ("layer1.1.", "layer2.1.", "layer3.1.", "layer4.1.")
    blocks = {name: value for name, value in recipe.model.named_parameters() if name.startswith(joining)}
    start = {name: value.clone() for name, value in blocks.items()}

    def look(step):
        changed.append({name for name, value in blocks.items() if not torch.equal(value, start[name])})
        grow(step)

    Run(settings, data, "looked-at").fit(**vars(recipe) | {"before_step": look})
    assert changed[:5] == [set()] * 5 and len(changed) == 9
    assert changed[5] == {name for name in start if name.endswith(("bn2.weight", "bn2.bias"))}
    assert changed[7] == start.keys()
    for epochs, images, share in ((2, 20, 0.99), (1, 8, 0.5), (3, 20, 0.01)):  # some steps always train all blocks
        settings = Settings(epochs=epochs, batch_size=8, shallow=share)
        assert 0 <= settings.shallow_steps(images) < epochs * settings.steps(images)


def test_compute_counts_the_blocks_that_run_however_deep_the_model_is_left(data):
    recipe = build_recipe(SETTINGS, data)
    small = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    sizes = [SETTINGS.size_in(epoch) for epoch in (1, 2, 3)]
    expected = 20 * multiply_adds(small, sizes[0]) + 8 * multiply_adds(small, sizes[1])
    expected += 12 * multiply_adds(resnet18(num_classes=4), sizes[1]) + 20 * multiply_adds(recipe.model, sizes[2])
    recipe.before_step(0)  # shallow, as after an interruption
    parent = SimpleNamespace(about={"compute": {"own": 1, "total": 5}})  # which has a parent itself
    counted = compute(recipe.model, SETTINGS, data, parent)
    assert sizes == [16, 24, 32] and (counted["own"], counted["total"]) == (expected, expected + 5)
