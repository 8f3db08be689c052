"""Learning rates against torch's own, and the groups of weights that SGD treats differently."""

import math

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from tinyclf.models.resnet import build_model
from tinyclf.training.optim import RateSchedule, make_optimizer, make_scheduler
from tinyclf.utils.errors import TinyclfError


def rates_of(make):
    """The rates of 150 steps of a scheduler made for an optimizer with the published rate."""
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 0.001)
    scheduler, rates = make(optimizer), []
    for _ in range(150):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


TORCHS = {
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=150),
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=150),
}


@pytest.mark.parametrize("schedule", TORCHS)
def test_cosine_and_linear_are_torchs(schedule):
    rates = rates_of(lambda optimizer: make_scheduler(optimizer, RateSchedule(schedule, 15, 10))[0])
    assert rates == pytest.approx(rates_of(TORCHS[schedule]), rel=1e-9, abs=1e-12)


def test_a_warm_up_rises_from_zero_to_the_rate():
    for schedule, end in (("step", 0.1), ("cosine", 0.5 * (1 - math.cos(math.pi / 8))), ("linear", 0.125)):
        share = RateSchedule(schedule, 10, 4, warmup=0.2)
        assert [share(step) for step in (0, 2, 4, 8, 36)] == pytest.approx([0, 0.25, 0.5, 1, end])
    schedule = RateSchedule("step", 15, 10, warmup=0.1)  # whose steps fall at the end of the same epochs
    assert [schedule(step) for step in (20, 69, 70, 139, 140)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_norms_and_biases_do_not_decay_and_layers_nearer_to_the_image_learn_more_slowly():
    model = build_model("resnet18", 10, stem="small")
    optimizer = make_optimizer(model, 0.1, 0.9, nesterov=True, weight_decay=5e-4, layer_decay=0.5)
    names = {id(value): name for name, value in model.named_parameters()}
    groups = {names[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert len(groups) == len(names)
    for name, group in groups.items():
        norm_or_bias = "bn" in name or "downsample.1" in name or name.endswith("bias")
        assert group["weight_decay"] == (0 if norm_or_bias else 5e-4), name
        parts = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"]
        assert group["lr"] == 0.1 * 0.5 ** parts.index(name.split(".")[0].replace("bn1", "conv1")), name


def test_a_decay_by_layers_is_refused_for_a_model_whose_layers_it_does_not_know():
    model, options = build_model("mobilenet_v3_small", 10), {"nesterov": False, "weight_decay": 0.0}
    assert len(make_optimizer(model, 0.1, 0.9, **options, layer_decay=1.0).param_groups) == 1
    with pytest.raises(TinyclfError, match=r"layer_decay = 0\.5: .* this model has classifier, features; give 1\.0"):
        make_optimizer(model, 0.1, 0.9, **options, layer_decay=0.5)
