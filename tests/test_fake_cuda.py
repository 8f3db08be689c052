"""The GPU's path on a GPU that is none: nothing waits within an epoch, and a step has few more operations than torch's.

No GPU is needed. What a real one computes is tested in test_gpu.py, where there is one.
"""

import contextlib
from collections import Counter

import numpy as np
import pytest
import torch
from fake_cuda import CLASSES, Fault, train_and_evaluate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tinyclf.data import loader
from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments.recipe import recipe_for
from tinyclf.experiments.settings import Settings
from tinyclf.models.choices import STEMS
from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm
from tinyclf.models.resnet import build_model
from tinyclf.training import loop
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.loop import Plan, Training

EVERYTHING = {
    **{"normalization": "tiny-imagenet", "crop_padding": 8, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
    **{"ema_decay": 0.998, "layer_decay": 0.8, "weight_decay": 5e-4, "nesterov": True, "schedule": "cosine"},
}
RECIPES = {
    "published": Settings(batch_size=8),
    "enlarged, in bf16": Settings(batch_size=8, input_size=128, precision="bf16", ghost_batches=1),
    "shrunk and growing": Settings(batch_size=8, input_size=32, start_size=16, flip_tta=True, precision="tf32"),
    "shallow at first": Settings(batch_size=8, shallow=0.5, nesterov=True),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_without_waiting_for_the_host(name):
    checks = train_and_evaluate(RECIPES[name])
    assert checks["epoch 1 training"] == 1  # one at the end, and none for each step: a check waits


@pytest.mark.parametrize("stem", STEMS)
def test_every_stem_with_everything_at_once(stem):
    train_and_evaluate(Settings(**EVERYTHING, stem=stem, batch_size=8, input_size=32))


@pytest.mark.parametrize(("model", "precision"), [("mobilenet_v3_small", "fp32"), ("squeezenet1_1", "fp16")])
def test_other_models(model, precision):
    train_and_evaluate(Settings(model=model, precision=precision, batch_size=8, weight_decay=5e-4))


@pytest.mark.parametrize("changes", [{}, EVERYTHING | {"input_size": 128, "flip_tta": True}], ids=["published", "all"])
def test_a_macs_gpu_trains_without_float64(changes):
    train_and_evaluate(Settings(batch_size=8, **changes), float64=False)


def test_float64_on_a_macs_gpu_is_seen():
    with pytest.raises(Fault, match="float64"):
        train_and_evaluate(SMALL, hook(lambda output: output.double().float()), float64=False)


def hook(function):
    """A change of what the last convolution gives."""

    def change(state):
        layer = [layer for layer in state.model.modules() if isinstance(layer, nn.Conv2d)][-1]
        layer.register_forward_hook(lambda layer, inputs, output: function(output))

    return change


def wrong_layout(state):
    state.model.features[3].register_forward_hook(lambda layer, inputs, output: output.contiguous())


def weights_left(state):
    layer = state.model.features[0]
    layer.weight = nn.Parameter(layer.weight.contiguous())


HOOKS = {
    "a value read": (hook(lambda output: output * output.max().item()), "_local_scalar_dense waits"),
    "a condition": (hook(lambda output: output if (output > 0).any() else -output), "waits for a value"),
    "positions": (hook(lambda output: output + len(output.nonzero())), "nonzero waits"),
    "a mask": (hook(lambda output: output + output[output > 0].sum()), "mask|waits"),
    "a copy": (hook(lambda output: output + output.mean().reshape(1).cpu().to(output.device)), "copies"),
    "a tensor of the host": (hook(lambda output: output * torch.ones(output.shape[1:])), "mixes devices"),
    "a layout lost between layers": (wrong_layout, "input of Conv2d.* is not channels last"),
    "a layout lost in a weight": (weights_left, "weight of Conv2d.* is not channels last"),
}
SMALL = Settings(model="squeezenet1_1", batch_size=8)


@pytest.mark.parametrize("fault", HOOKS)
def test_planted_faults_are_seen_in_a_model(fault):
    change, said = HOOKS[fault]
    with pytest.raises(Fault, match=said):
        train_and_evaluate(SMALL, change)


class Count(TorchDispatchMode):
    """Counts operations that compute: no views, no notes of a profiler."""

    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if not func.is_view and not name.startswith(("prim::", "profiler::")) and name != "aten::detach":
            self.ops[name] += 1
        return func(*args, **kwargs or {})


@pytest.fixture
def meta(monkeypatch):
    """Tensors of device `meta` in a GPU's place: they hold nothing either, and backward passes run."""
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
    counts = []
    for _ in range(2):  # the first one makes the optimizer's state
        with Count() as count:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        counts.append(count.ops.total())
    return counts[1]


def our_step(**changes):
    """The operations of a step of ours, and those that load a batch: or several, which are made at once."""
    settings = Settings(batch_size=100, **changes)
    epochs, loads = [], []
    for steps in (2, 3):
        images = np.zeros((steps * 100, 64, 64, 3), np.uint8)
        batches = ImageLoader(
            images,
            np.arange(len(images)) % CLASSES,
            100,
            "meta",
            shuffle=True,
            augmentation=Augmentation(settings.flip, settings.crop_padding, settings.mixup, settings.cutmix),
            normalization=settings.normalization,
            classes=CLASSES,
        )
        recipe = recipe_for(on_meta(settings), settings, len(images))
        state = TrainingState(recipe.model, recipe.optimizer, recipe.scheduler, recipe.ema)
        for group in state.optimizer.param_groups:
            group["foreach"] = True  # as torch chooses on a GPU
        training = Training(state, recipe.criterion, batches, batches, Plan(1, recipe.scheduler_interval))
        with Count() as load:
            list(batches.epoch(1))
        with Count() as count, contextlib.suppress(RuntimeError):  # where the sums are read, at the end
            training.train_epoch(1)
        epochs.append(count.ops.total())
        loads.append(load.ops.total())
    assert loads[0] == loads[1], "all of the batches are made at once"
    return epochs[1] - epochs[0], loads[1]


def test_a_step_has_few_more_operations_than_torchs(meta):
    bare = bare_step()
    at_once = loader.AHEAD // (100 * 64**2)  # batches
    step, load = our_step(ghost_batches=1)
    assert step + load / at_once <= 1.05 * bare
    halves, load = our_step(ghost_batches=2)
    print(f"operations a step: bare {bare}, whole {step}, two parts {halves}")
    assert halves + load / at_once <= 1.8 * bare
