"""Copies of the data set as people have them: the same images, classes and fingerprint, and nothing is moved."""

import shutil
from pathlib import Path

import pytest

from tinyclf.data import cache
from tinyclf.data.locate import locate
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.errors import TinyclfError


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache.paths, "data_dirs", lambda: [tmp_path / "data"])


@pytest.fixture(scope="module")
def official(small_set, tmp_path_factory) -> str:
    """The fingerprint of the set as it is."""
    copy = shutil.copytree(small_set.folder, tmp_path_factory.mktemp("official") / "small")
    return cache.pack(copy, small_set.layout, "small").fingerprint


def sort_val(folder: Path, below: str = "") -> None:
    """What the scripts do that make `val` fit for ImageFolder; they keep the annotations."""
    for line in (folder / "val/val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        (folder / "val" / wnid / below).mkdir(parents=True, exist_ok=True)
        (folder / "val/images" / name).rename(folder / "val" / wnid / below / name)
    (folder / "val/images").rmdir()


def without_annotations(folder: Path) -> None:
    sort_val(folder)
    (folder / "val/val_annotations.txt").unlink()


def keep_both(folder: Path) -> None:
    shutil.copytree(folder / "val/images", folder / "kept")
    sort_val(folder)
    (folder / "kept").rename(folder / "val/images")


def flat(folder: Path) -> None:
    for images in [*folder.glob("train/*/images"), folder / "test/images"]:
        for path in images.iterdir():
            path.rename(images.parent / path.name)
        images.rmdir()


def with_hidden_folders(folder: Path) -> None:
    for place in ("train/n01/images", "val/images", "test/images", "train"):
        (folder / place / ".ipynb_checkpoints").mkdir()
        shutil.copy(folder / "val/images/val_0.JPEG", folder / place / ".ipynb_checkpoints/x-checkpoint.JPEG")


def combined(folder: Path) -> None:
    sort_val(folder, "images")
    for path in [*folder.rglob("*.JPEG")]:
        path.rename(path.with_suffix(".jpg"))
    shutil.rmtree(folder / "test")


COPIES = {
    "without val_annotations.txt": without_annotations,
    "sorted beside the official one": keep_both,
    "without folders `images`": flat,
    "hidden folders": with_hidden_folders,
    "sorted .jpg without test": combined,
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_fingerprint_of_the_official_set(small, official, change, kind):
    change(small.folder)
    before = sorted(small.folder.rglob("*"))
    if kind == "zip":
        shutil.make_archive(str(small.zip.with_suffix("")), "zip", small.folder.parent, "small")
    assert cache.pack(getattr(small, kind), small.layout, "small").fingerprint == official
    assert sorted(small.folder.rglob("*")) == before


def test_boxes_of_a_sorted_val_are_those_of_the_annotations(small):
    expected = TinyImageNet(small.folder, "val", layout=small.layout).boxes
    sort_val(small.folder)
    assert (TinyImageNet(small.folder, "val", layout=small.layout).boxes == expected).all()
    (small.folder / "val/val_annotations.txt").unlink()
    assert TinyImageNet(small.folder, "val", layout=small.layout).boxes is None


def test_a_folder_too_high_or_too_deep(small, tmp_path):
    deep = tmp_path / "input/some-copy/small"
    shutil.copytree(small.folder, deep)
    for root in (deep, deep.parent, deep.parent.parent, deep / "train", deep / "val"):
        assert locate(root, small.layout) == deep
    shutil.copy(small.zip, deep.parent)
    assert locate(deep.parent, small.layout) == deep  # a folder wins over a zip
    twice = tmp_path / "twice/small/small"
    shutil.copytree(small.folder, twice)
    assert locate(twice.parent.parent, small.layout) == locate(twice.parent, small.layout) == twice
    (tmp_path / "zips/copy").mkdir(parents=True)
    shutil.copy(small.zip, tmp_path / "zips/copy")
    assert locate(tmp_path / "zips", small.layout) == tmp_path / "zips/copy/small.zip"


def test_a_sorted_val_without_annotations_must_be_complete(small):
    without_annotations(small.folder)
    (small.folder / "val/n03/val_0.JPEG").unlink()
    (small.folder / "val/n02").rename(small.folder / "val/n77")
    with pytest.raises(TinyclfError, match=r"3 images of each class .*: n02 \(0\), n03 \(2\), n77 \(3\)\. Put back"):
        TinyImageNet(small.folder, "val", layout=small.layout)
