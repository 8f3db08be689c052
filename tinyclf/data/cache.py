"""The packed cache: every train and val image, decoded once into a memory-mapped array that training reads.

A cache is a folder next to its source, `<folder>.packed/<key>/`: `train_images.npy` and `val_images.npy`, uint8
(N, 64, 64, 3), `train_labels.npy` and `val_labels.npy`, int64 (N,), and `meta.json`. The key is made of the source's
fingerprint and of FORMAT, so the cache of a source that changed is not used.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyclf.data.annotations import locate
from tinyclf.data.archive import fingerprint
from tinyclf.data.registry import SIDE, Layout, dataset_info
from tinyclf.data.synthetic import make_dataset
from tinyclf.data.tiny_imagenet import TinyImageNet, locate_or_download, refuse_images
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_folder
from tinyclf.utils.locks import locked

FORMAT = 1  # raise it when the content of a cache changes
MARKER = ".tinyclf"  # says that a folder is a cache of ours; FILES are the others in it
FILES = re.compile(r"meta\.json|(train|val)_(images|labels)\.npy")
IMAGE_BYTES = SIDE * SIDE * 3
BATCH = 500  # images written and hashed at a time


@dataclass(frozen=True)
class PackedSplit:
    """Images of one split in the order of `TinyImageNet`: by class and name (train) or by name (val)."""

    images: np.ndarray  # uint8 (N, 64, 64, 3), RGB; a read-only memory map, or for a part of the set an array
    labels: np.ndarray  # int64 (N,), indices of Packed.classes


@dataclass(frozen=True)
class Packed:
    """A whole packed data set."""

    name: str  # one of registry.DATASETS
    classes: list[str]  # wnids, sorted
    class_names: list[str]  # their words, in the same order
    fingerprint: str  # sha256 over classes, pixels and labels: the same for folder and zip of the same content
    train: PackedSplit
    val: PackedSplit


def load_data(name: str, hold_out: bool = False) -> Packed:
    """The data set of that name, one of registry.DATASETS; first makes, downloads or packs it where need be.

    hold_out: replace val by a part of train, see `hold_out_split`.
    Raises TinyclfError for an unknown name, and when the set is missing, incomplete or damaged.
    """
    info = dataset_info(name)
    data = pack(*locate_dataset(name), name)
    if info.subset_of:
        data = class_subset(data, info.class_step)
    return hold_out_split(data) if hold_out else data


def hold_out_split(data: Packed) -> Packed:
    """`data` whose val is every tenth training image of each class, in the order of names, which train then lacks.

    For choosing a recipe: 50 images a class of Tiny-ImageNet, the same for everyone, and none that results count.
    """
    labels = data.train.labels
    chosen = np.zeros(len(labels), bool)
    for label in range(len(data.classes)):
        chosen[np.flatnonzero(labels == label)[::10]] = True
    train, val = (PackedSplit(data.train.images[rows], labels[rows]) for rows in (~chosen, chosen))
    fingerprint = hashlib.sha256(f"{data.fingerprint}, every tenth image held out".encode()).hexdigest()
    return dataclasses.replace(data, train=train, val=val, fingerprint=fingerprint)


def class_subset(data: Packed, step: int) -> Packed:
    """Every `step`-th class of `data`, from the first, with all of its images, in memory and with new labels."""
    splits = []
    for split in (data.train, data.val):
        rows = (split.labels % step == 0).nonzero()[0]
        splits.append(PackedSplit(split.images[rows], split.labels[rows] // step))
    ordinal = {10: "tenth"}.get(step, f"{step}th")  # in words, as in the fingerprints of existing records
    fingerprint = hashlib.sha256(f"{data.fingerprint}, every {ordinal} class".encode()).hexdigest()
    return Packed(data.name, data.classes[::step], data.class_names[::step], fingerprint, *splits)


def locate_dataset(name: str) -> tuple[Path, Layout]:
    """The folder or zip of a data set, or of its whole, and its layout; first made or downloaded where need be.

    Tiny-ImageNet is expected where `TINYCLF_DATA` points, else in `data/`, where it is downloaded if missing.
    """
    info = dataset_info(name)
    if info.synthetic:
        return make_dataset(info.layout, paths.data_dir()), info.layout
    root, layout = paths.tiny_imagenet_source(), info.layout
    chosen = bool(os.environ.get("TINYCLF_DATA"))
    if chosen and locate(root, layout) is None:
        raise TinyclfError(
            f"TINYCLF_DATA points to {root}, where there is neither {layout.folder} nor {layout.folder}.zip. "
            "Correct it, or unset it to have the set downloaded."
        )
    return locate_or_download(root, layout, download=not chosen), layout


def pack(path: Path, layout: Layout, name: str) -> Packed:
    """Opens the cache of the data set in `path`, a folder or a zip; writes it first if there is no valid one.

    It is next to `path`, or in the project's `data/` where that is not writable. Several processes may ask at once:
    one packs, the others wait. Raises TinyclfError for a damaged set and when the disk is full.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(path)}".encode()).hexdigest()[:16]
    folders = [parent / f"{layout.folder}.packed" for parent in (path.parent, paths.data_dir())]
    for folder in folders:
        if packed := _open(folder / key, layout, name):
            return packed
    for folder in folders:
        try:
            with _lock(folder):
                return _open(folder / key, layout, name) or _pack(path, layout, folder / key, name)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or folder == folders[-1]:
                size = sum(_counts(layout).values()) * IMAGE_BYTES
                raise TinyclfError(
                    f"The packed cache cannot be written to {folder}: {error.strerror}. It needs {size:,} bytes. "
                    "Free some space, or move the data set to a larger disk."
                ) from error
    raise AssertionError("the last folder is either packed into or raises")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it against other processes; removes it again if it is empty in the end."""
    try:
        with locked(folder / "lock"):
            yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _open(folder: Path, layout: Layout, name: str) -> Packed | None:
    """The finished cache in `folder`; None if it is missing, damaged, or of other numbers than those of `layout`."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
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


