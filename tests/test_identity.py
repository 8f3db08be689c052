"""The text of what a run is given: the same in each process and after training, another for what computes otherwise."""

import subprocess
import sys
import types

import torch
from torch import nn, optim
from torch.nn import functional
from torch.optim import lr_scheduler

from tinyclf.training.identity import canonical
from tinyclf.training.loop import Recipe

SCRIPT = """
import functools, torch
from torch import nn, optim
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2
SHARE, KNOWN = 0.5, {"ant", "bee", "cat", "dog", "elk"}

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

def changed_by(transform):
    return lambda images: transform(images)

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
seen = []
model[1].register_forward_hook(lambda layer, given, made: seen.append(layer) or made * 0.5)
criterion = Loss()
optimizer = optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1, momentum=0.9)
scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=9)
average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
crop = changed_by(v2.RandomCrop(8))
told = [model, criterion, optimizer, scheduler, "step", average, functools.partial(step, limits={"ant": 4}), crop]
"""


def made(script=SCRIPT):
    names = {"__name__": "__main__"}
    exec(script, names)
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
    code = f"{SCRIPT}\nfrom tinyclf.training.loop import Recipe\nprint(Recipe(*told).identity())"
    env = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}  # with sets in another order
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{before}\n"


CHANGES = {
    "a global that it reads": ("SHARE, KNOWN = 0.5", "SHARE, KNOWN = 0.25", "criterion"),
    "code of a class that it is made of": ("self.center * 0.9", "self.center * 0.8", "criterion"),
    "a buffer": ("criterion = Loss()", "criterion = Loss(); criterion.center.fill_(7)", "criterion"),
    "the body of before_step": ("and number]", "or number]", "before_step"),
    "a default": ('limits={"ant": 3}', 'limits={"ant": 6}', "before_step"),
    "a default of a keyword": ("often=2", "often=3", "before_step"),
    "what is bound to it": ('limits={"ant": 4}', 'limits={"ant": 5}', "before_step"),
    "a forward hook": ("made * 0.5", "made * 0.25", "model"),
    "a hook of a parameter": ("seen = ", "seen = model[1].weight.register_hook(lambda grad: grad * 2) and", "model"),
    "a hook of a step": ("average =", "optimizer.register_step_pre_hook(print); average =", "optimizer"),
    "an option of a group": ("average =", "optimizer.param_groups[0]['nesterov'] = True; average =", "optimizer"),
    "a rate set by hand": ("average =", "optimizer.param_groups[0]['lr'] *= 2; average =", "optimizer"),
    "the decay of an average": ("avg_fn(0.9)", "avg_fn(0.99)", "ema"),
    "what a function captured": ("RandomCrop(8)", "RandomCrop(9)", "transform"),
    "another forward": ("criterion = Loss()", "criterion = Loss(); model[1].forward = lambda x: x[:, :4]", "model"),
    "a layer of the same shapes": ("nn.Flatten()", "nn.Flatten(start_dim=-3)", "model"),
    "a class of the same name": ("nn.Linear(12, 4)", 'type("Linear", (nn.Linear,), {"forward": abs})(12, 4)', "model"),
}


def test_what_computes_otherwise_has_another_text():
    before = Recipe(*made().told).identity()
    for what, (old, new, part) in CHANGES.items():
        assert SCRIPT.count(old) == 1
        now = Recipe(*made(SCRIPT.replace(old, new)).told).identity()
        assert {name for name in before if before[name] != now[name]} == {part}, what


def test_texts_of_what_has_no_other_part_read_as_the_call_that_makes_it():
    assert canonical(nn.CrossEntropyLoss()) == "CrossEntropyLoss(ignore_index=-100, label_smoothing=0, reduction=mean)"
    assert canonical(functional.cross_entropy) == "torch.nn.functional.cross_entropy"
    optimizer = optim.Adam([nn.Parameter(torch.zeros(1))])
    assert canonical(lr_scheduler.StepLR(optimizer, step_size=7)) == "StepLR(gamma=0.1, step_size=7)"
