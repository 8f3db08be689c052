"""The benchmark: everyone does the same work on the same pixels, and the table says what was measured."""

import re
import time

import bench
import contestants
import measure
import numpy as np
import pandas as pd
import pytest
import results
import sample
import torch
from contestants import WAYS, Published, Tinyclf
from measure import Watch, rounds
from PIL import Image
from sample import Data
from torch import nn

from tinyclf.data.cache import pack
from tinyclf.utils.errors import TinyclfError

CPU = torch.device("cpu")


@pytest.fixture
def data(small_set, tmp_path, monkeypatch) -> Data:
    """The small set, in batches of 4 images: 48 and 12 images, of which 24 each are the sample."""
    monkeypatch.setattr(sample, "locate_dataset", lambda name: (small_set.folder, small_set.layout))
    monkeypatch.setattr(sample, "load_data", lambda name: pack(small_set.folder, small_set.layout, name))
    for module in (contestants, measure):
        monkeypatch.setattr(module, "BATCH", 4)
    sample.write_sample("small", tmp_path / "sample", 24)
    return sample.open_data("small", tmp_path / "sample")


@pytest.mark.parametrize("size", [64, 96])
def test_all_see_the_same_pixels(data, size):
    """ImageFolder with ToTensor is the oracle. Val has fewer images than the sample, so that it is scaled up."""
    for split, step in (("train", 2), ("val", 1)):
        published = Published(data, CPU, size).batches(split, 0).dataset
        batches = Tinyclf(data, CPU, size).split[split]
        batches.shuffle, batches.augmentation, batches.watch = False, contestants.Augmentation(), Watch(1000, 0, CPU)
        ours = torch.cat([images for images, *_ in batches.epoch()])
        assert published[0][0].shape == ours[0].shape == (3, size, size)
        for path, label in published.samples:
            row = step * int(path.rsplit("/")[-1].split(".")[0])
            assert label == batches.labels[row]
            image = published.loader(path).resize((size, size), Image.Resampling.BICUBIC)
            assert torch.equal(ours[row], contestants.ToTensor()(image))


def test_a_watch_times_whole_steps_and_only_those_it_counts():
    watch = Watch(5, 1, CPU)
    done = [time.sleep(0.02 if step else 0.2) for step in watch.around(range(100))]  # the first one is not counted
    assert len(done) == 6 and 0.1 <= watch.seconds < 0.2


def test_all_take_their_turns_and_the_table_says_what_the_csv_does(data, monkeypatch):
    def small(num_classes):
        return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(256, num_classes))

    monkeypatch.setattr(contestants, "resnet18", small)
    monkeypatch.setattr(contestants, "build_model", lambda name, num_classes: small(num_classes))
    ways = {name: WAYS[name](data, CPU) for name in ("tinyclf", "limit", "published")}
    numbers = {"tinyclf": (0,), "limit": (0,), "published": (0, 1)}
    memory = {"measure": "memory", "contestant": "tinyclf", "workers": 0, "round": 0, "value": 2000.0, "unit": "MiB"}
    rows = [memory]
    for name, what in {"loader on one core": "load", "training": "train", "evaluation": "evaluate"}.items():
        turns = {way: (getattr(ways[way], what), numbers[way]) for way in ways if (what, way) != ("load", "limit")}
        rows += rounds(name, turns, steps=1, seconds=0, device=CPU, always=("tinyclf", results.AGAINST[name]))
    text = results.page(pd.DataFrame(rows), "Benchmark", {"machine": "this"}, "cpu")
    rate = {(row["measure"], row["contestant"], row["round"]): row["value"] for row in rows}
    for measured, against in (("loader on one core", "published"), ("training", "limit"), ("evaluation", "limit")):
        ratios = [rate[measured, "tinyclf", k] / rate[measured, against, k] for k in range(3)]
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        section = text.split(f"## {measured.capitalize()}\n")[1].split("##")[0]
        assert f"| tinyclf | {median:.3g} | {low:.3g} to {high:.3g} |" in section
        assert re.search(rf"\| {measured} at least .* \| {median:.3g} \| (reached|short) \|", text)
    assert ("training", "published", 0) in rate and ("training", "published", 1) not in rate  # every third round
    assert "under 2.5 GB | 2.1 | reached |" in text and "| tinyclf | 2.10 |" in text


def test_disturbed_rounds_are_left_out_while_enough_remain():
    """Ours takes twice as long in calm rounds; in disturbed ones the limit is hit harder than ours."""
    for disturbed, ratio, shown in ((2, 0.5, "3 of 5"), (3, 0.75, "5 of 5, disturbed")):
        rows = [("tinyclf", number, 75 if number < disturbed else 50, 0.0) for number in range(5)]
        rows += [("limit", number, 100, 1.0 if number < disturbed else 0.1) for number in range(5)]
        frame = pd.DataFrame(rows, columns=["contestant", "round", "value", "others"])
        frame = frame.assign(measure="training", workers=0, unit="images/s")
        assert results.figure_of(frame, "training") == ratio
        assert f"| 0 | {shown} |" in results.page(frame, "", {}, "cpu").split("| tinyclf |")[1].splitlines()[0]


def test_a_measure_that_is_none_is_refused_by_name():
    with pytest.raises(TinyclfError, match="did you mean training"):
        bench.main("mini", only=["trainig"])
