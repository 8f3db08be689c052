"""The packed cache: every train and val image, decoded once into a memory-mapped array that training reads.

A cache lies beside its source, in `<folder>.packed/<key>/`: `train_images.npy` and `val_images.npy`, uint8
(N, 64, 64, 3), `train_labels.npy` and `val_labels.npy`, int64 (N,), and `meta.json`. The key is made of the source's
fingerprint and of FORMAT, so a cache whose source changed is not even found. It is written under another name and
renamed at the end, so one that was not finished is not found either.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyclf import paths
from tinyclf import synthetic as mini
from tinyclf.annotations import locate
from tinyclf.archive import fingerprint
from tinyclf.checks import one_of
from tinyclf.errors import TinyclfError
from tinyclf.files import locked
from tinyclf.registry import DATASETS, SIDE, TINY_IMAGENET, Layout
from tinyclf.settings import Settings
from tinyclf.tiny_imagenet import TinyImageNet, find, refuse_images

FORMAT = 1  # to be raised whenever what a cache holds changes
PIXELS = SIDE * SIDE * 3  # bytes of one image
BATCH = 500  # images written and hashed at a time


@dataclass(frozen=True)
class PackedSplit:
    """Images of one split in the order of `TinyImageNet`: by class and name (train) or by name (val)."""

    images: np.ndarray  # uint8 (N, 64, 64, 3), RGB; a read-only memory map, but for a part of the set
    labels: np.ndarray  # int64 (N,), positions in Packed.classes


@dataclass(frozen=True)
class Packed:
    """A whole packed data set."""

    name: str  # one of DATASETS
    classes: list[str]  # wnids, sorted
    class_names: list[str]  # their words, in the same order
    fingerprint: str  # sha256 over classes, pixels and labels: the same for folder and zip of the same content
    train: PackedSplit
    val: PackedSplit


def open_packed(dataset: str) -> Packed:
    """Opens a data set by its name, one of DATASETS; draws, downloads or packs it first where need be.

    `tiny-imagenet-20` is every tenth class of Tiny-ImageNet in the sorted order of the wnids, from the first: what a
    machine carries for which the whole is too much.
    Raises TinyclfError for an unknown name, and when the set is missing, incomplete or damaged.
    """
    data = pack(*source_of(dataset), dataset)
    return every_tenth(data) if dataset == "tiny-imagenet-20" else data


def data_for(settings: Settings) -> Packed:
    """The data set that a run of `settings` trains and validates on. Raises TinyclfError as `open_packed` does."""
    data = open_packed(settings.dataset)
    return held_out(data) if settings.hold_out else data


def held_out(data: Packed) -> Packed:
    """`data` with every tenth training image of each class, in the order of their names, in the place of val.

    To choose a recipe by: 50 images a class of Tiny-ImageNet, the same for everyone, and none that results are told on.
    """
    labels = data.train.labels
    chosen = np.zeros(len(labels), bool)
    for label in range(len(data.classes)):
        chosen[np.flatnonzero(labels == label)[::10]] = True
    train, val = (PackedSplit(data.train.images[rows], labels[rows]) for rows in (~chosen, chosen))
    fingerprint = hashlib.sha256(f"{data.fingerprint}, every tenth image held out".encode()).hexdigest()
    return dataclasses.replace(data, train=train, val=val, fingerprint=fingerprint)


def every_tenth(data: Packed) -> Packed:
    """Every tenth class of `data`, with all of its images, in memory; its fingerprint is made of that of the whole."""
    splits = []
    for split in (data.train, data.val):
        rows = (split.labels % 10 == 0).nonzero()[0]
        splits.append(PackedSplit(split.images[rows], split.labels[rows] // 10))
    fingerprint = hashlib.sha256(f"{data.fingerprint}, every tenth class".encode()).hexdigest()
    return Packed(data.name, data.classes[::10], data.class_names[::10], fingerprint, *splits)


def source_of(dataset: str) -> tuple[Path, Layout]:
    """The folder or zip of a data set by its name, and what it should hold; drawn or downloaded where need be.

    `tiny-imagenet`, of which `tiny-imagenet-20` is a part, is looked for where `TINYCLF_DATA` points, else in `data/`,
    where it is downloaded if missing.
    """
    one_of("dataset", dataset, DATASETS)
    if dataset == "mini":
        return mini.draw(paths.data_dir()), mini.LAYOUT
    root = paths.tiny_imagenet_source()
    chosen = bool(os.environ.get("TINYCLF_DATA"))
    if chosen and locate(root, TINY_IMAGENET) is None:
        raise TinyclfError(
            f"TINYCLF_DATA points to {root}, where there is neither {TINY_IMAGENET.folder} nor "
            f"{TINY_IMAGENET.folder}.zip. Correct it, or unset it to have the set downloaded."
        )
    return find(root, TINY_IMAGENET, download=not chosen), TINY_IMAGENET


def pack(path: Path, layout: Layout, name: str) -> Packed:
    """Opens the cache of the data set in `path`, a folder or a zip; writes it first if there is no valid one.

    It lies beside `path`, or in the project's `data/` where that is not writable. Several processes may ask at once:
    one packs, the others wait. Raises TinyclfError for a damaged set and when the disk is full.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(path)}".encode()).hexdigest()[:16]
    places = [parent / f"{layout.folder}.packed" for parent in (path.parent, paths.data_dir())]
    for place in places:
        if packed := _open(place / key, layout, name):
            return packed
    for place in places:
        try:
            with _lock(place):
                return _open(place / key, layout, name) or _pack(path, layout, place, key, name)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or place == places[-1]:
                images = layout.classes * (layout.train + layout.val)
                raise TinyclfError(
                    f"The packed cache cannot be written to {place}: {error.strerror}. It needs {images * PIXELS:,} "
                    "bytes there. Make room, or move the data set to a larger disk."
                ) from error
    raise AssertionError("the last place either packs or raises")


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Makes the folder `place` and holds it against other processes; removes it again if nothing was put there."""
    try:
        with locked(place / "lock"):
            yield
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()


def _open(folder: Path, layout: Layout, name: str) -> Packed | None:
    """The finished cache in `folder`; None if it is not there or does not have the numbers of `layout`."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        splits = []
        for split, count in _counts(layout).items():
            images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
            labels = np.load(folder / f"{split}_labels.npy")
            if images.shape != (count, SIDE, SIDE, 3) or labels.shape != (count,):
                return None
            splits.append(PackedSplit(images, labels))
        return Packed(name, meta["classes"], meta["class_names"], meta["fingerprint"], *splits)
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _pack(path: Path, layout: Layout, place: Path, key: str, name: str) -> Packed:
    """Writes the cache `place/key`, all of it or nothing; under the lock, so whatever else lies there is of no use."""
    splits = {split: TinyImageNet(path, split, layout=layout) for split in _counts(layout)}
    TinyImageNet(path, "test", layout=layout)  # not packed, but checked with the rest
    for leftover in place.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
    total = sum(map(len, splits.values()))
    if shutil.disk_usage(place).free < total * PIXELS:  # rather now than after a minute of work
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    classes, class_names = splits["train"].classes, splits["train"].class_names
    digest = hashlib.sha256(json.dumps(classes).encode())
    faults: list[str] = []
    if not sys.stderr.isatty():
        print(f"packing {total:,} images of {path.name}", file=sys.stderr, flush=True)
    unfinished = place / "unfinished"
    unfinished.mkdir()
    try:
        with tqdm(total=total, desc="packing", unit=" images", disable=None) as bar:
            for split, images in splits.items():
                _write_split(images, unfinished / split, digest, faults, bar)
        refuse_images(faults)
        meta = {"classes": classes, "class_names": class_names, "fingerprint": digest.hexdigest()}
        (unfinished / "meta.json").write_text(json.dumps(meta))
        unfinished.rename(place / key)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if packed := _open(place / key, layout, name):
        return packed
    raise TinyclfError(f"The cache just written to {place / key} cannot be read. Is that disk in order?")


