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

VAL_TABLE = "val/val_annotations.txt"
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
    strange = [repr(wnid) for wnid in classes if not WNID.fullmatch(wnid)]
    _refuse(source, "wnids.txt has lines that name no class", strange)
    _expect(source, "wnids.txt", "classes", len(classes), layout.classes)
    _refuse(source, "words.txt has no words for", [wnid for wnid in classes if wnid not in words])
    return classes, [words[wnid] for wnid in classes]


def read_split(source: Source, layout: Layout, split: str, classes: list[str]) -> Split:
    """Lists a split and checks it: every image is there and listed once, in the right number, of a known class.

    Decodes no image, so it takes well under a second for Tiny-ImageNet. Raises TinyclfError naming the files at fault.
    """
    read = {"train": _read_train, "val": _read_val, "test": _read_test}[split]
    return read(source, layout, classes)


def _read_train(source: Source, layout: Layout, classes: list[str]) -> Split:
    names, targets, corners = [], [], []
    for target, (wnid, images) in enumerate(_by_class(source, _images(source, "train"), classes).items()):
        rows = _table(source, f"train/{wnid}/{wnid}_boxes.txt", images, 5)
        _expect(source, f"train/{wnid}/images", "images", len(images), layout.train)
        names += images
        targets += [target] * len(images)
        corners += [row[-4:] for row in rows]
    return Split(names, targets, np.array(corners, np.int64))


def _read_val(source: Source, layout: Layout, classes: list[str]) -> Split:
    images = _images(source, "val")
    names = [name for name in images if name.startswith("val/images/")]
    wnids: dict[str, str] = {}  # of the images, by their folders, if val is sorted as train is
    if images and not names:
        by_class = _by_class(source, images, classes)
        wnids = {name: wnid for wnid, members in by_class.items() for name in members}
        names = sorted(wnids, key=_file_name)
    boxes = None
    if not wnids or VAL_TABLE in source.names("val"):
        rows = _table(source, VAL_TABLE, names, 6)
        listed = {name: row[1] for name, row in zip(names, rows, strict=True)}
        _check_classes(source, listed, wnids, classes)
        wnids = listed
        boxes = np.array([row[-4:] for row in rows], np.int64)
    _expect(source, "val", "images", len(names), layout.classes * layout.val)
    counts = Counter(wnids.values())
    uneven = [f"{wnid} ({counts[wnid]})" for wnid in classes if counts[wnid] != layout.val]
    _refuse(source, f"val does not have {layout.val} images of each class", uneven)
    index = {wnid: target for target, wnid in enumerate(classes)}
    return Split(names, [index[wnids[name]] for name in names], boxes)


def _check_classes(source: Source, listed: dict[str, str], folders: dict[str, str], classes: list[str]) -> None:
    """Every class of val_annotations.txt is one of wnids.txt, and that of the image's folder, if val is sorted."""
    known = set(classes)
    unknown = [f"{name} ({wnid})" for name, wnid in listed.items() if wnid not in known]
    _refuse(source, f"{VAL_TABLE} gives a class that is not in wnids.txt to", unknown)
    moved = [f"{name} ({listed[name]})" for name, wnid in folders.items() if listed[name] != wnid]
    _refuse(source, f"{VAL_TABLE} gives another class than the folder to", moved)


def _read_test(source: Source, layout: Layout, classes: list[str]) -> Split:
    names = _images(source, "test")
    _expect(source, "test/images", "images", len(names), layout.classes * layout.test)
    return Split(names, [NO_LABEL] * len(names), None)


def _by_class(source: Source, images: list[str], classes: list[str]) -> dict[str, list[str]]:
    """Names `<split>/<wnid>/<file>` or `<split>/<wnid>/images/<file>` by wnid, in the order of `classes`."""
    by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
    unknown = set()
    for name in images:
        split, wnid, *rest = name.split("/")
        if wnid not in by_class:
            unknown.add(f"{split}/{wnid}")
        elif len(rest) == 1 or (len(rest) == 2 and rest[0] == "images"):
            by_class[wnid].append(name)
    _refuse(source, "not a class of wnids.txt", unknown)
    return by_class


def _table(source: Source, table: str, names: list[str], columns: int) -> list[list[str]]:
    """The rows of an annotation file in the order of `names`, the images that it must list, each of them once.

    A copy may have given its files other endings than the annotations: names are compared without.
    """
    rows = [line.split("\t") for line in _lines(source, table)]
    broken = [
        f"line {number}"
        for number, row in enumerate(rows, 1)
        if len(row) != columns or not all(map(CORNER.fullmatch, row[-4:]))
    ]
    _refuse(source, f"{table} has lines that cannot be read", broken)
    listed, stems = Counter(_stem(row[0]) for row in rows), set(map(_stem, names))
    _refuse(source, f"{table} lists twice", [row[0] for row in rows if listed[_stem(row[0])] > 1])
    _refuse(source, f"{table} has no line for", [name for name in names if _stem(name) not in listed])
    _refuse(source, f"{table} lists images that are not there", [row[0] for row in rows if _stem(row[0]) not in stems])
    by_stem = {_stem(row[0]): row for row in rows}
    return [by_stem[_stem(name)] for name in names]


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


def _expect(source: Source, place: str, what: str, count: int, expected: int) -> None:
    if count != expected:
        raise _incomplete(source, f"{place} has {count:,} {what} instead of {expected:,}")


def _refuse(source: Source, fault: str, culprits: Collection[str]) -> None:
    """Raises TinyclfError with the first three culprits and how many more there are, if there are any."""
    if culprits:
        first = ", ".join(name[:100] for name in sorted(culprits)[:3])
        rest = f" and {len(culprits) - 3:,} more" if len(culprits) > 3 else ""
        raise _incomplete(source, f"{fault}: {first}{rest}")


def _incomplete(source: Source, fault: str) -> TinyclfError:
    remedy = "Put back what is missing, or replace the whole set by the official one."
    return TinyclfError(f"The data set in {source.path} is not complete: {fault}. {remedy}")
