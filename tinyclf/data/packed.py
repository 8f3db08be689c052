"""A packed data set, opened from its cache: memory maps of arrays that were compared with their digests."""

import fcntl
import hashlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyclf.data.registry import SIDE, Layout


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


class _DamagedError(Exception):
    """What is wrong with a cache that is there."""


def open_packed(folder: Path, layout: Layout, name: str, report: bool = True) -> Packed | None:
    """The cache in `folder`; None if it is missing, or is not what was written: then `report` it."""
    try:
        meta = _read_meta(folder / "meta.json", layout)
        splits = []
        digest = hashlib.sha256(json.dumps(meta["classes"]).encode())
        for split, count in image_counts(layout).items():
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
    if digest != digest_of(meta) or len(meta["classes"]) != layout.classes:
        raise _DamagedError("meta.json is not the one that was written")
    return dict(meta)


def digest_of(meta: dict[str, Any]) -> str:
    """The sha256 of `meta.json` but for this digest itself."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], digest: "hashlib._Hash") -> np.memmap[Any, Any]:
    """A read-only memory map of an array in `path`, which is added to `digest`: it costs a second for 1.35 GB.

    The map has the open file, and thereby its lock, as long as anybody uses it.
    """
    header = npy_header(dtype, shape)
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
        # Read, not mapped: pages of a map would count as memory of this process.
        hashlib.file_digest(file, lambda: digest)
        return np.memmap(file, dtype, "r", len(header), shape)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What precedes the array in a .npy file."""
    text = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(text, about)
    return text.getvalue()


def image_counts(layout: Layout) -> dict[str, int]:
    """Number of images of each split that is packed."""
    return {"train": layout.classes * layout.train, "val": layout.classes * layout.val}
