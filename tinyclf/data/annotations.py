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

import numpy as np

from tinyclf.data.archive import Source
from tinyclf.data.registry import URL, Layout
from tinyclf.utils.errors import TinyclfError

VAL_TABLE = "val/val_annotations.txt"
SPLITS = ("train", "val", "test")
CORNER = re.compile(r"[0-9]{1,4}")
NO_LABEL = -1  # target of every test image, as in torchvision's STL10 for its unlabelled images
Split = tuple[list[str], list[int], np.ndarray | None]  # names, targets and boxes of its images, see `read_split`


def read_classes(source: Source, layout: Layout) -> tuple[list[str], list[str]]:
    """The sorted wnids and, in the same order, their words. Raises TinyclfError when a class or its words are missing.

    wnids.txt itself is not sorted; every published checkpoint counts its classes in sorted order.
    """
    _demand(source, "wnids.txt" in source.files, f"it holds no wnids.txt, as {URL} does")
    classes = sorted(set(_lines(source, "wnids.txt")))
    words = dict(line.split("\t", 1) for line in _lines(source, "words.txt") if "\t" in line)
    count = len(classes)
    _demand(source, count == layout.classes, f"wnids.txt has {count} classes instead of {layout.classes}")
    _refuse(source, "words.txt has no words for", [wnid for wnid in classes if wnid not in words])
    return classes, [words[wnid] for wnid in classes]


def read_split(source: Source, layout: Layout, split: str, classes: list[str]) -> Split:
    """The names, targets and boxes of a split's images: each is there and listed once, in the right number and classes.

    They are sorted by file name, as strings, within a class for train, over all for val and test. Targets are positions
    in the sorted wnids (NO_LABEL for test); boxes are (N, 4) int64, the corners x0 y0 x1 y1 in pixels as the files give
    them, or None for test and for copies of val without its annotations.
    Decodes no image, so it takes well under a second for Tiny-ImageNet. Raises TinyclfError naming the files at fault.
    """
    read = {"train": _read_train, "val": _read_val, "test": _read_test}[split]
    return read(source, layout, classes)


def read_own(source: Source, split: str) -> tuple[list[str], Split]:
    """The sorted classes of own images, the folders in train, and a split: all files in those. Raises TinyclfError."""
    train, val = source.names("train"), source.names("val")
    _demand(source, bool(train and val), "it needs images in train/CLASS/* and in val/CLASS/*")
    _refuse(source, "not in the folder of a class are", [name for name in train + val if name.count("/") < 2])
    classes = sorted(set(map(_folder, train)))
    _refuse(source, "images in val, and none in train, have the classes", set(map(_folder, val)) - set(classes))
    names = source.names(split)
    return classes, (names, [classes.index(_folder(name)) for name in names], None)


def _read_train(source: Source, layout: Layout, classes: list[str]) -> Split:
    by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
    for name in _images(source, "train"):
        by_class.setdefault(_folder(name), []).append(name)
    rows = [row for wnid in classes for row in _table(source, f"train/{wnid}/{wnid}_boxes.txt", by_class[wnid], 5)]
    names = [name for members in by_class.values() for name in members]
    return names, _targets(source, "train", layout.train, classes, list(map(_folder, names))), _corners(rows)


def _read_val(source: Source, layout: Layout, classes: list[str]) -> Split:
    """Classes and boxes are those of val_annotations.txt; where a sorted copy lacks it, classes are the folders."""
    images = _images(source, "val")
    official = [name for name in images if _folder(name) == "images"]
    names, boxes = official or images, None
    wnids = list(map(_folder, names))
    if official or not images or VAL_TABLE in source.names("val"):
        rows = _table(source, VAL_TABLE, names, 6)
        wnids, boxes = [row[1] for row in rows], _corners(rows)
    return names, _targets(source, "val", layout.val, classes, wnids), boxes


def _read_test(source: Source, layout: Layout, classes: list[str]) -> Split:
    names, count = _images(source, "test"), layout.classes * layout.test
    _demand(source, len(names) == count, f"test/images has {len(names):,} images instead of {count:,}")
    return names, [NO_LABEL] * len(names), None


def _targets(source: Source, split: str, count: int, classes: list[str], wnids: list[str]) -> list[int]:
    """The place in `classes` of each of `wnids`, the images' classes: all of them, `count` times each."""
    counts, index = Counter(wnids), {wnid: target for target, wnid in enumerate(classes)}
    uneven = [wnid for wnid in {*classes, *counts} if counts[wnid] != (count if wnid in index else 0)]
    fault = f"{split} does not have {count} images of each class of wnids.txt, and no others"
    _refuse(source, fault, [f"{wnid} ({counts[wnid]})" for wnid in uneven])
    return [index[wnid] for wnid in wnids]


def _table(source: Source, table: str, names: list[str], columns: int) -> list[list[str]]:
    """The rows of an annotation file in the order of `names`, the images that it must list, each of them once.

    A copy may have given its files other endings than the annotations: names are compared without.
    """
    rows = [line.split("\t") for line in _lines(source, table)]
    broken = [row[0] for row in rows if len(row) != columns or not all(map(CORNER.fullmatch, row[-4:]))]
    _refuse(source, f"{table} has lines that cannot be read, those of", broken)
    listed, there = Counter(_stem(row[0]) for row in rows), Counter(map(_stem, names))
    uneven = [f"{stem} ({listed[stem]})" for stem in listed | there if listed[stem] != there[stem]]
    _refuse(source, f"{table} does not list each image that is there once, and no others", uneven)
    by_stem = {_stem(row[0]): row for row in rows}
    return [by_stem[_stem(name)] for name in names]


def _corners(rows: list[list[str]]) -> np.ndarray:
    return np.array([row[-4:] for row in rows], np.int64)


def _folder(name: str) -> str:
    """The folder in that of the split: in train, and in a sorted val, the class."""
    return name.split("/")[1]


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _file_name(name).rpartition(".")[0]


def _images(source: Source, folder: str) -> list[str]:
    names = [name for name in source.names(folder) if name.lower().endswith((".jpeg", ".jpg"))]
    return sorted(names, key=_file_name)


def _lines(source: Source, name: str) -> list[str]:
    """The lines of a text file that are not blank; of what Unicode has for line ends, only those of files end them."""
    text = source.read(name).decode("utf-8-sig", errors="replace")
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _refuse(source: Source, fault: str, culprits: Collection[str]) -> None:
    """Raises TinyclfError with the first three culprits and how many more there are, if there are any."""
    first = ", ".join(name[:100] for name in sorted(culprits)[:3])
    rest = f" and {len(culprits) - 3:,} more" if len(culprits) > 3 else ""
    _demand(source, not culprits, f"{fault}: {first}{rest}")


def _demand(source: Source, good: bool, fault: str) -> None:
    if not good:
        remedy = "Put back what is missing, or replace the whole set."
        raise TinyclfError(f"The data set in {source.path} is not complete: {fault}. {remedy}")
