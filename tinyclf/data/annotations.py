"""The layout of Tiny-ImageNet on disk: reads its text files, and checks that every image is there.

    wnids.txt                         one class a line, in no particular order
    words.txt                         wnid words, for far more wnids than there are classes
    train/<wnid>/<wnid>_boxes.txt     file x0 y0 x1 y1
    train/<wnid>/images/*.JPEG
    val/val_annotations.txt           file wnid x0 y0 x1 y1
    val/images/*.JPEG
    test/images/*.JPEG                without labels

Fields are separated by tabs. This is the official layout. Many copies have val sorted into folders of classes as train
is, with or without val_annotations.txt, or lack a folder `images`, or end names with .jpg: they give the same images in
the same order.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tinyclf.data.archive import Source
from tinyclf.data.registry import Layout
from tinyclf.utils.errors import TinyclfError

SPLITS = ("train", "val", "test")
WNID = re.compile(r"[A-Za-z0-9_-]{1,40}")
CORNER = re.compile(r"[0-9]{1,4}")
NO_LABEL = -1  # target of every test image, as in torchvision's STL10 for its unlabelled images


@dataclass(frozen=True)
class Split:
    """One split's images: sorted by file name, as strings, within a class for train, over all for val and test.

    `targets` are positions in the sorted wnids (NO_LABEL for test); `boxes` is (N, 4) int64, the corners x0 y0 x1 y1
    in pixels as the files give them, or None for test and for copies of val without its annotations.
    """

    names: list[str]
    targets: list[int]
    boxes: np.ndarray | None


def read_classes(source: Source, layout: Layout) -> tuple[list[str], list[str]]:
    """The sorted wnids and, in the same order, their words. Raises TinyclfError when a class or its words are missing.

    wnids.txt itself is not sorted; every published checkpoint counts its classes in sorted order.
    """
    classes = sorted(set(_lines(source, "wnids.txt")))
    words = dict(line.split("\t", 1) for line in _lines(source, "words.txt") if "\t" in line)
    faults = []
    if strange := [repr(wnid) for wnid in classes if not WNID.fullmatch(wnid)]:
        faults.append(f"wnids.txt has lines that name no class: {first_names(strange)}")
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
    text = ", ".join(name[:100] for name in sorted(names)[:3])
    return text + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _read_train(source: Source, layout: Layout, classes: list[str], faults: list[str]) -> Split:
    by_class = _by_class(_images(source, "train"), classes, faults)
    boxes = np.empty((layout.classes * layout.train, 4), np.int64)
    split = Split([], [], boxes)
    for target, (wnid, names) in enumerate(by_class.items()):
        _expect(faults, f"train/{wnid}/images", len(names), layout.train)
        rows = _table(source, f"train/{wnid}/{wnid}_boxes.txt", names, 5, faults)
        if not faults:
            boxes[len(split.names) : len(split.names) + len(names)] = [row[-4:] for row in rows]
        split.names.extend(names)
        split.targets.extend([target] * len(names))
    return split


def _read_val(source: Source, layout: Layout, classes: list[str], faults: list[str]) -> Split:
    names = _images(source, "val")
    official = [name for name in names if name.startswith("val/images/")]
    wnids: dict[str, str] = {}  # of the images, by their folders, if val is sorted
    is_sorted = bool(names) and not official
    if is_sorted:
        by_class = _by_class(names, classes, faults)
        wnids = {name: wnid for wnid, members in by_class.items() for name in members}
    names = sorted(wnids, key=_file_name) if is_sorted else official
    _expect(faults, "val" if is_sorted else "val/images", len(names), layout.classes * layout.val)
    boxes = None
    if not is_sorted or "val/val_annotations.txt" in source.names("val"):
        rows = _table(source, "val/val_annotations.txt", names, 6, faults)
        _check_classes(rows, names, wnids, classes, faults)
        if not faults:
            boxes = np.array([row[-4:] for row in rows], np.int64)
            wnids = {name: row[1] for name, row in zip(names, rows, strict=True)}
    counts = Counter(wnids.values())
    if not faults and (uneven := [f"{wnid} ({counts[wnid]})" for wnid in classes if counts[wnid] != layout.val]):
        faults.append(f"val does not have {layout.val} images of each class: {first_names(uneven)}")
    index = {wnid: target for target, wnid in enumerate(classes)}
    return Split([], [], None) if faults else Split(names, [index[wnids[name]] for name in names], boxes)


def _check_classes(
    rows: list[list[str]], names: list[str], wnids: dict[str, str], classes: list[str], faults: list[str]
) -> None:
    """Every class of val_annotations.txt is one of wnids.txt, and that of the image's folder, if val is sorted."""
    if unknown := {f"{row[0]} ({row[1]})" for row in rows if row[1] not in set(classes)}:
        faults.append(f"val/val_annotations.txt gives a class that is not in wnids.txt to {first_names(unknown)}")
    if len(rows) == len(names):
        given = {name: row[1] for name, row in zip(names, rows, strict=True)}
        if moved := [f"{name} ({given[name]})" for name, wnid in wnids.items() if given[name] != wnid]:
            faults.append(f"val/val_annotations.txt gives another class than the folder to {first_names(moved)}")


def _read_test(source: Source, layout: Layout, classes: list[str], faults: list[str]) -> Split:
    names = _images(source, "test")
    _expect(faults, "test/images", len(names), layout.classes * layout.test)
    return Split(names, [NO_LABEL] * len(names), None)


def _by_class(names: list[str], classes: list[str], faults: list[str]) -> dict[str, list[str]]:
    """Names `<split>/<wnid>/<file>` or `<split>/<wnid>/images/<file>` by wnid, in the order of `classes`."""
    by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
    unknown = set()
    for name in names:
        split, wnid, *rest = name.split("/")
        if wnid not in by_class:
            unknown.add(f"{split}/{wnid}")
        elif len(rest) == 1 or (len(rest) == 2 and rest[0] == "images"):
            by_class[wnid].append(name)
    if unknown:
        faults.append(f"not a class of wnids.txt: {first_names(unknown)}")
    return by_class


def _table(source: Source, table: str, names: list[str], columns: int, faults: list[str]) -> list[list[str]]:
    """The rows of an annotation file in the order of `names`, the images that it must list, each of them once.

    A copy may have given its files other endings than the annotations: names are compared without.
    """
    rows: dict[str, list[str]] = {}
    broken, repeated = [], []
    for number, line in enumerate(_lines(source, table), 1):
        row = line.split("\t")
        if len(row) != columns or not all(CORNER.fullmatch(field) for field in row[-4:]):
            broken.append(f"line {number}")
            continue
        stem = _stem(row[0])
        if stem in rows:
            repeated.append(row[0])
        rows[stem] = row
    known = {_stem(name): name for name in names}
    for fault, culprits in (
        (f"{table} has lines that cannot be read", broken),
        (f"{table} lists twice", repeated),
        (f"{table} has no line for", [name for stem, name in known.items() if stem not in rows]),
        (f"{table} lists images that are not there", [row[0] for stem, row in rows.items() if stem not in known]),
    ):
        if culprits:
            faults.append(f"{fault}: {first_names(culprits)}")
    return [rows[stem] for stem in map(_stem, names) if stem in rows]


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _file_name(name).rpartition(".")[0]


def _images(source: Source, folder: str) -> list[str]:
    names = [name for name in source.names(folder) if name.lower().endswith((".jpeg", ".jpg"))]
    return sorted(names, key=_file_name)


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
