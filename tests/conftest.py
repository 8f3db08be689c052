"""A tiny data set in the official layout, as a folder and as a zip, for tests that need files but not many."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from tinyclf.data.registry import Layout
from tinyclf.utils import paths

# Equality to the last bit is the CPU's promise. Tests that use a GPU, where there is one, ask for `gpu`.
os.environ["ACCELERATE_USE_CPU"] = "true"
# Files that take longest: first, so that two workers are done at the same time
LONGEST = ("pages", "killed", "examples", "distributed", "notebook", "cells", "export", "any_recipe", "installed")
WNIDS = ("n03", "n01", "n04", "n02")  # wnids.txt of the official set is not sorted either


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a test's runs and pages go to: none of them goes into the checkout."""
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


@pytest.fixture
def own_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in the place of the project's `data/`, empty."""
    monkeypatch.setattr(paths, "data_dirs", lambda: [tmp_path / "data"])
    return tmp_path / "data"


@dataclass(frozen=True)
class SmallSet:
    layout: Layout
    folder: Path
    zip: Path


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The CUDA GPU, which runs of this test compute on. Where torch sees none, the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and torch sees none")
    choose_device("false")
    yield torch.device("cuda")
    choose_device("true")


def choose_device(cpu: str) -> None:
    os.environ["ACCELERATE_USE_CPU"] = cpu
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> SmallSet:
    """Made once a session and shared: to be read only."""
    parent = tmp_path_factory.mktemp("small")
    layout = Layout("small", classes=4, train=12, val=3, test=2)
    draw(parent / "small", layout)
    shutil.make_archive(str(parent / "small"), "zip", parent, "small")
    return SmallSet(layout, parent / "small", parent / "small.zip")


@pytest.fixture
def small(small_set: SmallSet, tmp_path: Path) -> SmallSet:
    """A copy of its own for each test, in two places, so that folder and zip do not hide each other."""
    folder, zipped = tmp_path / "folder" / "small", tmp_path / "zip" / "small.zip"
    shutil.copytree(small_set.folder, folder)
    zipped.parent.mkdir()
    shutil.copy2(small_set.zip, zipped)
    return SmallSet(small_set.layout, folder, zipped)


def draw(folder: Path, layout: Layout) -> None:
    rng = np.random.default_rng(0)

    def image(path: Path, grey: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (8, 8) if grey else (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path, "JPEG")

    def box() -> str:
        corners = np.concatenate([rng.integers(0, 32, 2), rng.integers(32, 64, 2)])
        return "\t".join(map(str, corners))

    annotations = []
    for label, wnid in enumerate(WNIDS):
        lines = []
        for number in range(layout.train):
            image(folder / f"train/{wnid}/images/{wnid}_{number}.JPEG", grey=number == 5)
            lines.append(f"{wnid}_{number}.JPEG\t{box()}\n")
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text("".join(lines))
        for number in range(layout.val):
            name = f"val_{number * layout.classes + label}.JPEG"
            image(folder / "val/images" / name, grey=number == 1)
            annotations.append(f"{name}\t{wnid}\t{box()}\n")
    (folder / "val/val_annotations.txt").write_text("".join(annotations))
    for number in range(layout.classes * layout.test):
        image(folder / f"test/images/test_{number}.JPEG", grey=number == 3)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    words = "".join(f"{wnid}\tword {wnid}, other word\n" for wnid in ("n00", *sorted(WNIDS), "n99"))
    (folder / "words.txt").write_text(words)
