"""The official on-disk layout of Tiny-ImageNet: reads its text files, and checks that every image is there.

    wnids.txt                         one class a line, in no particular order
    words.txt                         wnid words, for far more wnids than there are classes
    train/<wnid>/<wnid>_boxes.txt     file x0 y0 x1 y1
    train/<wnid>/images/*.JPEG
    val/val_annotations.txt           file wnid x0 y0 x1 y1
    val/images/*.JPEG
    test/images/*.JPEG                without labels

Fields are separated by tabs.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyclf.data.archive import Source
from tinyclf.data.registry import Layout
from tinyclf.utils.errors import TinyclfError

SPLITS = ("train", "val", "test")
NO_LABEL = -1  # target of every test image, as in torchvision's STL10 for its unlabelled images


@dataclass(frozen=True)
class Split:
    """One split's images: names sorted as strings within a class for train, over all for val and test.

    `targets` are positions in the sorted wnids (NO_LABEL for test); `boxes` is (N, 4) int64, the corners x0 y0 x1 y1
    in pixels as the files give them, or None for test.
    """

    names: list[str]
    targets: list[int]
    boxes: np.ndarray | None


def locate(root: Path, layout: Layout) -> Path | None:
    """The data set in `root`: `root` itself, or the layout's folder in it, or that folder's zip. The folder wins."""
    if root.is_file() or (root / "wnids.txt").is_file():
        return root
    candidates = (root / layout.folder, root / f"{layout.folder}.zip")
    return next((path for path in candidates if path.exists()), None)


def read_classes(source: Source, layout: Layout) -> tuple[list[str], list[str]]:
    """The sorted wnids and, in the same order, their words. Raises TinyclfError when a class or its words are missing.

    wnids.txt itself is not sorted; every published checkpoint counts its classes in sorted order.
    """
    classes = sorted(set(_lines(source, "wnids.txt")))
    words = dict(line.split("\t", 1) for line in _lines(source, "words.txt") if "\t" in line)
    faults = []
    if len(classes) != layout.classes:
        faults.append(f"wnids.txt names {len(classes)} classes instead of {layout.classes}")
    if unnamed := [wnid for wnid in classes if wnid not in words]:
        faults.append(f"words.txt has no words for {first_names(unnamed)}")
    _refuse(source, faults)
    return classes, [words[wnid] for wnid in classes]


def read_split(source: Source, layout: Layout, split: str, classes: list[str]) -> Split:
    """Lists a split and checks it: every image is there and listed once, in the right number, of a known class.

    Decodes no image, so it takes well under a second for Tiny-ImageNet. Raises TinyclfError naming the files at fault.
    """
    faults: list[str] = []
    read = {"train": _read_train, "val": _read_val, "test": _read_test}[split]
    images = read(source, layout, classes, faults)
    _refuse(source, faults)
    return images


def first_names(names: Collection[str]) -> str:
    """The first three names and how many more there are."""
    text = ", ".join(sorted(names)[:3])
    return text + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _read_train(source: Source, layout: Layout, classes: list[str], faults: list[str]) -> Split:
    by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
    unknown = set()
    for name in _images(source, "train"):
        wnid, _, rest = name.removeprefix("train/").partition("/")
        if wnid not in by_class:
            unknown.add(f"train/{wnid}")
        elif rest.startswith("images/"):
            by_class[wnid].append(name)
    if unknown:
        faults.append(f"not a class of wnids.txt: {first_names(unknown)}")
    boxes = np.empty((layout.classes * layout.train, 4), np.int64)
    split = Split([], [], boxes)
    for target, (wnid, names) in enumerate(by_class.items()):
        _expect(faults, f"train/{wnid}/images", len(names), layout.train)
        rows = _table(source, f"train/{wnid}/{wnid}_boxes.txt", f"train/{wnid}/images", names, 5, faults)
        if not faults:
            boxes[len(split.names) : len(split.names) + len(names)] = [row[-4:] for row in rows]
        split.names.extend(names)
        split.targets.extend([target] * len(names))
    return split


def _read_val(source: Source, layout: Layout, classes: list[str], faults: list[str]) -> Split:
    names = _images(source, "val/images")
    _expect(faults, "val/images", len(names), layout.classes * layout.val)
    rows = _table(source, "val/val_annotations.txt", "val/images", names, 6, faults)
    index = {wnid: target for target, wnid in enumerate(classes)}
    if unknown := {f"{row[0]} ({row[1]})" for row in rows if row[1] not in index}:
        faults.append(f"val/val_annotations.txt gives a class that is not in wnids.txt to {first_names(unknown)}")
    counts = Counter(row[1] for row in rows)
    if not faults and (uneven := [f"{wnid} ({counts[wnid]})" for wnid in classes if counts[wnid] != layout.val]):
        faults.append(f"val/val_annotations.txt does not give {layout.val} images to each class: {first_names(uneven)}")
    if faults:
        return Split([], [], None)
    return Split(names, [index[row[1]] for row in rows], np.array([row[-4:] for row in rows], np.int64))


def _read_test(source: Source, layout: Layout, classes: list[str], faults: list[str]) -> Split:
    names = _images(source, "test/images")
    _expect(faults, "test/images", len(names), layout.classes * layout.test)
    return Split(names, [NO_LABEL] * len(names), None)


def _table(
    source: Source, table: str, folder: str, names: list[str], columns: int, faults: list[str]
) -> list[list[str]]:
    """The rows of an annotation file in the order of `names`, the images that it must list, each of them once."""
    rows: dict[str, list[str]] = {}
    broken, repeated = [], []
    for number, line in enumerate(_lines(source, table), 1):
        row = line.split("\t")
        if len(row) != columns or not all(field.isdecimal() for field in row[-4:]):
            broken.append(f"line {number}")
            continue
        name = f"{folder}/{row[0]}"
        if name in rows:
            repeated.append(name)
        rows[name] = row
    known = set(names)
    for fault, culprits in (
        (f"{table} has lines that cannot be read", broken),
        (f"{table} lists twice", repeated),
        (f"{table} has no line for", known - rows.keys()),
        (f"{table} lists images that are not there", rows.keys() - known),
    ):
        if culprits:
            faults.append(f"{fault}: {first_names(culprits)}")
    return [rows[name] for name in names if name in rows]


def _images(source: Source, folder: str) -> list[str]:
    return [name for name in source.names(folder) if name.endswith(".JPEG")]


def _lines(source: Source, name: str) -> list[str]:
    text = source.read(name).decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()]


def _expect(faults: list[str], folder: str, count: int, expected: int) -> None:
    if count != expected:
        faults.append(f"{folder} has {count:,} images instead of {expected:,}")


def _refuse(source: Source, faults: list[str]) -> None:
    """Raises one TinyclfError with up to five faults and the number of the others."""
    if not faults:
        return
    listed = "\n".join(f"  - {fault}" for fault in faults[:5])
    rest = f"\n  - and {len(faults) - 5:,} faults more" if len(faults) > 5 else ""
    remedy = "Put back what is missing, or replace the whole set by the official one."
    raise TinyclfError(f"The data set in {source.path} is not complete:\n{listed}{rest}\n{remedy}")
