"""Two real processes on the CPU: the same images seen, the same result as one process but for rounding."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tinyclf.augment import Augmentation
from tinyclf.batches import Batches
from tinyclf.distributed import this_process
from tinyclf.evaluation import evaluate
from tinyclf.paths import PROJECT
from tinyclf.settings import Settings
from tinyclf.training import fit

CLASSES = 4
COUNT = 25  # in batches of 8, the last one holds one image: one of two processes gets none of it
SETTINGS = Settings(epochs=2, batch_size=8, learning_rate=0.01, mixup=0.2, cutmix=1.0, crop_padding=4)


def main(folder):
    """What each process does; also called without others, for what is expected."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8), rng.integers(0, CLASSES, COUNT)
    process = this_process()
    part = {"part": process.process_index, "parts": process.num_processes}
    drawn = {"shuffle": True, "augmentation": Augmentation.of(SETTINGS)}
    train, val = Batches(images, labels, 8, **drawn, **part), Batches(images, labels, 8, **part)
    torch.manual_seed(process.process_index)  # the first one's weights are everyone's
    model = nn.Sequential(
        nn.Conv2d(3, 8, 8, 4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )
    seen = [torch.arange(COUNT)[places].tolist() for places in train.places()]
    pixels = [batch.images.double().sum((1, 2, 3)).tolist() for batch in train.epoch(1)]
    history = fit(model, train, val, SETTINGS, report=lambda line: None)
    alone = evaluate(model, Batches(images, labels, 8))
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
        torch.testing.assert_close(first["model"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(first["alone"], whole["alone"], rtol=1e-3, atol=1e-4)


def test_history_and_validation_count_every_image_exactly_once(results):
    whole, first, second = results
    for one, two, other in zip(whole["history"], first["history"], second["history"], strict=True):
        for key in ("train_loss", "val_loss"):
            assert one[key] == pytest.approx(two[key], abs=1e-4) and two[key] == other[key]
        for key in ("train_accuracy", "val_accuracy"):
            assert round(two[key] * COUNT, 9) % 1 == 0 and two[key] == pytest.approx(one[key], abs=1.5 / COUNT)
            assert two[key] == other[key]


if __name__ == "__main__":
    main(sys.argv[1])
