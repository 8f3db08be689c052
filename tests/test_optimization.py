"""Learning rates against torch's own schedulers, and the groups of weights that SGD treats differently."""

import math

import pytest
import torch
from torch import nn

from tinyclf.errors import TinyclfError
from tinyclf.models import resnet18
from tinyclf.optimization import learning_rate, set_rate, sgd
from tinyclf.settings import Settings


def torchs(scheduler, count, **arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.001)
    schedule, rates = scheduler(optimizer, **arguments), []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_the_learning_rate_of_all_15_published_epochs_in_every_step():
    rates = [learning_rate(Settings(), epoch) for epoch in range(15)]
    assert rates == pytest.approx([0.001] * 7 + [0.0001] * 7 + [0.00001], rel=1e-12)
    assert rates == pytest.approx(torchs(torch.optim.lr_scheduler.StepLR, 15, step_size=7, gamma=0.1), rel=1e-12)
    assert [learning_rate(Settings(), epoch + step / 997) for epoch in range(15) for step in (0, 1, 996)] == [
        rate for rate in rates for _ in range(3)
    ]


def test_cosine_and_linear_are_torchs():
    steps = [step / 10 for step in range(150)]
    cosine = [learning_rate(Settings(schedule="cosine"), epoch) for epoch in steps]
    assert cosine == pytest.approx(torchs(torch.optim.lr_scheduler.CosineAnnealingLR, 150, T_max=150), rel=1e-9)
    linear = [learning_rate(Settings(schedule="linear"), epoch) for epoch in steps]
    arguments = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 150}
    assert linear == pytest.approx(torchs(torch.optim.lr_scheduler.LinearLR, 150, **arguments), rel=1e-9)


@pytest.mark.parametrize("schedule", ["step", "cosine", "linear"])
def test_a_warm_up_rises_from_nothing_to_the_rate(schedule):
    settings = Settings(epochs=10, learning_rate=0.4, schedule=schedule, warmup=0.2)
    assert [learning_rate(settings, epoch) for epoch in (0, 0.5, 1, 2)] == pytest.approx([0, 0.1, 0.2, 0.4])
    end = {"step": 0.04, "cosine": 0.2 * (1 - math.cos(math.pi / 8)), "linear": 0.05}[schedule]
    assert learning_rate(settings, 9) == pytest.approx(end)


@pytest.mark.parametrize("stem", ["small", "sub-pixel"])
def test_norms_and_biases_do_not_decay_and_layers_learn_the_slower_the_nearer_to_the_image(stem):
    model = resnet18(10, stem=stem)
    optimizer = sgd(model, Settings(weight_decay=5e-4, layer_decay=0.5))
    names = {id(value): name for name, value in model.named_parameters()}
    found = {names[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert len(found) == len(names)
    set_rate(optimizer, 0.1)
    for name, group in found.items():
        norm_or_bias = "bn" in name or "downsample.1" in name or name.endswith("bias")
        assert group["weight_decay"] == (0 if norm_or_bias else 5e-4), name
        place = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"].index(
            name.split(".")[0].replace("bn1", "conv1")
        )
        assert group["lr"] == 0.1 * 0.5**place, name


def test_the_published_recipe_has_one_group():
    (group,) = sgd(resnet18(10), Settings()).param_groups
    assert (group["weight_decay"], group["factor"], group["nesterov"]) == (0, 1, False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schedule": "cosin"}, "did you mean cosine?"),
        ({"warmup": 0.6}, r"warmup = 0\.6: expected a number from 0 to 0\.5"),
        ({"nesterov": True, "momentum": 0.0}, "momentum of nesterov"),
        ({"grow_from": 128}, "grow_from = 128: expected a number from 16 to 64"),
        ({"grow_from": 40, "epochs": 1}, "epochs of a run that grows = 1"),
        ({"shrink_stem": True}, "shrink_stem = True: it takes another stem"),
        ({"zero_init": True, "weights": "imagenet"}, "zero_init = True: it is for a run that starts from nothing"),
        ({"ema": 1.0}, "ema = 1.0"),
    ],
)
def test_what_cannot_be_is_refused(changed, said):
    with pytest.raises(TinyclfError, match=said):
        Settings(**changed)
