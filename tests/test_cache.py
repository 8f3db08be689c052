"""The packed cache against PIL and ImageFolder, and what happens to it when its source changes or packing is ended."""

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
from tinyclf.utils.errors import TinyclfError

fork = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path, monkeypatch) -> Path:
    """No test may write to the project's `data/`."""
    monkeypatch.setattr(cache.paths, "data_dirs", lambda: [tmp_path / "data"])
    return tmp_path / "data"


def pack(path: Path, small) -> cache.Packed:
    return cache.pack(path, small.layout, "small")


def cache_of(path: Path) -> Path:
    return path.parent / "small.packed"


def folders(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.is_dir()]


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
    assert len(folders(cache_of(small.folder))) == 2 and np.array_equal(before.train.images, old)


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
    [key] = folders(cache_of(small.zip))
    damage(cache_of(small.zip) / key)
    with pytest.raises(TinyclfError, match=rf"{key} is damaged .*remove it, to pack again"):
        pack(small.zip, small)
    shutil.rmtree(cache_of(small.zip) / key)
    assert pack(small.zip, small).fingerprint == fingerprint


def test_images_that_cannot_be_used_are_named_and_nothing_is_left(small):
    for name in ("train/n03/images/n03_4.JPEG", "train/n04/images/n04_8.JPEG"):
        os.truncate(small.folder / name, 300)
    with pytest.raises(TinyclfError, match=r"2 of the images cannot be used(.|\n)*n03_4\.JPEG in /(.|\n)*n04_8\.JPEG"):
        pack(small.folder, small)
    assert not folders(cache_of(small.folder))


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
    assert not folders(cache_of(small.zip))


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
    process, waiting = (
        fork.Process(target=pack_slowly, args=(small,)),
        fork.Process(target=pack, args=(small.zip, small)),
    )
    process.start()
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size for file in cache_of(small.zip).glob("*/new/train_images.npy")):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    waiting.start()
    os.kill(process.pid, end)
    for each in (process, waiting):
        each.join(30)
    assert process.exitcode in (1, -signal.SIGKILL) and waiting.exitcode == 0
    packed = pack(small.zip, small)
    left = {*folders(cache_of(small.zip))} - {Path(packed.train.images.filename).parent.name}
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
        for label, whole_label in enumerate((0, 10, 20)):
            expected = split.images[split.labels == whole_label]
            np.testing.assert_array_equal(subset.images[subset.labels == label], expected)
            assert len(expected) == per_class
        assert len(subset.labels) == 3 * per_class


def test_every_tenth_training_image_of_each_class_is_held_out_in_the_place_of_val():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), 25))
    images = np.arange(75, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)
    val = PackedSplit(images[:6], labels[:6])
    whole = Packed("mini", list("abc"), list("abc"), "whole", PackedSplit(images, labels), val)
    part = cache.hold_out_split(whole)
    assert part.classes == whole.classes and part.fingerprint != "whole"
    for label in range(3):
        rows = np.flatnonzero(labels == label)
        assert part.val.images[part.val.labels == label, 0, 0, 0].tolist() == rows[::10].tolist()
        rest = sorted({*rows.tolist()} - {*rows[::10].tolist()})
        assert part.train.images[part.train.labels == label, 0, 0, 0].tolist() == rest
    assert len(part.val.labels) == 9 and len(part.train.labels) == 66


def test_the_identity_is_of_all_that_is_trained_and_validated_on(small):
    data = pack(small.folder, small)
    assert data.identity == pack(small.zip, small).identity
    train, flipped = data.train, np.array(data.train.labels)
    flipped[-1] ^= 1
    painted = np.array(train.images)
    painted[-1, 0, 0, 0] ^= 1
    changes = [
        {"train": data.val, "val": train},
        {"train": PackedSplit(train.images, flipped)},
        {"train": PackedSplit(painted, train.labels)},
        {"train": PackedSplit(train.images[:-1], train.labels[:-1])},
        {"train": PackedSplit(train.images[::-1], train.labels)},
        {"classes": data.classes[::-1]},
    ]
    seen = [data, cache.hold_out_split(data), *(dataclasses.replace(data, **change) for change in changes)]
    assert len({each.identity for each in seen}) == len(seen)
    assert [each.hold_out for each in seen] == [False, True, *[False] * len(changes)]


def test_a_wrong_tinyclf_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_DATA", str(tmp_path / "nowhere"))
    monkeypatch.delattr("tinyclf.data.locate.download")
    with pytest.raises(TinyclfError, match=r"nowhere holds neither .*correct the path, or .*unset TINYCLF_DATA"):
        cache.load_data("tiny-imagenet")


def replace_layout(layout: registry.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    info = dataclasses.replace(registry.DATASETS["tiny-imagenet"], layout=layout)
    monkeypatch.setitem(registry.DATASETS, "tiny-imagenet", info)


def test_tinyclf_data_is_read_where_it_points(small, monkeypatch):
    replace_layout(small.layout, monkeypatch)
    monkeypatch.setenv("TINYCLF_DATA", str(small.zip))
    assert cache.load_data("tiny-imagenet").name == "tiny-imagenet" and cache_of(small.zip).is_dir()


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
