"""Two real processes on the CPU: the same images seen, the same result as one process but for rounding."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tinyclf import distributed
from tinyclf.augment import Augmentation
from tinyclf.cache import load_data
from tinyclf.distributed import SyncedBatchNorm, this_process
from tinyclf.errors import TinyclfError
from tinyclf.evaluate import evaluate
from tinyclf.loader import ImageLoader
from tinyclf.loop import fit
from tinyclf.paths import PROJECT
from tinyclf.resnet import build_model
from tinyclf.run import Run
from tinyclf.settings import Settings

CLASSES = 4
COUNT = 25  # in batches of 8, the last one holds one image: one of two processes gets none of it
MIXED = {"mixup": 0.2, "cutmix": 1.0, "crop_padding": 4, "label_smoothing": 0.1}
SETTINGS = Settings(epochs=2, batch_size=8, weight_decay=5e-4, ema_decay=0.9, **MIXED)


class Double(nn.Module):
    """A small model in double precision: untrained, in single, differences of 1e-7 become ones of 1e-2 in 20 steps."""

    def __init__(self):
        super().__init__()
        body = [nn.Conv2d(3, 8, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)]
        self.model = nn.Sequential(*body, *head).double()

    def forward(self, images):
        return self.model(images.double())


def main(folder):
    """What each process does; also called without others, for what is expected."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8), rng.integers(0, CLASSES, COUNT)
    process = this_process()
    part = {"part": process.process_index, "parts": process.num_processes}
    drawn = {"shuffle": True, "augmentation": Augmentation(SETTINGS.flip, 4, 0.2, 1.0)}
    train, val = ImageLoader(images, labels, 8, **drawn, **part), ImageLoader(images, labels, 8, **part)
    torch.manual_seed(process.process_index)  # the first one's weights are everyone's
    model = Double()
    seen = [torch.arange(COUNT)[indices].tolist() for indices in train.indices()]
    pixels = [batch.images.double().sum((1, 2, 3)).tolist() for batch in train.epoch(1)]
    history = fit(model, train, val, SETTINGS, report=lambda line: None)
    alone = evaluate(model, ImageLoader(images, labels, 8))
    torch.save(
        {"seen": seen, "pixels": pixels, "history": history, "model": model.state_dict(), "alone": alone.logits},
        f"{folder}/{process.process_index}-of-{process.num_processes}.pt",
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    main(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    subprocess.run([*command, str(folder)], env=environment, check=True, timeout=300)
    return [torch.load(folder / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2")]


def test_together_they_see_every_image_once_and_the_same_pixels(results):
    whole, first, second = results
    assert [one + other for one, other in zip(first["seen"], second["seen"], strict=True)] == whole["seen"]
    assert sorted(place for batch in whole["seen"] for place in batch) == list(range(COUNT))
    assert [one + other for one, other in zip(first["pixels"], second["pixels"], strict=True)] == whole["pixels"]
    assert second["seen"][-1] == []  # the last batch has one image: nothing is padded


def test_the_result_is_that_of_one_process_but_for_rounding(results):
    whole, first, second = results
    for name, value in whole["model"].items():
        assert torch.equal(first["model"][name], second["model"][name]), name
        torch.testing.assert_close(first["model"][name], value, rtol=1e-9, atol=1e-10, msg=name)
    torch.testing.assert_close(first["alone"], whole["alone"])


def test_history_and_validation_count_every_image_exactly_once(results):
    whole, first, second = results
    for one, two, other in zip(whole["history"], first["history"], second["history"], strict=True):
        for key in ("train_loss", "val_loss"):
            assert one[key] == pytest.approx(two[key], abs=1e-6) and two[key] == other[key]
        for key in ("train_accuracy", "val_accuracy"):
            assert one[key] == two[key] == other[key]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core for each of two processes")
def test_a_run_starts_its_processes_itself_and_goes_on_under_accelerate_and_in_one(tmp_path, monkeypatch, capsys):
    data, records, recipe = load_data("mini"), {}, {"batch_size": 100, "input_size": 32}
    for name, processes in (("one", 1), ("two", 2)):
        monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
        torch.manual_seed(0)
        model, run = build_model("resnet18", 10), Run(Settings(epochs=1, **recipe), data, name)
        history = run.fit(model, processes)
        records[name] = run.finish(history, model)
        assert capsys.readouterr().out.count("epoch  1/1") == 1
    one, two = records["one"], records["two"]
    assert two["history"][0]["train_loss"] == pytest.approx(one["history"][0]["train_loss"], abs=0.02)
    assert two["evaluation"]["top1"] == two["history"][0]["val_accuracy"]  # the model came back from the processes

    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    train = ["-m", "tinyclf", "train", "baseline-scratch", "-p", "epochs=2"]
    train += [word for name, value in recipe.items() for word in ("-p", f"{name}={value}")]
    os.rename(tmp_path / "mini" / "two", tmp_path / "mini" / "baseline-scratch")
    done = subprocess.run([*launcher, *train], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "continuing after epoch 1 of 2" in done.stdout and done.stdout.count("epoch  2/2") == 1

    run = Run(Settings(epochs=3, **recipe), data, "baseline-scratch")
    record = run.finish(run.fit(model), model)
    assert [each["hardware"]["processes"] for each in record["environments"]] == [2, 2, 1][
        -len(record["environments"]) :
    ]
    assert len(record["environments"]) >= 2  # the launchers may give each process as many threads, or not
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3] and record["history"][0] == two["history"][0]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core for each of two processes")
def test_an_error_in_one_of_the_processes_is_the_runs_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    model = build_model("resnet18", 10)
    nn.init.constant_(model.fc.bias, math.nan)
    with pytest.raises(TinyclfError, match=r"the loss became nan at epoch 1 training step 1 of 20, learning rate"):
        Run(Settings(epochs=1), load_data("mini"), "nan").fit(model, processes=2)


if __name__ == "__main__":
    main(sys.argv[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_batch_norm_over_processes_is_torchs_own_in_any_precision(dtype, monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce", lambda values: None)  # of one process
    images = torch.randn(6, 5, 4, 4, dtype=dtype) * 3 + 2
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    ours, theirs = SyncedBatchNorm(5).to(exact), nn.BatchNorm2d(5).to(exact)
    torch.testing.assert_close(ours(images), theirs(images.to(exact)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
