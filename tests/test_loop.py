"""The train loop against plain hand-written PyTorch, on a tiny set."""

import contextlib
import dataclasses
import itertools
import math
import os
import re
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments.recipe import recipe_for
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import build_model
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.evaluate import evaluate
from tinyclf.training.loop import Plan, Training, fit
from tinyclf.utils.errors import TinyclfError

CLASSES = 4
SETTINGS = Settings(epochs=3, input_size=64, batch_size=8, step_size=2)
RECIPE = dataclasses.replace(
    SETTINGS,
    **{"learning_rate": 0.05, "schedule": "cosine", "warmup": 1 / 3, "nesterov": True, "weight_decay": 0.01},
    **{"label_smoothing": 0.1, "ema_decay": 0.5, "mixup": 0.2, "cutmix": 1.0, "crop_padding": 4, "start_size": 40},
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (28, 64, 64, 3), dtype=np.uint8), rng.integers(0, CLASSES, 28)  # 28: last batch short


def fresh():
    torch.manual_seed(0)
    return build_model("resnet18", CLASSES)


def small():
    """A model with everything that a checkpoint must hold (batch norm counts included), quicker than ResNet18."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 8, 8, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, CLASSES))


def train_and_val(data, settings=SETTINGS):
    augmentation = Augmentation(settings.flip, settings.crop_padding, settings.mixup, settings.cutmix)
    options = {"shuffle": True, "augmentation": augmentation, "input_size": settings.size_in, "seed": settings.seed}
    return ImageLoader(*data, settings.batch_size, **options), ImageLoader(*data, settings.batch_size)


def train_model(model, train, val, settings, scaler=None, criterion=None, **options):
    """The history of training `model` by the recipe of `settings`, and what was trained."""
    recipe = recipe_for(model, settings, len(train.labels))
    state = TrainingState(recipe.model, recipe.optimizer, recipe.scheduler, recipe.ema, scaler)
    plan = Plan(settings.epochs, recipe.scheduler_interval, **options)
    return fit(state, criterion or recipe.criterion, train, val, plan), state


def numbers(history):
    """A history without its timings."""
    return [{key: row[key] for key in row if key not in ("seconds", "images_per_second", "load")} for row in history]


def test_an_epoch_is_that_of_a_plain_loop(data):
    train, val = train_and_val(data)
    model = fresh()
    history, _ = train_model(model, train, val, Settings(epochs=1, input_size=64, batch_size=8))

    plain = fresh()
    use_small_map_conv(plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.001, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    plain.train()
    total, right = 0.0, 0
    for inputs, labels, _ in train.epoch(1):
        optimizer.zero_grad()
        outputs = plain(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * inputs.size(0)
        right += (outputs.argmax(1) == labels).sum().item()
    assert history[0]["train_loss"] == pytest.approx(total / 28, abs=1e-6)
    assert history[0]["train_accuracy"] == right / 28

    plain.eval()
    images = torch.from_numpy(data[0]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        outputs = plain(images)
    expected = cross_entropy(outputs, torch.from_numpy(data[1])).item()
    assert history[0]["val_loss"] == pytest.approx(expected, abs=1e-6)
    assert history[0]["val_accuracy"] == (outputs.argmax(1).numpy() == data[1]).mean()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("call", "done", "settings"), [(3, 0, SETTINGS), (11, 1, RECIPE), (19, 2, RECIPE)])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(data, tmp_path, capsys, call, done, settings):
    """At a call of the model: 4 to train and 4 to validate are an epoch. It goes on from its checkpoint."""
    expected, whole = train_model(small(), *train_and_val(data, settings), settings)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == SETTINGS.epochs and all(line.startswith("epoch") for line in lines)
    model, calls, path = small(), itertools.count(1), tmp_path / "checkpoint.pt"

    def interrupt(module, inputs):
        if next(calls) == call:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_model(model, *train_and_val(data, settings), settings, save_to=path)
    capsys.readouterr()
    history, resumed = train_model(model, *train_and_val(data, settings), settings, save_to=path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == SETTINGS.epochs - done + bool(done)
    assert not done or f"continuing after epoch {done} of 3" in lines[0]
    assert numbers(history) == numbers(expected)
    for part in ("model", "trained_model"):
        values = [getattr(state, part).state_dict().values() for state in (resumed, whole)]
        assert all(map(torch.equal, *values)), part
    kept, steps = checkpoint.read(path).weights, []
    train_model(small(), *train_and_val(data, settings), settings, save_to=path, before_step=steps.append)
    assert steps == [12], "found finished, its model is as after the last step"
    assert all(torch.equal(kept[name], value) for name, value in whole.trained_model.state_dict().items())


def test_every_addition_to_the_recipe_is_that_of_a_plain_loop(data):
    settings = dataclasses.replace(RECIPE, start_size=0)
    train, val = train_and_val(data, settings)
    plain = small()
    history, state = train_model(small(), train, val, settings)
    decayed = [value for value in plain.parameters() if value.ndim > 1]
    others = [value for value in plain.parameters() if value.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others}]
    optimizer = torch.optim.SGD(groups, 1.0, momentum=0.9, nesterov=True)
    steps = 3 * len(train)

    def rate(step):  # a warm-up of one epoch of three, then half a cosine
        if step < steps / 3:
            return 0.05 * step / (steps / 3)
        return 0.05 * (1 + math.cos(math.pi * (step - steps / 3) / (2 * steps / 3))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    average = torch.optim.swa_utils.AveragedModel(
        plain, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
    )
    for epoch in (1, 2, 3):
        plain.train()
        for inputs, _, mixed in train.epoch(epoch):
            optimizer.zero_grad()
            smoothed = 0.9 * mixed + 0.1 / CLASSES
            (-(smoothed * plain(inputs).log_softmax(1)).sum(1).mean()).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(plain)
        expected = evaluate(average.module, val)
        assert history[epoch - 1]["val_loss"] == pytest.approx(expected.loss, abs=1e-5)
        assert history[epoch - 1]["val_accuracy"] == expected.top1
        assert history[epoch - 1]["learning_rate"] == pytest.approx(rate(4 * epoch - 2))  # in the middle of 4 steps
    theirs = average.module.state_dict()
    for name, value in state.trained_model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_images_grow_from_epoch_to_epoch_and_are_evaluated_at_their_full_size(data):
    sizes, settings = [], dataclasses.replace(RECIPE, epochs=6)
    model = small()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append((module.training, inputs[0].shape[-1])))
    drawn = []  # as dropout draws
    before_step = lambda step: drawn.append((step, torch.rand(1).item()))  # noqa: E731
    train_model(model, *train_and_val(data, settings), settings, before_step=before_step)
    assert [step for step, _ in drawn] == [*range(24)] and len({number for _, number in drawn}) == 24
    assert [size for training, size in sizes if training][::4] == [40, 48, 48, 56, 64, 64]
    assert {size for training, size in sizes if not training} == {64}


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(data):
    train, _ = train_and_val(data)
    for broken, said in ((True, r"training step 1 of 4, learning rate 0.001"), (False, r"validation step 1 of 2: ")):
        model = small()
        model.register_forward_pre_hook(
            lambda module, inputs, broken=broken: (inputs[0] * math.nan,) if module.training == broken else None
        )
        with pytest.raises(TinyclfError, match=f"became nan at epoch 1 {said}"):
            train_model(model, train, ImageLoader(*data, 20), SETTINGS)


def test_scaled_gradients_as_of_fp16_train_the_same_and_their_scale_is_continued(data, tmp_path):
    def scaled(epochs=SETTINGS.epochs, **options):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        settings = dataclasses.replace(SETTINGS, epochs=epochs)
        return train_model(small(), *train_and_val(data), settings, scaler, **options)

    expected, _ = train_model(small(), *train_and_val(data), SETTINGS)
    history, whole = scaled()
    losses, plain = ([row["train_loss"] for row in rows] for rows in (history, expected))
    assert losses == pytest.approx(plain, rel=1e-5)
    weighted, _ = train_model(
        small(), *train_and_val(data), SETTINGS, criterion=nn.CrossEntropyLoss(torch.full((CLASSES,), 5.0))
    )
    assert [row["train_loss"] for row in weighted] == pytest.approx(plain, rel=1e-5)  # a weight of all is that of none
    for precision in ("fp16", "bf16"):
        state = TrainingState(small(), whole.optimizer)
        Training(state, nn.CrossEntropyLoss(), *train_and_val(data), Plan(1, precision=precision))
        assert state.scaler.is_enabled() == (precision == "fp16")
    assert whole.scaler.get_scale() == 2.0**14  # doubled after each 3 of 12 steps
    path = tmp_path / "checkpoint.pt"
    scaled(epochs=2, save_to=path)
    continued, state = scaled(save_to=path)
    assert numbers(continued) == numbers(history) and state.scaler.state_dict() == whole.scaler.state_dict()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a stream that is full is Linux's")
def test_streams_that_cannot_be_written_to_end_no_run(data, tmp_path, monkeypatch):
    expected, _ = train_model(small(), *train_and_val(data), SETTINGS)
    ticks = itertools.count(step=60)
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))  # a bar at every step
    (closed := (tmp_path / "closed").open("w")).close()
    reader, writer = os.pipe()
    os.close(reader)
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    for stream in (full, closed, os.fdopen(writer, "w"), None):  # the third one is gone, the last never was
        monkeypatch.setattr(sys, "stdout", stream)
        history, _ = train_model(small(), *train_and_val(data), SETTINGS)
        assert numbers(history) == numbers(expected)
        if stream:
            with contextlib.suppress(OSError, ValueError):
                stream.close()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_tells_how_far_an_epoch_is_and_disappears(data, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    ticks = itertools.count(step=1 if terminal else 31)
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    train_model(small(), *train_and_val(data), SETTINGS)
    drawn = capsys.readouterr().out.split("\r")
    assert re.fullmatch(r"epoch 1 training █{15}░{15} 2/4, \d+:\d\d left *", drawn[1]) and not drawn[3].strip()
    assert max(len(line) for text in drawn for line in text.split("\n")) < 120


@pytest.mark.parametrize("step", [0, -60, 2])
def test_an_epoch_takes_as_long_as_its_clock_says_and_no_negative_time(data, monkeypatch, step):
    for clock in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(time, clock, itertools.count(1e6, step).__next__)
    history, _ = train_model(small(), *train_and_val(data), SETTINGS)
    assert all(row["seconds"] > 0 and 0 < row["images_per_second"] < math.inf for row in history)
    if step > 0:  # looked at before training, after it, and after validation
        assert {(row["seconds"], row["images_per_second"]) for row in history} == {(4, 28 / 2)}