def _pack(path: Path, layout: Layout, target: Path, name: str) -> Packed:
    """Writes the cache `target`, whole or not at all; under the lock, so every other folder next to it is outdated."""
    splits = {split: TinyImageNet(path, split, layout=layout) for split in _counts(layout)}
    TinyImageNet(path, "test", layout=layout)  # not packed, but checked with the rest
    for outdated in target.parent.iterdir():
        if outdated.is_dir():
            shutil.rmtree(outdated)
    total = sum(map(len, splits.values()))
    if shutil.disk_usage(target.parent).free < total * IMAGE_BYTES:  # before a minute of work, not after it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not sys.stderr.isatty():
        print(f"packing {total:,} images of {path.name}", file=sys.stderr, flush=True)
    classes, class_names = splits["train"].classes, splits["train"].class_names
    digest = hashlib.sha256(json.dumps(classes).encode())
    faults: list[str] = []
    with atomic_folder(target, MARKER, FILES) as folder:
        with tqdm(total=total, desc="packing", unit=" images", disable=None) as bar:
            for split, images in splits.items():
                _write_split(images, folder / split, digest, faults, bar)
        refuse_images(faults)
        meta = {"classes": classes, "class_names": class_names, "fingerprint": digest.hexdigest()}
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    if packed := _open(target, layout, name):
        return packed
    raise TinyclfError(f"The cache just written to {target} cannot be read. Is that disk in order?")


def _write_split(split: TinyImageNet, stem: Path, digest: "hashlib._Hash", faults: list[str], bar: tqdm) -> None:
    """Writes `<stem>_images.npy` and `<stem>_labels.npy` and adds both to `digest`; unusable images go to `faults`.

    Writing front to back keeps little in memory, where filling a memory map would keep all of it, to be written later.
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