def _write_split(split: TinyImageNet, stem: Path, digest: "hashlib._Hash", faults: list[str], bar: tqdm) -> None:
    """Writes `<stem>_images.npy` and `<stem>_labels.npy` and adds both to `digest`; unusable images go to `faults`.

    Writing front to back leaves little in memory, where filling a memory map would leave all of it to be written back.
    Decoding by several threads or processes gains nothing: a JPEG of 2 KB costs about as much to hand over.
    """
    with Path(f"{stem}_images.npy").open("wb") as file:
        shape = (len(split), SIDE, SIDE, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(split), BATCH):
            batch = np.zeros((min(BATCH, len(split) - start), SIDE, SIDE, 3), np.uint8)
            for row, image in enumerate(batch, start):
                try:
                    image[:] = np.asarray(split.load(row))
                except TinyclfError as error:
                    faults.append(str(error))
            file.write(batch.data)
            digest.update(batch.data)
            bar.update(len(batch))
        file.flush()
        os.fsync(file.fileno())  # so that not even a power cut leaves a renamed cache with holes
    labels = np.array(split.targets, "<i8")
    np.save(f"{stem}_labels.npy", labels)
    digest.update(labels.data)


def _counts(layout: Layout) -> dict[str, int]:
    """Number of images of each split that is packed."""
    return {"train": layout.classes * layout.train, "val": layout.classes * layout.val}
