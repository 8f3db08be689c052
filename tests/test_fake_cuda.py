"""The path of a GPU where there is none: nothing waits for the host.

Tensors of torch's device `meta` stand in for those of a GPU: they hold nothing, and backward passes run. What a real
one computes is tested in test_gpu.py, which runs on the fake one of fake_gpu/ where there is none.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyclf import Settings
from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.experiments.recipe import expected_recipe, train_loader
from tinyclf.training import loop
from tinyclf.training.loop import Training

EVERYTHING = {
    **{"normalization": "tiny-imagenet", "crop_padding": 8, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
    **{"ema_decay": 0.998, "layer_decay": 0.8, "weight_decay": 5e-4, "nesterov": True, "schedule": "cosine"},
}


class Watch(TorchDispatchMode):
    """Notes the operations that read a value, of which there are none, or copy from or to the host."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name, kwargs or {}
        if name == "aten::_local_scalar_dense" and args[0].is_meta:
            self.waits.append(name)
            return 1.0
        reads = name == "aten::_to_copy" and args[0].is_meta and kwargs.get("device") == torch.device("cpu")
        result = torch.zeros(args[0].shape) if reads else func(*args, **kwargs)
        if {"cpu", "meta"} <= devices((args, kwargs, result)):
            self.waits.append(name)
        return result


def devices(values):
    """Of tensors; a number is one too, and travels with the call."""
    return {each.device.type for each in tree_leaves(values) if isinstance(each, Tensor) and each.ndim}


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    monkeypatch.setattr(loop, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(loop, "refuse_non_finite", lambda *_, **__: None)


def waits(steps, change=None, **changes):
    """What waits in an epoch of so many steps. change: what a hook does with the logits."""
    settings, classes = Settings(batch_size=10, input_size=64, **changes), [*"abcdefghij"]
    split = PackedSplit(np.zeros((steps * 10, 64, 64, 3), np.uint8), np.arange(steps * 10) % 10)
    data = Packed("mini", classes, classes, "fingerprint", split, split)
    gpu = SimpleNamespace(device=torch.device("meta"), num_processes=1, process_index=0)  # what is asked of Accelerate
    batches, recipe = train_loader(data, settings, gpu), expected_recipe(settings, data)
    for group in recipe.optimizer.param_groups:
        group["foreach"] = True  # as torch chooses on a GPU
    if change:
        recipe.model.fc.register_forward_hook(lambda layer, inputs, output: change(output))
    training = Training(recipe, batches, batches, epochs=1, process=gpu)
    with Watch() as watch:
        training.train_epoch(1)
    return watch.waits


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["published", "everything"])
def test_nothing_waits_within_an_epoch(changes):
    assert waits(2, **changes) == waits(3, **changes), "each step adds some"
    planted = [len(waits(steps, lambda output: output * output.max().item(), **changes)) for steps in (2, 3)]
    assert planted[0] + 1 == planted[1], "a fault is seen"


def test_what_tests_a_gpu_runs_on_a_fake_one():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_gpu.py", "-k", "fp32-shallow or finite"]
    environment = os.environ | {"PYTHONPATH": "fake_gpu"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout
