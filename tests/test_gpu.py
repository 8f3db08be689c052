"""Training on a real GPU, where there is one. Elsewhere these tests are skipped, which they say."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import choose_device

from tinyclf import Run, Settings
from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.experiments import run as runs
from tinyclf.experiments.catalog import select
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.record import read_record
from tinyclf.training import checkpoint
from tinyclf.training.device import precisions
from tinyclf.utils.errors import TinyclfError

CLASSES = 4
PUBLISHED = Settings(epochs=2, input_size=64, batch_size=20)
EVERYTHING = dataclasses.replace(
    PUBLISHED,
    **{"stem": "sub-pixel", "normalization": "tiny-imagenet", "crop_padding": 8, "mixup": 0.2, "cutmix": 1.0},
    **{"ema_decay": 0.9, "layer_decay": 0.8, "weight_decay": 5e-4, "nesterov": True, "label_smoothing": 0.1},
    **{"flip_tta": True, "start_size": 32, "learning_rate": 0.005},
)
SHALLOW = Settings(epochs=4, batch_size=20, learning_rate=0.01, nesterov=True, shallow=0.5)


def data():
    """Images whose classes are easy to tell: each of a colour of its own, in noise."""
    rng, splits = np.random.default_rng(0), []
    for count in (130, 50):
        labels = np.arange(count) % CLASSES
        images = rng.integers(0, 128, (count, 64, 64, 3))
        images[np.arange(count), :, :, labels % 3] += 32 * labels[:, None, None]
        splits.append(PackedSplit(images.astype(np.uint8), labels))
    return Packed("mini", [*"abcd"], [*"abcd"], "fingerprint", *splits)


def train(settings, name, epochs=None):
    run = Run(dataclasses.replace(settings, epochs=epochs or settings.epochs), data(), name)
    return run, run.fit(**vars(build_recipe(run.settings, run.data)))


@pytest.mark.parametrize("settings", [PUBLISHED, EVERYTHING, SHALLOW], ids=["published", "everything", "shallow"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_gpu_trains_as_a_cpu_does(settings, precision, gpu):
    if precision not in precisions(gpu):
        pytest.skip(f"this GPU has {precisions(gpu)}")
    run, history = train(dataclasses.replace(settings, precision=precision), f"{precision}-on-a-gpu")
    assert run.device.type == "cuda" and next(run.recipe.model.parameters()).is_cuda
    record = run.finish()
    environment = record["environments"][0]
    assert environment["hardware"]["name"] == torch.cuda.get_device_name(gpu)
    assert environment["versions"]["cuda"] == torch.version.cuda and environment["hardware"]["cudnn_benchmark"]
    choose_device("true")
    _, expected = train(settings, "on-a-cpu")
    near, later = (0.002, 0.05) if precision == "fp32" else (0.1, 0.5)  # another number of threads: 4% after 14 steps
    assert history[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], rel=near)
    assert history[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=later)


def test_a_gpu_continues_a_run_in_fp16_with_its_scale(gpu):
    settings = dataclasses.replace(PUBLISHED, precision="fp16")
    _, expected = train(settings, "whole")
    train(settings, "in-two-parts", epochs=1)
    run, history = train(settings, "in-two-parts")
    assert history[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=0.02)
    assert checkpoint.read(run.checkpoint).state["scaler"]["scale"] > 1


def test_a_loss_that_is_not_finite_is_found_on_a_gpu(gpu):
    with pytest.raises(TinyclfError, match="the loss became"):
        train(dataclasses.replace(PUBLISHED, learning_rate=100.0, precision="fp32"), "diverging", epochs=8)


def test_every_published_recipe_trains_on_a_gpu_as_on_a_cpu(gpu, tmp_path, monkeypatch):
    names = ["baseline-scratch", "baseline-imagenet", "preprocessing", "finetuning", "finetuning-small-stem"]
    losses = {"cuda": {}, "cpu": {}}
    for device, of_each in losses.items():
        if device == "cpu":
            choose_device("true")
        monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / device))
        for experiment in select(names, "mini", {"epochs": 2}):  # a parent comes first
            runs.train(experiment)
            record = read_record(tmp_path / device / "mini" / experiment.name / "record.json")
            assert record["environments"][0]["hardware"]["device"] == device
            of_each[experiment.name] = [row["train_loss"] for row in record["history"]]
    for name, on_gpu in losses["cuda"].items():
        expected = losses["cpu"][name]
        print(f"{name:22} {on_gpu} on the GPU, {expected} on the CPU")
        assert on_gpu == pytest.approx(expected, rel=0.05), name  # rounding alone made 2.2% from scratch


def test_a_resumed_run_has_the_same_bits_where_torch_is_deterministic(gpu, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        whole, expected = train(PUBLISHED, "whole")
        train(PUBLISHED, "in-two-parts", epochs=1)
        resumed, history = train(PUBLISHED, "in-two-parts")
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
    assert [row["train_loss"] for row in history] == [row["train_loss"] for row in expected]
    assert all(map(torch.equal, *(run.recipe.model.state_dict().values() for run in (whole, resumed))))
