"""The path of a GPU where there is none: nothing waits for the host, and a step has few more operations than torch's.

Tensors of torch's device `meta` stand in for those of a GPU: they hold nothing, and backward passes run. What a real
one computes is tested in test_gpu.py, which runs on the fake one of fake_gpu/ where there is none.
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyclf.data import loader
from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments.recipe import recipe_for
from tinyclf.experiments.settings import Settings
from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm
from tinyclf.models.resnet import build_model
from tinyclf.training import loop
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.loop import Plan, Training

CLASSES = 10
EVERYTHING = {
    **{"normalization": "tiny-imagenet", "crop_padding": 8, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
    **{"ema_decay": 0.998, "layer_decay": 0.8, "weight_decay": 5e-4, "nesterov": True, "schedule": "cosine"},
}


class Watch(TorchDispatchMode):
    """Counts operations that compute (no views), and those that wait for a value or copy from or to the host."""

    def __init__(self):
        super().__init__()
        self.ops, self.waits = Counter(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, inputs = func._schema.name, devices((args, kwargs))
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select") and "meta" in inputs:
            self.waits.append(name)
        result = func(*args, **kwargs or {})
        if {"cpu", "meta"} <= inputs | devices(result):
            self.waits.append(name)
        if not func.is_view and not name.startswith(("prim::", "profiler::")) and name != "aten::detach":
            self.ops[name] += 1
        return result


def devices(values):
    """Of tensors; a number is one too, and travels with the call."""
    return {each.device.type for each in tree_leaves(values) if isinstance(each, Tensor) and each.ndim}


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    monkeypatch.setattr(loop, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(loop, "refuse_non_finite", lambda *_, **__: None)


def on_meta(settings):
    with torch.device("meta"):
        model = build_model(settings.model, CLASSES, stem=settings.stem)
    use_ghost_batch_norm(model, settings.ghost_batches)
    return model.to(memory_format=torch.channels_last)


def bare_step():
    """The operations of a step as plain PyTorch has it, with its batch at hand."""
    model, criterion = on_meta(Settings(ghost_batches=1)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, foreach=True)
    images = torch.empty(100, 3, 64, 64, device="meta").to(memory_format=torch.channels_last)
    labels = torch.zeros(100, dtype=torch.int64, device="meta")
    for _ in range(2):  # the first one makes the optimizer's state
        with Watch() as watch:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
    return watch.ops.total()


def epoch(steps, change=None, **changes):
    """What an epoch of so many steps does on the device, and what loading its batches does."""
    settings = Settings(batch_size=100, **changes)
    images = np.zeros((steps * 100, 64, 64, 3), np.uint8)
    augmentation = Augmentation(settings.flip, settings.crop_padding, settings.mixup, settings.cutmix)
    options = {"shuffle": True, "augmentation": augmentation, "normalization": settings.normalization}
    batches = ImageLoader(images, np.arange(len(images)) % CLASSES, 100, "meta", classes=CLASSES, **options)
    recipe = recipe_for(on_meta(settings), settings, len(images))
    state = TrainingState(recipe.model, recipe.optimizer, recipe.scheduler, recipe.ema)
    for group in state.optimizer.param_groups:
        group["foreach"] = True  # as torch chooses on a GPU
    if change:
        state.model.fc.register_forward_hook(lambda layer, inputs, output: change(output))
    gpu = SimpleNamespace(device=torch.device("meta"), num_processes=1)  # what is asked of an Accelerator
    training = Training(state, recipe.criterion, batches, batches, Plan(1, recipe.scheduler_interval), gpu)
    with Watch() as load:
        list(batches.epoch(1))
    with Watch() as watch, contextlib.suppress(RuntimeError, NotImplementedError):  # a value of `meta` cannot be read
        training.train_epoch(1)
    return watch, load


def our_step(**changes):
    """The operations of a step with its share of what loads batches."""
    (two, load), (three, _) = epoch(2, **changes), epoch(3, **changes)
    return three.ops.total() - two.ops.total() + load.ops.total() / (loader.AHEAD // (100 * 64**2))


def test_a_step_has_few_more_operations_than_torchs():
    bare, whole, halves = bare_step(), our_step(ghost_batches=1), our_step(ghost_batches=2)
    print(f"operations a step: bare {bare}, whole {whole:.0f}, two parts {halves:.0f}")
    assert whole <= 1.05 * bare
    assert halves <= 1.8 * bare  # a batch norm is cut, computed twice and put together, in both directions


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["published", "everything"])
def test_nothing_waits_within_an_epoch(changes):
    waits = [epoch(steps, **changes)[0].waits for steps in (2, 3)]
    assert waits[0] == waits[1], "each step adds some"
    assert epoch(3, lambda output: output * output.max().item())[0].waits  # a planted fault is seen


def test_what_tests_a_gpu_runs_on_a_fake_one():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_gpu.py", "-k", "fp32-shallow or finite"]
    environment = os.environ | {"PYTHONPATH": "fake_gpu"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout
