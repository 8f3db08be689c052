"""The packed cache: every train and val image, decoded once into a memory-mapped array that training reads.

A cache is a folder next to its source, `<folder>.packed/<key>/`: `train_images.npy` and `val_images.npy`, uint8
(N, 64, 64, 3), `train_labels.npy` and `val_labels.npy`, int64 (N,), and `meta.json`. The key is made of the source's
fingerprint and of FORMAT, so the cache of a source that changed is not used. Whoever opens a cache compares all of it
with the digests in `meta.json`, and holds a lock on it as long as its arrays are in use; what is locked is not removed.
"""

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyclf.data.archive import fingerprint
from tinyclf.data.locate import locate_dataset
from tinyclf.data.packed import Packed, PackedSplit, digest_of, image_counts, npy_header, open_packed
from tinyclf.data.packing import IMAGE_BYTES, decode_into
from tinyclf.data.registry import SIDE, Layout, dataset_info
from tinyclf.data.tiny_imagenet import TinyImageNet, refuse_images
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable
from tinyclf.utils.owned import atomic_folder, refuse_foreign, remove_own, remove_partial

FORMAT = 2  # raise it when the content of a cache changes
MARKER = ".tinyclf"  # says that a folder is a cache of ours; FILES are the others in it
FILES = re.compile(r"meta\.json|(train|val)_(images|labels)\.npy")


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


def pack(path: Path, layout: Layout, name: str) -> Packed:
    """Opens the cache of the data set in `path`, a folder or a zip; writes it first if there is no valid one.

    It is next to `path`, or where that cannot be written, in one of `paths.data_dirs`. Several processes may ask at
    once: one packs, the others wait. Raises TinyclfError for a damaged set and when the disk is full.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(path)}".encode()).hexdigest()[:16]
    folders = [parent / f"{layout.folder}.packed" for parent in (path.parent, *paths.data_dirs())]
    for folder in folders:
        if packed := open_packed(folder / key, layout, name):
            return packed
    folder = _first_writable(folders)
    try:
        with _lock(folder):
            return open_packed(folder / key, layout, name, report=False) or _pack(path, layout, folder / key, name)
    except OSError as error:
        size = sum(image_counts(layout).values()) * IMAGE_BYTES
        raise TinyclfError(
            f"The packed cache cannot be written to {folder}: {error.strerror}. It needs {size:,} bytes. "
            "Free some space, or move the data set to a larger disk."
        ) from error


def _first_writable(folders: list[Path]) -> Path:
    for folder in folders:
        try:
            writable(folder.parent)
            return folder
        except TinyclfError:
            continue
    listed = ", ".join(str(folder.parent) for folder in folders)
    raise TinyclfError(f"No packed cache can be written to {listed}: make one writable, or set XDG_CACHE_HOME.")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it against other processes; removes it again if it is empty in the end."""
    try:
        with locked(folder / "lock"):
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _pack(path: Path, layout: Layout, target: Path, name: str) -> Packed:
    """Writes the cache `target`, whole or not at all; under the lock."""
    splits = {split: TinyImageNet(path, split, layout=layout) for split in image_counts(layout)}
    TinyImageNet(path, "test", layout=layout)  # not packed, but checked with the rest
    _remove_outdated(path, target)
    total = sum(map(len, splits.values()))
    usage = shutil.disk_usage(target.parent)
    if usage.total and usage.free < total * IMAGE_BYTES:  # before a minute of work, not after it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    print(f"packing {total:,} images of {path} into {target.parent}", file=sys.stderr, flush=True)
    classes, class_names = splits["train"].classes, splits["train"].class_names
    digest = hashlib.sha256(json.dumps(classes).encode())
    faults: list[str] = []
    with atomic_folder(target, MARKER, FILES) as folder:
        with tqdm(total=total, desc="packing", unit=" images", disable=None) as bar:
            for split, images in splits.items():
                _write_split(images, folder / split, digest, faults, bar)
        refuse_images(faults)
        meta = {"source": str(path), "classes": classes, "class_names": class_names, "fingerprint": digest.hexdigest()}
        text = json.dumps(meta | {"sha256": digest_of(meta)})
        (folder / "meta.json").write_text(text, encoding="utf-8")
    if packed := open_packed(target, layout, name):
        return packed
    raise TinyclfError(f"The cache just written to {target} cannot be read. Is that disk in order?")


def _write_split(split: TinyImageNet, stem: Path, digest: "hashlib._Hash", faults: list[str], bar: tqdm) -> None:
    """Writes `<stem>_images.npy` and `<stem>_labels.npy` and adds both to `digest`; unusable images go to `faults`."""
    path = Path(f"{stem}_images.npy")
    header = npy_header(np.dtype("|u1"), (len(split), SIDE, SIDE, 3))
    path.write_bytes(header)
    for pixels, damaged in decode_into(path, len(header), split):
        digest.update(pixels)
        faults += damaged
        bar.update(len(pixels) // IMAGE_BYTES)
    labels = np.array(split.targets, "<i8")
    Path(f"{stem}_labels.npy").write_bytes(npy_header(labels.dtype, labels.shape) + labels.tobytes())
    digest.update(labels.data)


def _remove_outdated(source: Path, target: Path) -> None:
    """Removes the caches of what `source` was before, but those in use, and any folder that is not a cache of ours."""
    for folder in target.parent.iterdir():
        if not re.fullmatch(r"[0-9a-f]{16}(\.partial)?", folder.name) or folder == target:
            continue
        with suppress(OSError, ValueError, TinyclfError, AttributeError):
            if folder.suffix:  # nobody else is packing: a killed process left it
                remove_partial(folder.with_suffix(""), MARKER, FILES)
                continue
            refuse_foreign(folder, MARKER, FILES)
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta.get("source") == str(source):
                with _unused(folder):
                    remove_own(folder, MARKER, FILES)


@contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Holds the images of a cache against whoever would open them. Raises OSError if somebody has them open."""
    with (folder / "train_images.npy").open("rb") as train, (folder / "val_images.npy").open("rb") as val:
        for file in (train, val):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
