"""Growing depth: which blocks run, are trained and are counted, in which steps."""

import contextlib
from dataclasses import replace

import pytest
import random_data
import torch
from torch import optim
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from tinyclf.experiments.compute import compute
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.models.depth import GrowingDepth
from tinyclf.models.flops import multiply_adds
from tinyclf.utils.errors import TinyclfError

SETTINGS = Settings(
    **{"epochs": 3, "batch_size": 8, "input_size": 32, "start_size": 16, "learning_rate": 0.05, "schedule": "linear"},
    **{"shallow": 0.45, "nesterov": True, "weight_decay": 5e-4},
)  # of 9 steps, the first 4 are shallow


@pytest.fixture(name="data")
def data_fixture():
    return random_data.data()


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini"


def joining(model):
    """The parameters of the blocks that join later."""
    names = [f"layer{stage}.1." for stage in (1, 2, 3, 4)]
    return {name: value for name, value in model.named_parameters() if name.startswith(tuple(names))}


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


def test_blocks_that_start_as_the_identity_change_nothing_when_they_join():
    model = resnet18(num_classes=4, zero_init_residual=True)
    before_step, images = GrowingDepth(model, 1), torch.randn(4, 3, 32, 32)
    before_step(0)
    shallow = model(images)
    before_step(1)
    assert torch.equal(model(images), shallow)


def test_the_blocks_stay_as_they_are_until_they_join_and_are_trained_from_then_on(data):
    settings = replace(SETTINGS, weight_decay=0.0)
    recipe = build_recipe(settings, data)
    model, changed, grow = recipe.model, [], recipe.before_step
    start = {name: value.clone() for name, value in joining(model).items()}

    def look(step):
        changed.append({name for name, value in joining(model).items() if not torch.equal(value, start[name])})
        grow(step)

    Run(settings, data, "looked-at").fit(**vars(recipe) | {"before_step": look})
    assert changed[:5] == [set()] * 5 and len(changed) == 9
    assert changed[5] == {name for name in start if name.endswith("bn2.weight") or name.endswith("bn2.bias")}
    assert changed[7] == start.keys()


def test_interrupted_and_continued_it_ends_with_the_same_bits(data, reports):
    whole = Run(SETTINGS, data, "whole")
    whole.fit(**vars(build_recipe(SETTINGS, data)))
    whole.finish()
    recipe, steps = build_recipe(SETTINGS, data), []

    def interrupt(model, inputs):
        steps.extend([1] * (inputs[0].device.type != "meta"))  # on which compute is counted
        if len(steps) == 7:  # 3 steps and 2 passes of validation an epoch: in the second, which ends shallow training
            raise KeyboardInterrupt

    recipe.model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        Run(SETTINGS, data, "cut").fit(**vars(recipe))
    cut = Run(SETTINGS, data, "cut")
    assert len(cut.about["history"]) == 1
    cut.fit(**vars(build_recipe(SETTINGS, data)))
    cut.finish()
    assert (reports / "cut/history.csv").read_bytes() == (reports / "whole/history.csv").read_bytes()
    assert all(map(torch.equal, *(run.state.model.state_dict().values() for run in (whole, cut))))


def test_compute_counts_the_blocks_that_run(data):
    model = build_recipe(SETTINGS, data).model
    small = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    sizes = [SETTINGS.size_in(epoch) for epoch in (1, 2, 3)]
    expected = 20 * multiply_adds(small, sizes[0]) + 8 * multiply_adds(small, sizes[1])
    expected += 12 * multiply_adds(resnet18(num_classes=4), sizes[1]) + 20 * multiply_adds(model, sizes[2])
    assert sizes == [16, 24, 32] and compute(model, SETTINGS, data)["own"] == expected


def test_compute_is_the_same_where_the_cell_is_run_again_after_an_interruption(data):
    recipe, cut = build_recipe(SETTINGS, data), []

    def interrupt(model, inputs):
        if inputs[0].device.type != "meta" and not cut:
            cut.append(True)
            raise KeyboardInterrupt

    recipe.model.register_forward_pre_hook(interrupt)
    run = Run(SETTINGS, data, "again")
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):
            run.fit(**vars(recipe))
    assert run.finish()["compute"] == compute(build_recipe(SETTINGS, data).model, SETTINGS, data)


def test_some_steps_train_all_blocks():
    for epochs, images, share in ((2, 20, 0.99), (1, 8, 0.5), (3, 20, 0.01)):
        settings = Settings(epochs=epochs, batch_size=8, shallow=share)
        assert 0 <= settings.shallow_steps(images) < epochs * settings.steps(images)


def test_a_part_of_a_stage_runs_whole():
    model = resnet18(num_classes=4)
    GrowingDepth(model, 1)
    images = torch.randn(2, 64, 8, 8)
    assert torch.equal(model.layer1[:2](images), model.layer1(images))


def test_sgd_with_dampening_trains_a_layer_that_joins_later(data):
    recipe = build_recipe(SETTINGS, data)
    recipe.optimizer = optim.SGD(recipe.model.parameters(), lr=0.01, momentum=0.9, dampening=0.5)
    recipe.scheduler = None
    history = Run(SETTINGS, data, "dampened").fit(**vars(recipe))
    assert len(history) == 3


class Thaw:
    """Its public numbers, texts and lists tell it from others, and no state."""

    def __init__(self, model, parts):
        self.model, self.parts, self._steps = model, parts, 0

    def __call__(self, step):
        self._steps += 1


def test_an_object_of_ones_own_is_told_from_others_but_not_from_itself(data):
    settings = Settings(epochs=2, batch_size=8, input_size=32)

    def fit(parts, after=10**9):
        recipe, passes = build_recipe(settings, data), []
        recipe.before_step = Thaw(recipe.model, parts)

        def interrupt(model, inputs):
            passes.extend([1] * (inputs[0].device.type != "meta"))
            if len(passes) == after:
                raise KeyboardInterrupt

        recipe.model.register_forward_pre_hook(interrupt)
        return Run(settings, data, "thawing").fit(**vars(recipe))

    with pytest.raises(KeyboardInterrupt):
        fit([1], after=7)
    with pytest.raises(TinyclfError, match=r"before_step: Thaw\(parts=\[1\]\) before, Thaw\(parts=\[2\]\) now"):
        fit([2])
    assert len(fit([1])) == 2


def test_a_function_of_ones_own_is_recorded_and_needs_a_name_of_its_own(data):
    def thaw(step):
        pass

    recipe = vars(build_recipe(Settings(epochs=1, batch_size=8, input_size=32), data)) | {"before_step": thaw}
    with pytest.raises(TinyclfError, match="before_step: None by its settings"):
        Run(Settings(epochs=1, batch_size=8, input_size=32), data).fit(**recipe)
    run = Run(Settings(epochs=1, batch_size=8, input_size=32), data, "thawing")
    run.fit(**recipe)
    record = run.finish()
    assert record["recipe"]["before_step"].endswith("thaw") and record["overrides"]["before_step"]


def test_what_it_is_not_for_is_refused(data):
    with pytest.raises(TinyclfError, match=r"shallow = 0.5: it is for a run from scratch, weights = 'none'"):
        Settings(shallow=0.5, weights="imagenet")
    with pytest.raises(TinyclfError, match=r"zero_init, shallow: only ResNets have them, .* 'mobilenet_v2'"):
        build_recipe(Settings(shallow=0.5, model="mobilenet_v2"), data)
