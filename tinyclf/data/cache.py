"""The packed cache: every train and val image, decoded once into a memory-mapped array that training reads.

A cache is a folder next to its source, `<folder>.packed/<key>/`: `train_images.npy` and `val_images.npy`, uint8
(N, 64, 64, 3), `train_labels.npy` and `val_labels.npy`, int64 (N,), and `meta.json`. The key is made of the source's
fingerprint and of FORMAT, so the cache of a source that changed is not used. Whoever opens a cache compares all of it
with the fingerprint in `meta.json`.
"""

import dataclasses
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyclf.data.archive import fingerprint
from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import SIDE, Layout, dataset_info
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import make_folder

FORMAT = 2  # raise it when the content of a cache changes
SPLITS = ("train", "val")  # those that are packed


@dataclass(frozen=True)
class PackedSplit:
    """Images of one split in the order of `TinyImageNet`: by class and name (train) or by name (val)."""

    images: np.ndarray  # uint8 (N, 64, 64, 3), RGB; a read-only memory map, or for a part of the set an array
    labels: np.ndarray  # int64 (N,), indices of Packed.classes


@dataclass(frozen=True)
class Packed:
    """A whole packed data set."""

    name: str  # one of registry.DATASETS, or the path of own images
    classes: list[str]  # wnids, sorted
    class_names: list[str]  # their words, in the same order
    fingerprint: str  # sha256 over classes, pixels and labels: the same for folder and zip of the same content
    train: PackedSplit
    val: PackedSplit
    hold_out: bool = False  # val is a part of train, see `hold_out_split`
    loaded: str = ""  # their identity when `load_data` made them

    @property
    def sha256(self) -> str:
        """What a record calls them: their fingerprint, and where they were changed since, their identity."""
        identity = self.identity
        return self.fingerprint if identity == self.loaded else identity

    @property
    def identity(self) -> str:
        """sha256, hexadecimal, of what is trained and validated on: classes, labels and images.

        Images that are the cache's own map were compared with its fingerprint, which stands for them. All others are
        read, in a second or two for the largest set.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for split in (self.train, self.val):
            digest.update(f"{split.images.shape} {split.images.dtype} {len(split.labels)}".encode())
            digest.update(np.ascontiguousarray(split.labels, "<i8").data)
            digest.update(getattr(split.images, "content", None) or np.ascontiguousarray(split.images).data)
        return digest.hexdigest()


def load_data(name: str, hold_out: bool = False) -> Packed:
    """The data set of that name, one of registry.DATASETS; first makes, downloads or packs it where need be.

    Or own images, by the path of a folder with `train/CLASS/*` and `val/CLASS/*`, of any size: see `decode_any`.
    hold_out: replace val by a part of train, see `hold_out_split`.
    Raises TinyclfError for an unknown name, and when the set is missing, incomplete or damaged.
    """
    info = dataset_info(name)
    data = pack(*locate_dataset(name), info.name)
    if info.class_step > 1:
        data = class_subset(data, info.class_step)
    data = hold_out_split(data) if hold_out else data
    return dataclasses.replace(data, loaded=data.identity)


def hold_out_split(data: Packed) -> Packed:
    """`data` whose val is every tenth training image of each class, in the order of names, which train then lacks.

    For choosing a recipe: 50 images a class of Tiny-ImageNet, the same for everyone, and none that results count.
    """
    labels = data.train.labels
    chosen = np.zeros(len(labels), bool)
    for label in range(len(data.classes)):
        chosen[np.flatnonzero(labels == label)[::10]] = True
    train, val = (PackedSplit(data.train.images[rows], labels[rows]) for rows in (~chosen, chosen))
    part = f"{data.fingerprint}, every tenth image held out"
    fingerprint = hashlib.sha256(part.encode()).hexdigest()
    return dataclasses.replace(data, train=train, val=val, fingerprint=fingerprint, hold_out=True)


def class_subset(data: Packed, step: int) -> Packed:
    """Every `step`-th class of `data`, from the first, with all of its images, in memory and with new labels."""
    splits = []
    for split in (data.train, data.val):
        rows = np.flatnonzero(split.labels % step == 0)
        splits.append(PackedSplit(split.images[rows], split.labels[rows] // step))
    words = f"{data.fingerprint}, every {'tenth' if step == 10 else step} class"  # as in existing records
    part = hashlib.sha256(words.encode()).hexdigest()
    return Packed(data.name, data.classes[::step], data.class_names[::step], part, splits[0], splits[1])


def pack(path: Path, layout: Layout, name: str) -> Packed:
    """Opens the cache of the data set in `path`, a folder or a zip; writes it first if there is none.

    It is next to `path`, or where that cannot be written, and for own images, in one of `paths.data_dirs`. Several
    processes may ask at once: one packs, the others wait. Raises TinyclfError for a damaged set or cache, and when the
    disk is full.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(path)}".encode()).hexdigest()[:16]
    below = Path(f"{layout.folder}.packed", key)
    beside = [path.parent] if layout.classes else []
    folder = next((place / below for place in (*beside, *paths.data_dirs()) if (place / below).is_dir()), None)
    if folder is None:
        folder = make_folder(paths.data_dir(*beside) / below, partial(_write, path, layout))
    return _open(folder, name)


