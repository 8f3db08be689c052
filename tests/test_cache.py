"""The packed cache against PIL and ImageFolder, of copies of the data set as people have them, and of changed ones."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tinyclf.data import cache, registry
from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.data.locate import locate
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.errors import TinyclfError

pytestmark = pytest.mark.usefixtures("own_data_dir")
fork = multiprocessing.get_context("fork")


def pack(path: Path, small) -> cache.Packed:
    return cache.pack(path, small.layout, "small")


def caches(source: Path) -> list[Path]:
    return [path for path in (source.parent / "small.packed").iterdir() if path.is_dir()]


def test_every_image_is_pils_and_the_fingerprint_is_of_the_content(small):
    packed, unzipped = pack(small.zip, small), pack(small.folder, small)
    digest = hashlib.sha256(json.dumps(["n01", "n02", "n03", "n04"]).encode())
    for split in (packed.train, packed.val):
        digest.update(split.images.tobytes() + split.labels.tobytes())
    assert packed.fingerprint == unzipped.fingerprint == digest.hexdigest()
    expected = ImageFolder(small.folder / "train")
    assert packed.train.images.shape == (48, 64, 64, 3) and packed.train.images.dtype == np.uint8
    assert isinstance(packed.train.images, np.memmap) and not packed.train.images.flags.writeable
    assert packed.train.labels.dtype == np.int64 and packed.train.labels.tolist() == expected.targets
    assert np.array_equal(packed.train.images, [np.asarray(image) for image, _ in expected])
    names = sorted(path.name for path in (small.folder / "val/images").iterdir())
    lines = (small.folder / "val/val_annotations.txt").read_text().splitlines()
    wnids = dict(line.split("\t")[:2] for line in lines)
    assert [packed.classes[label] for label in packed.val.labels] == [wnids[name] for name in names]
    for name, image in zip(names, packed.val.images, strict=True):
        assert np.array_equal(image, Image.open(small.folder / "val/images" / name).convert("RGB"))
    assert packed.class_names == [f"word n0{number}, other word" for number in (1, 2, 3, 4)]


def test_the_cache_of_a_source_that_changed_is_not_used_and_stays(small):
    before = pack(small.folder, small)
    old = before.train.images.copy()
    changed = small.folder / "train/n01/images/n01_0.JPEG"
    Image.new("RGB", (64, 64), "red").save(changed, "JPEG")
    after = pack(small.folder, small)
    assert np.array_equal(after.train.images[0], Image.open(changed)) and after.fingerprint != before.fingerprint
    assert len(caches(small.folder)) == 2 and np.array_equal(before.train.images, old)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped label": lambda folder: flip(folder / "train_labels.npy", -8),
    "meta cut": lambda folder: os.truncate(folder / "meta.json", 100),
    "a file missing": lambda folder: (folder / "val_images.npy").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_named_and_packed_again_once_it_is_removed(small, damage):
    fingerprint = pack(small.zip, small).fingerprint
    [folder] = caches(small.zip)
    damage(folder)
    with pytest.raises(TinyclfError, match=rf"{folder.name} is damaged .*remove it, to pack again"):
        pack(small.zip, small)
    shutil.rmtree(folder)
    assert pack(small.zip, small).fingerprint == fingerprint


@pytest.mark.parametrize("limit", [100_000, 589_900])
def test_a_full_disk_leaves_nothing(small, limit):
    """A limit on the size of files stands in for the disk: it fails the same way, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(TinyclfError, match=r"small\.packed/.* \(File too large\): free some space"):
            pack(small.zip, small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not caches(small.zip)


def test_beside_a_read_only_source_the_data_folder_is_used(small, own_data_dir, monkeypatch, capsys):
    """Root may write anywhere, so the refusal is made up."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != small.zip.parent and access(path, mode))
    packed = pack(small.zip, small)
    assert Path(packed.train.images.filename).is_relative_to(own_data_dir / "small.packed")
    assert f"into {own_data_dir / 'small.packed'}" in capsys.readouterr().err
    assert os.listdir(small.zip.parent) == ["small.zip"]
    assert pack(small.zip, small).train.images.filename == packed.train.images.filename


def pack_slowly(small) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background ignore Ctrl-C
    load = cache.TinyImageNet.load
    cache.TinyImageNet.load = lambda *given: time.sleep(0.05) or load(*given)
    pack(small.zip, small)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_of_packing_that_is_ended_nothing_is_used_and_one_that_waits_goes_on(small, end):
    process = fork.Process(target=pack_slowly, args=(small,))
    waiting = fork.Process(target=pack, args=(small.zip, small))
    process.start()
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size for file in small.zip.parent.rglob("new/train_images.npy")):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    waiting.start()
    os.kill(process.pid, end)
    for each in (process, waiting):
        each.join(30)
    assert process.exitcode in (1, -signal.SIGKILL) and waiting.exitcode == 0
    packed = pack(small.zip, small)
    left = {*caches(small.zip)} - {Path(packed.train.images.filename).parent}
    assert len(left) == (end == signal.SIGKILL) and packed.fingerprint == pack(small.folder, small).fingerprint


def test_every_tenth_class_keeps_all_of_its_images_under_labels_of_its_own():
    rng = np.random.default_rng(0)

    def split(count):
        return PackedSplit(rng.integers(0, 256, (count, 64, 64, 3), np.uint8), rng.permutation(np.arange(count) % 25))

    names = [f"n{label:02d}" for label in range(25)]
    whole = Packed("tiny-imagenet-20", names, [f"word {name}" for name in names], "whole", split(75), split(50))
    part = cache.class_subset(whole, 10)
    assert part.classes == ["n00", "n10", "n20"] and part.class_names == ["word n00", "word n10", "word n20"]
    assert part.fingerprint != "whole"
    for subset, split, per_class in ((part.train, whole.train, 3), (part.val, whole.val, 2)):
        assert len(subset.labels) == 3 * per_class
        for label, whole_label in enumerate((0, 10, 20)):
            expected = split.images[split.labels == whole_label]
            np.testing.assert_array_equal(subset.images[subset.labels == label], expected)


def test_every_tenth_training_image_of_each_class_is_held_out_in_the_place_of_val():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), 25))
    images = np.arange(75, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)
    splits = PackedSplit(images, labels), PackedSplit(images[:6], labels[:6])
    whole = Packed("mini", list("abc"), list("abc"), "whole", *splits)
    part = cache.hold_out_split(whole)
    assert part.classes == whole.classes and part.fingerprint != "whole"
    for label in range(3):
        rows = np.flatnonzero(labels == label)
        assert part.val.images[part.val.labels == label, 0, 0, 0].tolist() == rows[::10].tolist()
        rest = np.delete(rows, np.s_[::10])
        assert part.train.images[part.train.labels == label, 0, 0, 0].tolist() == rest.tolist()


def test_the_identity_is_of_all_that_is_trained_and_validated_on(small):
    data = pack(small.folder, small)
    assert data.identity == pack(small.zip, small).identity
    train, flipped, painted = data.train, np.array(data.train.labels), np.array(data.train.images)
    flipped[-1] ^= 1
    painted[-1, 0, 0, 0] ^= 1
    changes = [
        {"train": data.val, "val": train},
        {"train": PackedSplit(train.images, flipped)},
        {"train": PackedSplit(painted, train.labels)},
        {"classes": data.classes[::-1]},
    ]
    seen = [data, cache.hold_out_split(data), *(dataclasses.replace(data, **change) for change in changes)]
    assert len({each.identity for each in seen}) == len(seen)
    assert [each.hold_out for each in seen] == [False, True, *[False] * len(changes)]


def replace_layout(layout: registry.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    info = dataclasses.replace(registry.DATASETS["tiny-imagenet"], layout=layout)
    monkeypatch.setitem(registry.DATASETS, "tiny-imagenet", info)


def test_tinyclf_data_is_read_where_it_points_and_if_it_is_wrong_nothing_is_downloaded(small, monkeypatch):
    replace_layout(small.layout, monkeypatch)
    monkeypatch.delattr("tinyclf.data.locate.download")
    monkeypatch.setenv("TINYCLF_DATA", str(small.zip))
    assert cache.load_data("tiny-imagenet").name == "tiny-imagenet" and caches(small.zip)
    monkeypatch.setenv("TINYCLF_DATA", str(small.folder / "nowhere"))
    with pytest.raises(TinyclfError, match=r"nowhere holds neither .*correct the path, or .*unset TINYCLF_DATA"):
        cache.load_data("tiny-imagenet")


def test_without_tinyclf_data_the_set_is_downloaded(small, own_data_dir, monkeypatch):
    def download(folder: Path, *_: object) -> Path:
        folder.mkdir(parents=True)
        return Path(shutil.copy(small.zip, folder))

    monkeypatch.delenv("TINYCLF_DATA", raising=False)
    replace_layout(small.layout, monkeypatch)
    monkeypatch.setattr("tinyclf.data.locate.TINY_IMAGENET", small.layout)
    monkeypatch.setattr("tinyclf.data.locate.download", download)
    cache.load_data("tiny-imagenet")
    assert sorted(os.listdir(own_data_dir)) == ["small.packed", "small.zip"]


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
    for name in (".DS_Store", "._val_0.JPEG"):
        (folder / "val/images" / name).touch()
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


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_copy_of_the_set_has_its_fingerprint_and_nothing_in_it_is_moved(small, change):
    official = pack(small.folder, small).fingerprint
    change(small.folder)
    before = sorted(small.folder.rglob("*"))
    shutil.make_archive(str(small.zip.with_suffix("")), "zip", small.folder.parent, "small")
    for copy in (small.folder, small.zip):
        assert pack(copy, small).fingerprint == official
    assert sorted(small.folder.rglob("*")) == before


def test_boxes_of_a_sorted_val_are_those_of_the_annotations(small):
    expected = TinyImageNet(small.folder, "val", layout=small.layout).boxes
    sort_val(small.folder)
    assert (TinyImageNet(small.folder, "val", layout=small.layout).boxes == expected).all()
    (small.folder / "val/val_annotations.txt").unlink()
    assert TinyImageNet(small.folder, "val", layout=small.layout).boxes is None


def test_a_folder_too_high_or_too_deep(small, tmp_path):
    deep = shutil.copytree(small.folder, tmp_path / "input/some-copy/small")
    for root in (deep, deep.parent, deep.parent.parent, deep / "train", deep / "val"):
        assert locate(root, small.layout) == deep
    shutil.copy(small.zip, deep.parent)
    assert locate(deep.parent, small.layout) == deep  # a folder wins over a zip
    twice = shutil.copytree(small.folder, tmp_path / "twice/small/small")
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
