"""Learning rates against torch's own schedulers, and the groups of weights that SGD treats differently."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import build_model
from tinyclf.training.optim import (
    SGD,
    ExponentialMovingAverage,
    RateSchedule,
    filters_as_they_lie,
    make_optimizer,
    make_scheduler,
)
from tinyclf.utils.errors import TinyclfError


def rates_of(make, count):
    """The rates of so many steps of a scheduler made for an optimizer with the published rate."""
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 0.001)
    scheduler, rates = make(optimizer), []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_published_schedule_is_torchs_steplr_each_epoch():
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 0.001)
    scheduler, interval = make_scheduler(optimizer, RateSchedule("step", 15, 5))
    assert type(scheduler) is lr_scheduler.StepLR and interval == "epoch"
    rates = rates_of(lambda optimizer: make_scheduler(optimizer, RateSchedule("step", 15, 5))[0], 15)
    assert rates == pytest.approx([0.001] * 7 + [0.0001] * 7 + [0.00001], rel=1e-12)


def test_steps_after_a_warm_up_fall_at_the_end_of_the_same_epochs():
    schedule = RateSchedule("step", 15, 10, warmup=0.1)
    assert [schedule(step) for step in (20, 69, 70, 139, 140)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("schedule", "torchs"),
    [
        ("cosine", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=150)),
        ("linear", lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=150)),
    ],
)
def test_cosine_and_linear_are_torchs(schedule, torchs):
    rates = rates_of(lambda optimizer: make_scheduler(optimizer, RateSchedule(schedule, 15, 10))[0], 150)
    assert rates == pytest.approx(rates_of(torchs, 150), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("schedule", ["step", "cosine", "linear"])
def test_a_warm_up_rises_from_zero_to_the_rate(schedule):
    share = RateSchedule(schedule, 10, 4, warmup=0.2)
    assert [share(step) for step in (0, 2, 4, 8)] == pytest.approx([0, 0.25, 0.5, 1])
    end = {"step": 0.1, "cosine": 0.5 * (1 - math.cos(math.pi / 8)), "linear": 0.125}[schedule]
    assert share(36) == pytest.approx(end)


def test_norms_and_biases_do_not_decay_and_layers_nearer_to_the_image_learn_more_slowly():
    model = build_model("resnet18", 10, stem="small")
    optimizer = make_optimizer(model, 0.1, 0.9, weight_decay=5e-4, layer_decay=0.5)
    names = {id(value): name for name, value in model.named_parameters()}
    groups = {names[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert len(groups) == len(names)
    for name, group in groups.items():
        norm_or_bias = "bn" in name or "downsample.1" in name or name.endswith("bias")
        assert group["weight_decay"] == (0 if norm_or_bias else 5e-4), name
        parts = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"]
        assert group["lr"] == 0.1 * 0.5 ** parts.index(name.split(".")[0].replace("bn1", "conv1")), name


def test_the_published_recipe_has_one_group_as_plain_sgd():
    model = build_model("resnet18", 10)
    (group,) = make_optimizer(model, 0.001, 0.9).param_groups
    (plain,) = optim.SGD(model.parameters(), lr=0.001, momentum=0.9).param_groups
    assert {key: group[key] for key in plain if key != "params"} == {
        key: plain[key] for key in plain if key != "params"
    }
    assert all(ours is theirs for ours, theirs in zip(group["params"], plain["params"], strict=True))


def test_the_average_is_that_of_plain_arithmetic_and_keeps_the_counters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = ExponentialMovingAverage(model, 0.9)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 13):
        model(torch.randn(4, 3))
        with torch.no_grad():
            model[0].weight += 1
        ema.update_parameters(model)
        kept = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = kept * expected[name] + (1 - kept) * value if floating else value.clone()
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schedule": "cosin"}, "did you mean cosine?"),
        ({"warmup": 0.6}, r"warmup = 0\.6: expected a number from 0 to 0\.5"),
        ({"nesterov": True, "momentum": 0.0}, "momentum of nesterov"),
        ({"start_size": 128, "input_size": 64}, "start_size = 128: expected a number from 16 to 64"),
        ({"start_size": 20, "epochs": 1}, "epochs of a run that grows = 1"),
        ({"stem_init": "shrunk"}, "stem_init = 'shrunk': it needs a small stem"),
        ({"zero_init": True, "weights": "imagenet"}, "zero_init = True: it is for a run from scratch"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0"),
    ],
)
def test_what_cannot_be_is_refused(changed, said):
    with pytest.raises(TinyclfError, match=said):
        Settings(**changed)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_of_all_groups_at_once_is_torchs(nesterov, monkeypatch):
    """On a CPU in place of a GPU: the same code."""
    monkeypatch.setattr(SGD, "_can_step_at_once", lambda self: True)
    models = [build_model("resnet18", 10) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        make_optimizer(model, 0.1, 0.9, weight_decay=5e-4, layer_decay=0.8, nesterov=nesterov) for model in models
    ]
    torchs = optim.SGD(optimizers[1].param_groups, foreach=False)
    schedulers = [lr_scheduler.LambdaLR(each, lambda step: 1 / (1 + step)) for each in (optimizers[0], torchs)]
    for step in range(3):
        torch.manual_seed(step)
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            ours.grad, theirs.grad = (values.clone() for values in [torch.randn_like(ours)] * 2)
        for each in (optimizers[0], torchs, *schedulers):
            each.step()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        buffers = optimizers[0].state[ours]["momentum_buffer"], torchs.state[theirs]["momentum_buffer"]
        torch.testing.assert_close(*buffers, rtol=1e-5, atol=1e-6)


def test_groups_that_differ_in_more_take_torchs_step():
    def groups(**changes):
        values = [nn.Parameter(torch.zeros(2, device="meta")) for _ in range(2)]
        for value in values:
            value.grad = torch.zeros_like(value)
        return SGD([{"params": values[:1]}, {"params": values[1:], **changes}], 0.1, momentum=0.9, weight_decay=0.1)

    assert groups(lr=0.2)._can_step_at_once() and groups(weight_decay=0.0)._can_step_at_once()
    for changes in ({"momentum": 0.5}, {"nesterov": True}, {"weight_decay": 0.2}, {"dampening": 0.1}):
        assert not groups(**changes)._can_step_at_once(), changes
    frozen = groups()
    frozen.param_groups[1]["params"][0].grad = None
    assert not frozen._can_step_at_once()


def test_the_average_follows_a_model_whose_tensors_are_replaced():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = ExponentialMovingAverage(model, 0.0)
    ema.update_parameters(model)
    kept = ema._kept
    ema.update_parameters(model)
    assert ema._kept is kept
    model[1].running_mean = torch.full((2,), 7.0)
    model[0].weight = nn.Parameter(torch.full((2, 3), 5.0))
    ema.update_parameters(model)
    assert ema._kept is not kept
    assert torch.equal(ema.module[1].running_mean, model[1].running_mean)
    assert torch.equal(ema.module[0].weight, model[0].weight)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
def test_filters_shown_as_they_lie_give_the_same_bits_and_come_back(options):
    models, seen = [], []
    for shown in (False, True):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, (3, 1), groups=4), nn.BatchNorm2d(4)]
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(12, 2)).to(memory_format=torch.channels_last)
        groups = [{"params": model.parameters()}, {"params": []}]
        optimizer = optim.SGD(groups, 0.1, fused=True, **options)
        for _ in range(3):
            model(torch.rand(2, 3, 5, 5)).square().sum().backward()
            with filters_as_they_lie(optimizer) if shown else nullcontext():
                seen.append((*model[0].weight.shape, *model[0].weight.stride()))
                optimizer.step()
        models.append(model)
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        for key, state in optimizer.state.items():
            buffer = state.get("momentum_buffer", key)
            assert (buffer.shape, buffer.stride()) == (key.shape, key.stride())
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
    assert all(
        one.grad.stride() == other.stride() for one, other in zip(*(m.parameters() for m in models), strict=True)
    )
    assert seen[0] == (3, 3, 3, 3, 27, 1, 9, 3) and seen[-1] == (3, 3, 3, 3, 27, 9, 3, 1)  # which torch does not copy


class Clamped(optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            parameter.data = parameter.data.clamp(-0.01, 0.01)


@pytest.mark.parametrize("make", [Clamped, optim.AdamW, optim.SGD])
def test_other_optimizers_and_hooks_see_filters_as_usual(make):
    model = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
    optimizer, shapes = make(model.parameters(), 0.1, fused=True), []
    if make is optim.SGD:
        optimizer.register_step_post_hook(lambda *_: shapes.append(model.weight.shape))
    model(torch.rand(1, 2, 3, 3)).sum().backward()
    with filters_as_they_lie(optimizer):
        assert model.weight.shape == (4, 2, 3, 3)
        optimizer.step()
    assert make is not Clamped or model.weight.abs().max() <= 0.01


def test_a_step_that_fails_leaves_model_and_optimizer_as_they_were():
    model = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    model(torch.rand(1, 2, 3, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(KeyboardInterrupt), filters_as_they_lie(optimizer):
        assert model.weight.shape == (4, 3, 3, 2)
        raise KeyboardInterrupt
    for tensor in (model.weight, model.weight.grad, optimizer.state[model.weight]["momentum_buffer"]):
        assert tensor.shape == (4, 2, 3, 3) and tensor.is_contiguous(memory_format=torch.channels_last)
