"""Any model, loss, optimizer and scheduler of PyTorch trains, is resumed to the same bits, and is told from others."""

from functools import partial

import pytest
import torch
from random_data import data, interrupt
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from tinyclf import Run, Settings
from tinyclf.experiments.recipe import Recipe
from tinyclf.utils.errors import TinyclfError

SETTINGS = Settings(epochs=3, batch_size=8, input_size=32)
SMOOTHED = nn.CrossEntropyLoss(label_smoothing=0.1)
ADAMW = partial(optim.AdamW, lr=1e-3, weight_decay=0.05)
COSINE = partial(lr_scheduler.CosineAnnealingLR, T_max=3)


def shufflenet(criterion=SMOOTHED, model=lambda network: network, optimizer=ADAMW, scheduler=COSINE):
    """A recipe; `model` changes its network into another one."""
    network = model(models.shufflenet_v2_x0_5(num_classes=4))
    made = optimizer(network.parameters())
    return network, criterion, made, scheduler(made)


def mobilenet():
    model = models.mobilenet_v3_small(num_classes=4)  # with dropout
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return model, nn.CrossEntropyLoss(), optimizer, lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=9)


class Balanced(nn.Module):
    """A loss with state: each class counts by how rare it was so far."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.ones(4))

    def forward(self, logits, labels):
        self.seen += torch.bincount(labels, minlength=4)
        return nn.functional.cross_entropy(logits, labels, 1 / self.seen)


def balanced():
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(), nn.Linear(48, 4))
    return model, Balanced(), optim.SGD(model.parameters(), lr=0.1), None


def fit(run, make, *, interval="epoch", ema=False, after=0):
    """Train a fresh recipe, to its end or the forward pass `after`."""
    torch.manual_seed(0)
    model, criterion, optimizer, scheduler = make()
    average = AveragedModel(model, use_buffers=True) if ema else None
    interrupt(model, after)
    return run.fit(model, criterion, optimizer, scheduler, scheduler_interval=interval, ema=average)


@pytest.mark.parametrize(
    ("make", "options"),
    [(shufflenet, {}), (mobilenet, {"interval": "step", "ema": True}), (balanced, {})],
    ids=["adamw-cosine", "sgd-onecycle-ema", "loss-with-state"],
)
def test_killed_within_an_epoch_and_resumed_it_ends_with_the_same_bits(make, options, reports):
    whole = Run(SETTINGS, data(), "whole")
    fit(whole, make, **options)
    record = whole.finish()
    with pytest.raises(KeyboardInterrupt):
        # Two images are shown to the model first; then 3 steps and 2 passes of validation an epoch
        fit(Run(SETTINGS, data(), "killed"), make, after=8, **options)
    assert len(Run(SETTINGS, data(), "killed").about["history"]) in (1, 2)  # an average is validated without a pass
    resumed = Run(SETTINGS, data(), "killed")
    fit(resumed, make, **options)
    resumed.finish()
    assert (reports / "mini/killed/history.csv").read_bytes() == (reports / "mini/whole/history.csv").read_bytes()
    values = [run.recipe.trained_model.state_dict().values() for run in (whole, resumed)]
    assert all(map(torch.equal, *values))
    told = Recipe(*make(), options.get("interval", "epoch")).identity()
    assert record["recipe"]["optimizer"] == told["optimizer"] and record["recipe"]["scheduler"] == told["scheduler"]
    assert record["recipe"]["ema"] == ("AveragedModel(use_buffers=True)" if "ema" in options else None)
    assert record["command"] == "" and record["overrides"]["optimizer"] == record["recipe"]["optimizer"]


def other_pool(model):
    model.maxpool = nn.MaxPool2d(3, stride=1, padding=1)
    return model


def test_a_checkpoint_of_another_recipe_is_refused_by_what_differs():
    with pytest.raises(KeyboardInterrupt):  # within the second epoch
        fit(Run(SETTINGS, data(), "mine"), shufflenet, after=8)
    for parts, said in (
        ({"model": other_pool}, r"model: maxpool: .*stride=2.* before, .*stride=1.* now"),
        ({"criterion": nn.CrossEntropyLoss()}, "criterion: .* before, .* now"),
        ({"optimizer": optim.AdamW}, r"optimizer: .*decay=0\.05.* before, .*=0\.01"),
        ({"scheduler": partial(COSINE, T_max=4)}, r"scheduler: .*T_max=3.* before, .*=4"),
    ):
        with pytest.raises(TinyclfError, match=f"holds another run .*{said}"):
            fit(Run(SETTINGS, data(), "mine"), partial(shufflenet, **parts))


def test_what_cannot_work_is_refused_before_anything_is_written(reports):
    run, three = Run(SETTINGS, data(), "mine"), nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3))
    for parts, interval, said in (
        ({}, "batch", "scheduler_interval = 'batch': expected one of epoch, step"),
        ({"criterion": nn.CrossEntropyLoss(reduction="sum")}, "epoch", "reduction of the criterion = 'sum': .* mean"),
        ({"optimizer": optim.LBFGS}, "epoch", "optimizer: LBFGS computes the loss several times a step"),
        ({"scheduler": lr_scheduler.ReduceLROnPlateau}, "step", "ReduceLROnPlateau .*'epoch'"),
        ({"model": lambda _: three}, "epoch", r"model: expected logits \(2, 4\) of 2 images, .*, got .*2, 3"),
        ({"model": lambda _: nn.Linear(7, 4)}, "epoch", "model: it cannot take 2 images of 32 pixels: .*mat1"),
    ):
        with pytest.raises(TinyclfError, match=said):
            fit(run, partial(shufflenet, **parts), interval=interval)
    assert not list(reports.rglob("*.pt"))
    assert len(fit(run, balanced)) == 3  # mended, the same run trains
    with pytest.raises(TinyclfError, match=r"criterion: expected one number, a mean over the batch, got \(\d+,\)"):
        fit(Run(SETTINGS, data(), "each"), partial(shufflenet, partial(nn.functional.cross_entropy, reduction="none")))


def test_to_be_looked_at_leaves_a_model_as_it_was():
    def count(module, inputs):
        module.passes += 1

    model, criterion, optimizer, _ = balanced()
    model.register_buffer("passes", torch.tensor(0))
    model.register_forward_pre_hook(count)
    interrupt(model, 3)  # its operations are counted first, on a copy, then it is looked at
    with pytest.raises(KeyboardInterrupt):
        Run(SETTINGS, data(), "counted").fit(model, criterion, optimizer)
    assert model.passes == 1, "that of the first step, and not the one of the look"


def test_a_plateau_scheduler_sees_the_validation_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))
    optimizer = optim.SGD(model.parameters(), lr=0.0)  # nothing improves
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    history = Run(SETTINGS, data(), "plateau").fit(model, nn.CrossEntropyLoss(), optimizer, scheduler)
    assert scheduler.num_bad_epochs == 0 and scheduler.last_epoch == 3
    assert scheduler.best == min(row["val_loss"] for row in history)