def _open(folder: Path, name: str) -> Packed:
    """The cache in `folder`, compared with its fingerprint, which takes a second for 1.35 GB."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        digest = hashlib.sha256(json.dumps(meta["classes"]).encode())
        arrays: dict[str, Any] = {}
        for what in (f"{split}_{array}" for split in SPLITS for array in ("images", "labels")):
            arrays[what] = np.load(folder / f"{what}.npy", mmap_mode="r")
            with (folder / f"{what}.npy").open("rb") as file:
                file.seek(arrays[what].offset)  # behind the header
                hashlib.file_digest(file, lambda: digest)  # read, as pages of a map count as memory of this process
        if digest.hexdigest() != meta["fingerprint"]:
            raise ValueError("its arrays are not those that were written")
        for split in SPLITS:  # an attribute of the map alone: what is taken out of it, or copied, does not have it
            arrays[f"{split}_images"].content = f"{split} of {meta['fingerprint']}".encode()
        train, val = (PackedSplit(arrays[f"{split}_images"], np.array(arrays[f"{split}_labels"])) for split in SPLITS)
        return Packed(name, meta["classes"], meta["class_names"], meta["fingerprint"], train, val)
    except Exception as error:  # of bytes that others wrote
        raise TinyclfError(f"The packed cache {folder} is damaged ({error}): remove it, to pack again.") from error


def _write(path: Path, layout: Layout, folder: Path) -> None:
    """Decodes all images into `folder`. Raises TinyclfError naming images that are damaged."""
    train, val = (TinyImageNet(path, split, layout=layout) for split in SPLITS)
    size = (len(train) + len(val)) * SIDE * SIDE * 3
    print(f"packing {path.name} ({size:,} bytes) into {folder.parent.parent}", file=sys.stderr, flush=True)
    digest = hashlib.sha256(json.dumps(train.classes).encode())
    for split in (train, val):
        _write_split(split, folder, digest)
    meta = {"classes": train.classes, "class_names": train.class_names, "fingerprint": digest.hexdigest()}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _write_split(split: TinyImageNet, folder: Path, digest: "hashlib._Hash") -> None:
    """Writes a split's images and labels and adds both to `digest`."""
    with (folder / f"{split.split}_images.npy").open("wb", 2**20) as file:  # written in larger pieces than images
        about = {"descr": "|u1", "fortran_order": False, "shape": (len(split), SIDE, SIDE, 3)}
        np.lib.format.write_array_header_1_0(file, about)
        for image in split.decoded("packing"):
            pixels = image.tobytes()
            file.write(pixels)
            digest.update(pixels)
        file.flush()
        os.fsync(file.fileno())  # so that not even a power cut leaves a renamed cache with holes
    labels = np.array(split.targets, "<i8")
    np.save(folder / f"{split.split}_labels.npy", labels)
    digest.update(labels.data)
