"""The text of what a run is given: the same in each process and after training, another for what computes otherwise."""

import functools
import subprocess
import sys
import types

import torch
from torch import nn, optim
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from tinyclf.experiments.recipe import Recipe
from tinyclf.training.identity import canonical, differences

SCRIPT = """
import functools, torch
from torch import nn, optim
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2
SHARE, KNOWN, crop = 0.5, {"ant", "bee", "cat", "dog", "elk"}, v2.RandomCrop(8)

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(4))
        self.inner, self.weight = nn.CrossEntropyLoss(weight=torch.ones(4)), nn.Parameter(torch.zeros(4))

    def forward(self, logits, targets):
        self.center = self.center * 0.9 + logits.mean(0).detach() * 0.1
        return self.inner(logits * SHARE + self.weight, targets)

class Loss(Base):
    pass

def step(number, limits={"ant": 3}, *, often=2):
    return [model for name in limits if name in KNOWN and name in {"ant", "bee", "cat"} and number]

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
seen = []
model[1].register_forward_hook(lambda layer, given, made: seen.append(layer) or made * 0.5)
criterion = Loss()
optimizer = optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1, momentum=0.9)
scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=9)
average = optim.swa_utils.AveragedModel(model)
told = [model, criterion, optimizer, scheduler, "step", average, functools.partial(step, limits={"ant": 4}), crop]
"""


def made(script=SCRIPT):
    names = {"__name__": "__main__"}
    exec(compile(script, "anywhere.py", "exec"), names)
    return types.SimpleNamespace(**names)


def test_texts_are_the_same_in_a_new_process_and_after_training():
    one = made()
    before = Recipe(*one.told).identity()
    for _ in range(3):
        images = torch.randn(8, 3, 2, 2)
        one.criterion(one.model(images), torch.arange(8) % 4).backward()
        one.optimizer.step()
        one.scheduler.step()
        one.average.update_parameters(one.model)
    assert Recipe(*one.told).identity() == before
    code = f"{SCRIPT}\nfrom tinyclf.experiments.recipe import Recipe\nprint(Recipe(*told).identity())"
    env = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}  # with sets in another order
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{before}\n"


CHANGES = {
    "a global that it reads": ("SHARE, KNOWN, crop = 0.5", "SHARE, KNOWN, crop = 0.25", "criterion"),
    "code of a class that it is made of": ("self.center * 0.9", "self.center * 0.8", "criterion"),
    "a buffer": ('"center", torch.zeros', '"center", torch.ones', "criterion"),
    "the body of before_step": ("and number]", "or number]", "before_step"),
    "a default": ('limits={"ant": 3}', 'limits={"ant": 6}', "before_step"),
    "a default of a keyword": ("often=2", "often=3", "before_step"),
    "what is bound to it": ('limits={"ant": 4}', 'limits={"ant": 5}', "before_step"),
    "a forward hook": ("made * 0.5", "made * 0.25", "model"),
    "a hook of a parameter": ("seen = ", "seen = model[1].weight.register_hook(lambda grad: grad * 2) and", "model"),
    "a hook of a step": (
        "average =",
        "optimizer.register_step_pre_hook(lambda *given: print(given)); average =",
        "optimizer",
    ),
    "a rate that is not the scheduler's": ("average =", 'optimizer.param_groups[0]["lr"] = 9; average =', "optimizer"),
    "a transform": ("RandomCrop(8)", "RandomCrop(9)", "transform"),
    "another forward": ("criterion = Loss()", "criterion = Loss(); model[1].forward = lambda x: x[:, :4]", "model"),
    "a layer of the same shapes": ("nn.Flatten()", "nn.Flatten(start_dim=-3)", "model"),
    "a class of the same name": (
        "nn.Linear(12, 4)",
        'type("Linear", (nn.Linear,), {"forward": lambda self, x: -nn.Linear.forward(self, x)})(12, 4)',
        "model",
    ),
}


def test_what_computes_otherwise_has_another_text():
    before = Recipe(*made().told).identity()
    for what, (old, new, part) in CHANGES.items():
        assert SCRIPT.count(old) == 1
        now = Recipe(*made(SCRIPT.replace(old, new)).told).identity()
        assert {name for name in before if before[name] != now[name]} == {part}, what


def powered(power):
    return lambda logits, targets: functional.cross_entropy(logits, targets) ** power


def test_options_of_parameter_groups_captured_values_and_averages_are_told():
    def groups(**options):
        return canonical(
            optim.Adam(
                [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], **options}]
            )
        )

    texts = [groups(), groups(betas=(0.5, 0.9)), groups(eps=1e-6), groups(weight_decay=0.1), groups(lr=0.1)]
    model = nn.Linear(2, 2)
    texts += [canonical(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))) for decay in (0.9, 0.99)]
    texts += [canonical(powered(power)) for power in (1, 2)]
    texts += [canonical(functools.partial(functional.cross_entropy, reduction=text)) for text in ("mean", "sum")]
    assert len(set(texts)) == len(texts)
    assert "betas=[0.5, 0.9]" in texts[1] and "decay=0.99" in texts[6] and "power=2" in texts[8]


def test_texts_of_what_has_no_other_part_read_as_the_call_that_makes_it():
    assert canonical(nn.CrossEntropyLoss()) == "CrossEntropyLoss(ignore_index=-100, label_smoothing=0, reduction=mean)"
    assert canonical(functional.cross_entropy) == "torch.nn.functional.cross_entropy"
    assert canonical(v2.RandomErasing(p=0.1)).startswith("RandomErasing(p=0.1")
    scheduler = lr_scheduler.StepLR(optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), step_size=7)
    assert canonical(scheduler) == "StepLR(gamma=0.1, step_size=7)"


def test_of_texts_that_differ_the_first_line_that_does_is_told():
    assert differences({"a": "x\ny\nz", "b": "", "c": 1}, {"a": "x\nY\nZ", "b": "", "c": 1}) == {"a": ("y", "Y")}
