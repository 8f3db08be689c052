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
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from tinyclf.data.archive import fingerprint
from tinyclf.data.locate import locate_dataset
from tinyclf.data.packing import IMAGE_BYTES, decode_into
from tinyclf.data.registry import SIDE, Layout, dataset_info
from tinyclf.data.tiny_imagenet import TinyImageNet, refuse_images
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_folder, refuse_foreign, remove_own, remove_partial, writable
from tinyclf.utils.locks import locked

FORMAT = 2  # raise it when the content of a cache changes
MARKER = ".tinyclf"  # says that a folder is a cache of ours; FILES are the others in it
FILES = re.compile(r"meta\.json|(train|val)_(images|labels)\.npy")


class _DamagedError(Exception):
    """What is wrong with a cache that is there."""


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


def pack(path: Path, layout: Layout, name: str) -> Packed:
    """Opens the cache of the data set in `path`, a folder or a zip; writes it first if there is no valid one.

    It is next to `path`, or where that cannot be written, in one of `paths.data_dirs`. Several processes may ask at
    once: one packs, the others wait. Raises TinyclfError for a damaged set and when the disk is full.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(path)}".encode()).hexdigest()[:16]
    folders = [parent / f"{layout.folder}.packed" for parent in (path.parent, *paths.data_dirs())]
    for folder in folders:
        if packed := _open(folder / key, layout, name):
            return packed
    folder = _first_writable(folders)
    try:
        with _lock(folder):
            return _open(folder / key, layout, name, report=False) or _pack(path, layout, folder / key, name)
    except OSError as error:
        size = sum(_counts(layout).values()) * IMAGE_BYTES
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


def _open(folder: Path, layout: Layout, name: str, report: bool = True) -> Packed | None:
    """The cache in `folder`; None if it is missing, or is not what was written: then `report` it."""
    try:
        meta = _read_meta(folder / "meta.json", layout)
        splits = []
        digest = hashlib.sha256(json.dumps(meta["classes"]).encode())
        for split, count in _counts(layout).items():
            images = _map(folder / f"{split}_images.npy", np.dtype("|u1"), (count, SIDE, SIDE, 3), digest)
            labels = np.array(_map(folder / f"{split}_labels.npy", np.dtype("<i8"), (count,), digest))
            if labels.min() < 0 or labels.max() >= layout.classes:
                raise _DamagedError(f"{split}_labels.npy has other labels")
            splits.append(PackedSplit(images, labels))
        if digest.hexdigest() != meta["fingerprint"]:
            raise _DamagedError("its arrays are not those that were written")
        return Packed(name, meta["classes"], meta["class_names"], meta["fingerprint"], *splits)
    except FileNotFoundError as error:
        fault = f"{Path(error.filename).name} is missing" if folder.exists() else ""
    except OSError as error:
        fault = f"{error.filename or folder}: {error.strerror}"
    except _DamagedError as error:
        fault = str(error)
    if fault and report:
        print(f"The packed cache {folder} cannot be used ({fault}): packing again", file=sys.stderr, flush=True)
    return None


def _read_meta(path: Path, layout: Layout) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        digest = meta.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _DamagedError("meta.json cannot be read") from error
    if digest != _digest_of(meta) or len(meta["classes"]) != layout.classes:
        raise _DamagedError("meta.json is not the one that was written")
    return dict(meta)


def _digest_of(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], digest: "hashlib._Hash") -> np.memmap[Any, Any]:
    """A read-only memory map of an array in `path`, which is added to `digest`: it costs a second for 1.35 GB.

    The map has the open file, and thereby its lock, as long as anybody uses it.
    """
    header = _header(dtype, shape)
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _DamagedError("it is being removed") from error
        except OSError:
            pass  # on a disk without locks no cache is ever removed
        size = len(header) + dtype.itemsize * int(np.prod(shape))
        if os.fstat(file.fileno()).st_size != size or file.read(len(header)) != header:
            raise _DamagedError(f"{path.name} is of another shape or type")
        _add_rest(file, digest)
        return np.memmap(file, dtype, "r", len(header), shape)


def _add_rest(file: IO[bytes], digest: "hashlib._Hash") -> None:
    """Read, not mapped: pages of a map would count as memory of this process."""
    buffer = memoryview(bytearray(1 << 20))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What precedes the array in a .npy file."""
    text = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(text, about)
    return text.getvalue()


def _pack(path: Path, layout: Layout, target: Path, name: str) -> Packed:
    """Writes the cache `target`, whole or not at all; under the lock."""
    splits = {split: TinyImageNet(path, split, layout=layout) for split in _counts(layout)}
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
        text = json.dumps(meta | {"sha256": _digest_of(meta)})
        (folder / "meta.json").write_text(text, encoding="utf-8")
    if packed := _open(target, layout, name):
        return packed
    raise TinyclfError(f"The cache just written to {target} cannot be read. Is that disk in order?")


def _write_split(split: TinyImageNet, stem: Path, digest: "hashlib._Hash", faults: list[str], bar: tqdm) -> None:
    """Writes `<stem>_images.npy` and `<stem>_labels.npy` and adds both to `digest`; unusable images go to `faults`."""
    path = Path(f"{stem}_images.npy")
    header = _header(np.dtype("|u1"), (len(split), SIDE, SIDE, 3))
    path.write_bytes(header)
    for pixels, damaged in decode_into(path, len(header), split):
        digest.update(pixels)
        faults += damaged
        bar.update(len(pixels) // IMAGE_BYTES)
    labels = np.array(split.targets, "<i8")
    Path(f"{stem}_labels.npy").write_bytes(_header(labels.dtype, labels.shape) + labels.tobytes())
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


def _counts(layout: Layout) -> dict[str, int]:
    """Number of images of each split that is packed."""
    return {"train": layout.classes * layout.train, "val": layout.classes * layout.val}
