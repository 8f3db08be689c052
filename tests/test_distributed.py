"""Two real processes on the CPU: they see the same images, and give the result of one process but for rounding."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from multiprocessing import forkserver
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn

from tinyclf import Run, Settings, cli, load_data
from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments.launch import TRAIN, children
from tinyclf.experiments.recipe import build_recipe, recipe_for
from tinyclf.experiments.record import read_record
from tinyclf.experiments.run import train as train_experiments
from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm
from tinyclf.training.device import data_parallel, this_process
from tinyclf.training.evaluate import evaluate
from tinyclf.training.loop import Training
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import PROJECT

CLASSES = 4
COUNT = 25  # in batches of 8, the last one holds one image: one of two processes gets none of it
MIXED = {"mixup": 0.2, "cutmix": 1.0, "crop_padding": 4, "label_smoothing": 0.1}
SETTINGS = Settings(epochs=2, batch_size=8, weight_decay=5e-4, ema_decay=0.9, **MIXED)
QUICK = {"model": "shufflenet_v2_x0_5", "batch_size": 100, "input_size": 32}
two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core for each of two processes")


class Double(nn.Module):
    """A small model with ghost batch norm, in double precision: in single, 1e-7 becomes 1e-2 within 20 steps."""

    def __init__(self):
        super().__init__()
        body = [nn.Conv2d(3, 8, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)]
        self.model, self.late = nn.Sequential(*body, *head).double(), nn.Linear(3, CLASSES).double()
        self.late.bias.requires_grad_(False)
        self.whole = True
        use_ghost_batch_norm(self.model, 2)

    def forward(self, images):
        images = images.double()
        return self.model(images) + (self.late(images.mean((2, 3))) if self.whole else 0)

    def grow(self, step):
        """Leave a layer out of the first two steps, and keep its bias frozen for another one."""
        self.whole = step > 1
        self.late.bias.requires_grad_(step > 2)


def main(folder):
    """What each process does; the test also calls it without others, for what is expected."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8), rng.integers(0, CLASSES, COUNT)
    process = this_process()
    part = {"part": process.process_index, "parts": process.num_processes}
    augmentation = Augmentation(SETTINGS.flip, SETTINGS.crop_padding, SETTINGS.mixup, SETTINGS.cutmix)
    train = ImageLoader(images, labels, 8, shuffle=True, augmentation=augmentation, **part)
    val = ImageLoader(images, labels, 8, **part)
    torch.manual_seed(process.process_index)  # the first one's weights are everyone's
    recipe = recipe_for(Double(), SETTINGS, COUNT)
    recipe.before_step = recipe.model.grow
    seen = [torch.arange(COUNT)[indices].tolist() for indices in train.slices()]
    pixels = [batch.images.double().sum((1, 2, 3)).tolist() for batch in train.epoch(1)]
    history = Training(recipe, train, val, epochs=2).fit()
    alone = evaluate(recipe.trained_model, ImageLoader(images, labels, 8))
    results = {"seen": seen, "pixels": pixels, "history": history, "alone": alone.logits}
    results |= {"model": recipe.model.state_dict(), "average": recipe.ema.module.state_dict()}
    torch.save(results, f"{folder}/{process.process_index}-of-{process.num_processes}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    main(folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, __file__, str(folder)], env=environment, check=True, timeout=300)
    return [torch.load(folder / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2")]


def test_together_they_see_every_image_once_and_the_same_pixels(results):
    whole, first, second = results
    for what in ("seen", "pixels"):
        assert [one + other for one, other in zip(first[what], second[what], strict=True)] == whole[what]
    assert sorted(index for batch in whole["seen"] for index in batch) == list(range(COUNT))
    assert second["seen"][-1] == []  # the last batch has one image: nothing is padded


def test_the_result_is_that_of_one_process_but_for_rounding(results):
    whole, first, second = results
    for name in whole["model"]:
        for part in ("model", "average"):
            assert torch.equal(first[part][name], second[part][name]), name
            torch.testing.assert_close(first[part][name], whole[part][name], rtol=1e-9, atol=1e-10, msg=name)
    torch.testing.assert_close(first["alone"], whole["alone"])
    for one, two, other in zip(whole["history"], first["history"], second["history"], strict=True):
        for key in ("train_loss", "val_loss"):
            assert one[key] == pytest.approx(two[key], abs=1e-6) and two[key] == other[key]
        for key in ("train_accuracy", "val_accuracy"):
            assert one[key] == two[key] == other[key]


@pytest.fixture
def launch(monkeypatch, capfd):
    """`tinyclf train --processes 2`, to its end: the status, and what it and its processes printed."""

    def launch(epochs, *arguments):
        parameters = [f"-p{name}={value}" for name, value in ({"epochs": epochs} | QUICK).items()]
        forkserver._forkserver._stop()  # the next one prints to where this test captures it
        command = ["tinyclf", "train", "baseline-scratch", "--processes", "2"]
        monkeypatch.setattr(sys, "argv", [*command, *parameters, *arguments])
        capfd.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, *capfd.readouterr()

    return launch


def train_in_this_process(epochs):
    run = Run(Settings(epochs=epochs, **QUICK), load_data("mini"), "baseline-scratch")
    run.fit(**vars(build_recipe(run.settings, run.data)))
    return run.finish()


@two_cores
def test_a_run_starts_and_continues_in_two_processes_and_continues_in_one(reports, launch):
    first = train_in_this_process(1)
    status, said, wrong = launch(2, "--seeds", "0", "--seeds", "1")
    assert status == 0, wrong
    assert said.count("continuing after epoch 1 of 2") == said.count("epoch  1/2") == 1
    assert said.count("epoch  2/2") == 2
    for run in ("baseline-scratch", "baseline-scratch-seed-1"):
        record = read_record(reports / "mini" / run / "record.json")
        assert record["evaluation"]["top1"] == record["history"][1]["val_accuracy"]

    record = train_in_this_process(3)
    assert [environment["hardware"]["processes"] for environment in record["environments"]] == [1, 2]
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3] and record["history"][0] == first["history"][0]


def die_in_training(*experiments):
    Training.fit = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    train_experiments(*experiments)


@two_cores
@pytest.mark.parametrize(
    ("function", "changed", "said"),
    [
        (TRAIN, {"TINYCLF_REPORTS": "/dev/null/reports"}, "failed with status 1, its message is above"),
        ("test_distributed:die_in_training", {}, "killed by SIGKILL"),
    ],
)
def test_one_that_fails_or_is_killed_is_named(function, changed, said, monkeypatch, launch):
    @contextmanager
    def second_differs(imported, count):
        with children(imported, count) as start:
            second = lambda _, arguments, env: start(function, arguments, env | changed)  # noqa: E731
            yield lambda *call: (start if call[2]["RANK"] == "0" else second)(*call)

    monkeypatch.setattr("tinyclf.experiments.launch.children", second_differs)
    status, _, wrong = launch(1)
    assert status == 1 and "Traceback" not in wrong
    assert f"tinyclf: cannot write to {changed.get('TINYCLF_REPORTS')}" in wrong or not changed
    start = r"tinyclf: training in 2 processes failed: process 1 \(process id \d+\) "
    assert re.match(start + said, wrong.splitlines()[-1])


def test_what_others_left_in_the_environment_makes_no_several_processes(monkeypatch):
    state = dict(PartialState._shared_state)
    try:
        for name in ("PMI_SIZE", "WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "LOCAL_RANK"):
            PartialState._reset_state()
            monkeypatch.setenv(name, "2")
            assert this_process().num_processes == 1 and this_process().is_main_process
            assert name not in os.environ
    finally:
        PartialState._shared_state.clear()
        PartialState._shared_state.update(state)


def test_batch_norms_that_processes_cannot_share_are_refused():
    for parts, processes in ((2, 3), (1, 2)):
        model = nn.Sequential(nn.BatchNorm2d(2))
        use_ghost_batch_norm(model, parts)
        accelerator = SimpleNamespace(num_processes=processes, device=torch.device("cpu"))
        with pytest.raises(TinyclfError, match=f"ghost_batches = {parts}: {processes} processes cannot share so many"):
            data_parallel(model, accelerator)


if __name__ == "__main__":
    main(sys.argv[1])
