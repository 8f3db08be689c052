"""Any model, loss, optimizer and scheduler of PyTorch trains, is resumed to the same bits, and is told from others."""

import shutil

import pytest
import torch
from random_data import data
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm
from tinyclf.training.identity import identify
from tinyclf.utils.errors import TinyclfError

SETTINGS = Settings(epochs=3, batch_size=8, input_size=32)


def shufflenet():
    model = models.shufflenet_v2_x0_5(num_classes=4)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    return (
        model,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer,
        lr_scheduler.CosineAnnealingLR(optimizer, T_max=3),
    )


def mobilenet():
    model = models.mobilenet_v3_small(num_classes=4)  # with dropout
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return model, nn.CrossEntropyLoss(), optimizer, lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=9)


def fit(run, make, *, interval="epoch", ema=False, after=None):
    """Train a fresh recipe; `after` so many forward passes, be interrupted as by kill -9: nothing more is written."""
    torch.manual_seed(0)
    model, criterion, optimizer, scheduler = make()
    average = AveragedModel(model, use_buffers=True) if ema else None
    passes = []

    def interrupt(*_):
        passes.append(1)
        if len(passes) == after:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    return run.fit(model, criterion, optimizer, scheduler, scheduler_interval=interval, ema=average)


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini"


@pytest.mark.parametrize(
    ("make", "options"),
    [(shufflenet, {}), (mobilenet, {"interval": "step"}), (mobilenet, {"interval": "step", "ema": True})],
    ids=["shufflenet-adamw-cosine", "mobilenet-sgd-onecycle", "mobilenet-ema"],
)
def test_killed_within_an_epoch_and_resumed_it_ends_with_the_same_bits(make, options, reports):
    whole = Run(SETTINGS, data(), "whole")
    fit(whole, make, **options)
    record = whole.finish()
    with pytest.raises(KeyboardInterrupt):
        fit(Run(SETTINGS, data(), "killed"), make, after=7, **options)  # 3 steps and 2 passes of validation an epoch
    assert len(Run(SETTINGS, data(), "killed").about["history"]) in (1, 2)  # an average is validated without a pass
    resumed = Run(SETTINGS, data(), "killed")
    fit(resumed, make, **options)
    resumed.finish()
    assert (reports / "killed/history.csv").read_bytes() == (reports / "whole/history.csv").read_bytes()
    values = [run.state.trained_model.state_dict().values() for run in (whole, resumed)]
    assert all(map(torch.equal, *values))
    told = identify(*make(), options.get("interval", "epoch"))
    assert record["recipe"]["optimizer"] == told["optimizer"] and record["recipe"]["scheduler"] == told["scheduler"]
    assert record["recipe"]["ema"] == ("AveragedModel(use_buffers=True)" if "ema" in options else None)
    assert record["command"] == "" and record["overrides"]["optimizer"] == record["recipe"]["optimizer"]


def changed(**parts):
    """The recipe of `shufflenet` with other parts."""

    def make():
        model, criterion, optimizer, scheduler = shufflenet()
        model = parts.get("model", lambda: model)()
        optimizer = parts.get("optimizer", lambda values: optim.AdamW(values, 1e-3, weight_decay=0.05))(
            model.parameters()
        )
        scheduler = parts.get("scheduler", lambda made: lr_scheduler.CosineAnnealingLR(made, T_max=3))(optimizer)
        return model, parts.get("criterion", criterion), optimizer, scheduler

    return make


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Reports with the run `mine` of `shufflenet`, interrupted within its second epoch: to be copied."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setenv("TINYCLF_REPORTS", str(folder))
        fit(Run(SETTINGS, data(), "mine"), shufflenet, after=7)
    return folder


