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
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyclf.data.archive import fingerprint
from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import SIDE, Layout, dataset_info
from tinyclf.data.tiny_imagenet import TinyImageNet, refuse_images
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked

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
    part = f"{data.fingerprint}, every tenth image held out"
    return dataclasses.replace(data, train=train, val=val, fingerprint=hashlib.sha256(part.encode()).hexdigest())


def class_subset(data: Packed, step: int) -> Packed:
    """Every `step`-th class of `data`, from the first, with all of its images, in memory and with new labels."""
    splits = []
    for split in (data.train, data.val):
        rows = np.flatnonzero(split.labels % step == 0)
        splits.append(PackedSplit(split.images[rows], split.labels[rows] // step))
    ordinal = {10: "tenth"}.get(step, f"{step}th")  # in words, as in the fingerprints of existing records
    part = hashlib.sha256(f"{data.fingerprint}, every {ordinal} class".encode()).hexdigest()
    return Packed(data.name, data.classes[::step], data.class_names[::step], part, *splits)


def pack(path: Path, layout: Layout, name: str) -> Packed:
    """Opens the cache of the data set in `path`, a folder or a zip; writes it first if there is none.

    It is next to `path`, or where that cannot be written, in one of `paths.data_dirs`. Several processes may ask at
    once: one packs, the others wait. Raises TinyclfError for a damaged set or cache, and when the disk is full.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(path)}".encode()).hexdigest()[:16]
    places = [parent / f"{layout.folder}.packed" / key for parent in (path.parent, *paths.data_dirs())]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        folder = next((place for place in places if paths.can_be_written(place.parent)), None)
        if folder is None:
            listed = ", ".join(str(place.parent.parent) for place in places)
            raise TinyclfError(f"No packed cache can be written to {listed}: make one writable, or set XDG_CACHE_HOME.")
        with locked(folder.with_suffix(".lock")):
            if not folder.is_dir():  # else another process wrote it meanwhile
                _write(path, layout, folder)
    return _open(folder, name)


def _open(folder: Path, name: str) -> Packed:
    """The cache in `folder`, compared with its fingerprint, which takes a second for 1.35 GB."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        digest = hashlib.sha256(json.dumps(meta["classes"]).encode())
        arrays = {}
        for what in (f"{split}_{array}" for split in SPLITS for array in ("images", "labels")):
            with (folder / f"{what}.npy").open("rb") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                hashlib.file_digest(file, lambda: digest)  # read, as pages of a map count as memory of this process
            arrays[what] = np.load(folder / f"{what}.npy", mmap_mode="r")
        if digest.hexdigest() != meta["fingerprint"]:
            raise ValueError("its arrays are not those that were written")
        splits = [PackedSplit(arrays[f"{split}_images"], np.array(arrays[f"{split}_labels"])) for split in SPLITS]
        return Packed(name, meta["classes"], meta["class_names"], meta["fingerprint"], *splits)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TinyclfError(f"The packed cache {folder} is damaged ({error}): remove it, to pack again.") from error


def _write(path: Path, layout: Layout, target: Path) -> None:
    """Decodes all images into `target`, whole or not at all. Raises TinyclfError naming images that are damaged."""
    sets = {split: TinyImageNet(path, split, layout=layout) for split in (*SPLITS, "test")}  # test is only checked
    size = sum(len(sets[split]) for split in SPLITS) * SIDE * SIDE * 3
    print(f"packing {path} into {target.parent} ({size:,} bytes)", file=sys.stderr, flush=True)
    classes, class_names = sets["train"].classes, sets["train"].class_names
    digest = hashlib.sha256(json.dumps(classes).encode())
    faults: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.", suffix=".partial", dir=target.parent) as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()  # with the rights of a new folder, which the temporary one has not
            for split in SPLITS:
                _write_split(sets[split], folder / split, digest, faults)
            refuse_images(faults)
            meta = {"classes": classes, "class_names": class_names, "fingerprint": digest.hexdigest()}
            (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            os.rename(folder, target)
    except OSError as error:
        raise TinyclfError(
            f"The packed cache cannot be written to {target.parent}: {error.strerror}. It needs {size:,} bytes. Free "
            "some space, or move the data set to a larger disk."
        ) from error


def _write_split(split: TinyImageNet, stem: Path, digest: "hashlib._Hash", faults: list[str]) -> None:
    """Writes `<stem>_images.npy` and `<stem>_labels.npy` and adds both to `digest`; unusable images go to `faults`."""
    with open(f"{stem}_images.npy", "wb") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": (len(split), SIDE, SIDE, 3)}
        np.lib.format.write_array_header_1_0(file, about)
        for index in tqdm(range(len(split)), f"packing {split.split}", unit=" images", disable=None):
            try:
                pixels = split.load(index).tobytes()
            except TinyclfError as error:
                faults.append(str(error))
                continue
            file.write(pixels)
            digest.update(pixels)
        file.flush()
        os.fsync(file.fileno())  # so that not even a power cut leaves a renamed cache with holes
    labels = np.array(split.targets, "<i8")
    np.save(f"{stem}_labels.npy", labels)
    digest.update(labels.data)
