"""The train loop against plain hand-written PyTorch, on a tiny set."""

import copy
import dataclasses
import io
import itertools
import math
import os
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinyclf import Settings
from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.experiments.recipe import recipe_for, train_loader, val_loader
from tinyclf.models.resnet import build_model
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training.device import this_process
from tinyclf.training.evaluate import evaluate
from tinyclf.training.loop import Training
from tinyclf.utils.errors import TinyclfError

CLASSES, COUNT = 4, 28  # so many images that the last batch is short
RNG = np.random.default_rng(0)
SPLIT = PackedSplit(RNG.integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8), RNG.integers(0, CLASSES, COUNT))
DATA = Packed("mini", [*"abcd"], [*"abcd"], "fingerprint", SPLIT, SPLIT)
SETTINGS = Settings(epochs=3, input_size=64, batch_size=8, step_size=2)
RECIPE = dataclasses.replace(
    SETTINGS,
    **{"learning_rate": 0.05, "schedule": "cosine", "warmup": 1 / 3, "nesterov": True, "weight_decay": 0.01},
    **{"label_smoothing": 0.1, "ema_decay": 0.5, "mixup": 0.2, "cutmix": 1.0, "crop_padding": 4, "start_size": 40},
)


def small():
    """A model with everything that a checkpoint must hold (batch norm counts included), quicker than ResNet18."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 8, 8, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, CLASSES))


def train_and_val(settings):
    return train_loader(DATA, settings, this_process()), val_loader(DATA, settings, this_process())


def train_model(settings=SETTINGS, model=None, *, save_to=None, scaler=None, **parts):
    """The history of training a model by the recipe of `settings` with some parts of its own, and the training."""
    train, val = train_and_val(settings)
    recipe = dataclasses.replace(recipe_for(model or small(), settings, len(train.labels)), **parts)
    training = Training(recipe, train, val, settings.epochs, save_to=save_to)
    training.scaler = scaler or training.scaler
    return training.fit(), training


def numbers(history):
    """A history without its timings."""
    return [{key: row[key] for key in row if key not in ("seconds", "images_per_second", "load")} for row in history]


def plain_epoch(model, batches, criterion, optimizer, after_step=lambda: None):
    """An epoch as anybody would write it; returns train_loss and train_accuracy."""
    model.train()
    total, right = 0.0, 0
    for inputs, labels, targets in batches:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        after_step()
        total += loss.item() * inputs.size(0)
        right += (outputs.argmax(1) == labels).sum().item()
    return total / COUNT, right / COUNT


def test_an_epoch_is_that_of_a_plain_loop():
    settings = dataclasses.replace(SETTINGS, epochs=1)
    torch.manual_seed(0)
    model = build_model("resnet18", CLASSES)
    plain = copy.deepcopy(model)
    [row], _ = train_model(settings, model)

    use_small_map_conv(plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.001, momentum=0.9)
    train, _ = train_and_val(settings)
    loss, accuracy = plain_epoch(plain, train.epoch(1), nn.CrossEntropyLoss(), optimizer)
    assert row["train_loss"] == pytest.approx(loss, abs=1e-6) and row["train_accuracy"] == accuracy

    plain.eval()
    images, labels = torch.from_numpy(SPLIT.images).permute(0, 3, 1, 2) / 255, torch.from_numpy(SPLIT.labels)
    with torch.no_grad():
        outputs = plain(images)
    assert row["val_loss"] == pytest.approx(nn.functional.cross_entropy(outputs, labels).item(), abs=1e-6)
    assert row["val_accuracy"] == (outputs.argmax(1) == labels).double().mean().item()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("call", "done"), [(3, 0), (11, 1), (19, 2)])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, capsys, call, done):
    """At a call of the model: 4 to train and 4 to validate are an epoch. It goes on from its checkpoint."""
    expected, whole = train_model(RECIPE)
    model, calls, path, steps = small(), itertools.count(1), tmp_path / "checkpoint.pt", []

    def interrupt(module, inputs):
        if next(calls) == call:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_model(RECIPE, model, save_to=path)
    capsys.readouterr()
    history, resumed = train_model(RECIPE, model, save_to=path)
    said = capsys.readouterr().out
    assert said.count("val") == 3 - done and (f"continuing after epoch {done} of 3" in said) == bool(done)
    assert numbers(history) == numbers(expected)
    for part in ("model", "trained_model"):
        values = [getattr(training.recipe, part).state_dict().values() for training in (resumed, whole)]
        assert all(map(torch.equal, *values)), part
    train_model(RECIPE, save_to=path, before_step=steps.append)
    assert steps == [12], "found finished, its model is as after the last step"


def test_every_addition_to_the_recipe_is_that_of_a_plain_loop():
    settings = dataclasses.replace(RECIPE, start_size=0)
    history, training = train_model(settings)
    plain, (train, val) = small(), train_and_val(settings)
    decayed = [value for value in plain.parameters() if value.ndim > 1]
    others = [value for value in plain.parameters() if value.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others}]
    optimizer = torch.optim.SGD(groups, 1.0, momentum=0.9, nesterov=True)

    def rate(step):  # a warm-up of 4 of 12 steps, then half a cosine
        return 0.05 * step / 4 if step < 4 else 0.05 * (1 + math.cos(math.pi * (step - 4) / 8)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    average = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)

    def smoothed_loss(outputs, mixed):
        return -((0.9 * mixed + 0.1 / CLASSES) * outputs.log_softmax(1)).sum(1).mean()

    def after_step():
        schedule.step()
        average.update_parameters(plain)

    for epoch, row in enumerate(history, 1):
        loss, accuracy = plain_epoch(plain, train.epoch(epoch), smoothed_loss, optimizer, after_step)
        expected = evaluate(average.module, val)
        assert row["train_loss"] == pytest.approx(loss, abs=1e-5) and row["train_accuracy"] == accuracy
        assert row["val_loss"] == pytest.approx(expected.loss, abs=1e-5) and row["val_accuracy"] == expected.top1
        assert row["learning_rate"] == pytest.approx(rate(4 * epoch - 2))  # in the middle of 4 steps
    theirs = average.module.state_dict()
    for name, value in training.recipe.trained_model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_images_grow_from_epoch_to_epoch_and_are_evaluated_at_their_full_size():
    model, sizes, drawn = small(), {True: [], False: []}, []
    model.register_forward_pre_hook(lambda module, inputs: sizes[module.training].append(inputs[0].shape[-1]))

    def before_step(step):  # draws, as dropout does
        drawn.append((step, torch.rand(1).item()))

    train_model(dataclasses.replace(RECIPE, epochs=6), model, before_step=before_step)
    assert [step for step, _ in drawn] == [*range(24)] and len({number for _, number in drawn}) == 24
    assert sizes[True][::4] == [40, 48, 48, 56, 64, 64] and {*sizes[False]} == {64}


@pytest.mark.parametrize(
    ("call", "said"), [(2, "training step 2 of 4, learning rate 0.001"), (7, "validation step 3 of 4: ")]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(call, said):
    model, calls = small(), itertools.count(1)
    model.register_forward_pre_hook(lambda module, inputs: inputs[0] * math.nan if next(calls) == call else None)
    with pytest.raises(TinyclfError, match=f"became nan at epoch 1 {said}"):
        train_model(model=model)


def test_scaled_gradients_as_of_fp16_train_the_same_and_their_scale_is_continued(tmp_path):
    def scaled(settings=SETTINGS, save_to=None):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        return train_model(settings, save_to=save_to, scaler=scaler)

    history, whole = scaled()
    plain, training = train_model()
    weighted, _ = train_model(criterion=nn.CrossEntropyLoss(torch.full((CLASSES,), 5.0)))  # is as without
    for rows in (history, weighted):
        assert [row["train_loss"] for row in rows] == pytest.approx([row["train_loss"] for row in plain], rel=1e-5)
    for precision in ("fp16", "bf16"):
        made = Training(training.recipe, training.train, training.val, 1, precision)
        assert made.scaler.is_enabled() == (precision == "fp16")
    assert whole.scaler.get_scale() == 2.0**14  # doubled after each 3 of 12 steps
    path = tmp_path / "checkpoint.pt"
    scaled(dataclasses.replace(SETTINGS, epochs=2), path)
    continued, resumed = scaled(save_to=path)
    assert numbers(continued) == numbers(history) and resumed.scaler.state_dict() == whole.scaler.state_dict()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a stream that is full is Linux's")
def test_a_stream_that_is_full_or_closed_ends_no_run(monkeypatch):
    monkeypatch.setattr("tqdm.std.time", itertools.count(step=60).__next__)  # a bar at every step
    full, closed = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", closefd=False), io.StringIO()
    closed.close()
    for stream in (full, closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        assert len(train_model()[0]) == 3


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 1), (False, 31)])
def test_a_bar_tells_how_far_an_epoch_is_and_disappears(capsys, monkeypatch, terminal, seconds):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("tqdm.std.time", itertools.count(step=seconds).__next__)
    train_model()
    drawn = capsys.readouterr().out.split("\r")
    assert drawn[2].startswith("epoch 1 training:  50%|███") and "| 2/4 [" in drawn[2]
    assert not drawn[5].strip() and max(map(len, drawn)) < 80