@pytest.fixture
def mine(interrupted, reports):
    shutil.copytree(interrupted, reports.parent, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"model": lambda: models.shufflenet_v2_x1_0(num_classes=4)},
            r"model: ShuffleNetV2, 345,\d+ parameters before, ShuffleNetV2, 1,2",
        ),
        (
            {"criterion": nn.CrossEntropyLoss()},
            r"criterion: .*label_smoothing=0\.1.* before, .*label_smoothing=0,.* now",
        ),
        (
            {"optimizer": lambda values: optim.AdamW(values, 1e-3)},
            r"optimizer: .*weight_decay=0\.05.* before, .*=0\.01",
        ),
        ({"optimizer": lambda values: optim.SGD(values, 0.1)}, "optimizer: AdamW.* before, SGD.* now"),
        (
            {"scheduler": lambda made: lr_scheduler.CosineAnnealingLR(made, T_max=4)},
            r"scheduler: .*T_max=3.* before, .*=4",
        ),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused_by_what_differs(parts, said, mine):
    with pytest.raises(TinyclfError, match=f"holds another run .*{said}"):
        fit(Run(SETTINGS, data(), "mine"), changed(**parts))


def test_a_checkpoint_of_a_model_with_other_layers_of_the_same_shapes_is_refused(mine):
    def other_pool():
        model, *rest = shufflenet()
        model.maxpool = nn.MaxPool2d(3, stride=1, padding=1)
        return model, *rest

    with pytest.raises(TinyclfError, match=r"model: maxpool: .*stride=2.* before, .*stride=1.* now"):
        fit(Run(SETTINGS, data(), "mine"), other_pool)


def test_a_swapped_recipe_is_never_recorded_under_the_name_of_an_experiment():
    for name in ("baseline-scratch", ""):
        with pytest.raises(TinyclfError, match=r"would be recorded as .*optimizer: SGD.* by its settings, AdamW"):
            fit(Run(SETTINGS, data(), name), shufflenet)


def test_a_model_of_other_layers_is_no_experiment_even_with_as_many_parameters():
    recipe = build_recipe(SETTINGS, data())
    recipe.model.maxpool = nn.Identity()
    with pytest.raises(TinyclfError, match=r"model: maxpool: MaxPool2d.* by its settings, maxpool: Identity\(\) here"):
        Run(SETTINGS, data(), "baseline-scratch").fit(**vars(recipe))


def test_the_objects_of_the_settings_are_those_that_the_notebook_writes_out():
    settings = Settings(epochs=1, batch_size=8, input_size=32, seed=3)
    built = build_recipe(settings, data())
    torch.manual_seed(settings.seed)
    model = models.resnet18(num_classes=4)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    use_ghost_batch_norm(model, settings.ghost_batches)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    assert identify(model, criterion, optimizer, scheduler, "epoch") == built.identity()
    assert all(map(torch.equal, model.state_dict().values(), built.model.state_dict().values()))
    written = Run(settings, data(), "written").fit(model, criterion, optimizer, scheduler)
    run = Run(settings, data(), "built")
    history = run.fit(built.model, built.criterion, built.optimizer, built.scheduler)
    measured = ("seconds", "images_per_second", "load")
    (row,), (other,) = history, written
    assert all(row[key] == other[key] for key in row if key not in measured)
    assert run.finish()["command"] == ""  # nobody else has these images


def test_a_checkpoint_of_an_older_version_is_refused_and_left_alone_where_a_run_starts_over(reports):
    old = reports / "mine/checkpoint.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"weights")
    with pytest.raises(TinyclfError, match=r"has checkpoint\.safetensors, .*--force"):
        Run(SETTINGS, data(), "mine")
    run = Run(SETTINGS, data(), "mine", force=True)
    assert len(fit(run, shufflenet)) == 3 and run.finish()["run"] == "mine" and old.read_bytes() == b"weights"
    assert Run(SETTINGS, data(), "mine").is_recorded()


def test_a_plateau_scheduler_sees_the_validation_loss_and_a_run_needs_no_scheduler():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))
    optimizer = optim.SGD(model.parameters(), lr=0.0)  # nothing improves
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    Run(SETTINGS, data(), "plateau").fit(model, nn.CrossEntropyLoss(), optimizer, scheduler)
    assert scheduler.num_bad_epochs == 0 and scheduler.last_epoch == 3 and scheduler.best < 10
    fresh = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))
    other = optim.SGD(fresh.parameters(), lr=0.1)
    run = Run(SETTINGS, data(), "plain")
    assert len(run.fit(fresh, nn.CrossEntropyLoss(), other)) == 3 and run.finish()["recipe"]["scheduler"] is None
