"""Properties of a data set, counted from its files: the published properties table and the channel statistics."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tinyclf.data.annotations import SPLITS
from tinyclf.data.registry import NORMALIZATIONS, TINY_IMAGENET, Layout
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.lazy import pd

# Tiny-ImageNet's properties by the README of the published project.
PUBLISHED = {
    "classes": 200,
    "training images a class": 500,
    "validation images a class": 50,
    "test images a class": 50,
    "image shape": "(64, 64, 3)",
}
PUBLISHED_STATISTICS = dict(
    zip(("mean, published", "standard deviation, published"), NORMALIZATIONS["tiny-imagenet"], strict=True)
)


def properties(splits: dict[str, TinyImageNet], layout: Layout, images: np.ndarray) -> pd.DataFrame:
    """The published properties, counted; for Tiny-ImageNet itself with a column of the published values.

    splits: the data sets by split; images: uint8 (N, 64, 64, 3), whose shape is in the table.
    """
    classes = len(splits["train"].classes)
    sizes = {name: len(splits[name]) / classes for name in SPLITS}
    counted = {
        "classes": classes,
        "training images a class": f"{sizes['train']:g}",
        "validation images a class": f"{sizes['val']:g}",
        "test images a class": f"{sizes['test']:g}",
        "image shape": str(images.shape[1:]),
        "images in all": f"{sum(map(len, splits.values())):,}",
        "of these greyscale files, read as RGB": f"{sum(map(greyscale, splits.values())):,}",
    }
    table = pd.DataFrame({"counted": counted}).astype(str)
    if layout == TINY_IMAGENET:
        table.insert(0, "published", pd.Series(PUBLISHED).astype(str))
    return table.fillna("")


def greyscale(split: TinyImageNet) -> int:
    """How many files of a split are greyscale; reads their headers only."""
    return sum(Image.open(io.BytesIO(split.source.read(name))).mode == "L" for name, _ in split.samples)


def channel_statistics(images: np.ndarray, layout: Layout) -> pd.DataFrame:
    """Mean and standard deviation (population) of each channel over all pixels, on the scale 0..1.

    images: uint8 (N, H, W, 3), read in parts and counted by value, so that nothing is rounded on the way. For
    Tiny-ImageNet itself, two more rows have the published values.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), 1000):
        part = images[start : start + 1000]
        counts += [np.bincount(part[..., channel].ravel(), minlength=256) for channel in range(3)]
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    square = counts @ values**2 / counts.sum(1)
    rows: dict[str, np.ndarray | tuple[float, ...]] = {"mean": mean, "standard deviation": np.sqrt(square - mean**2)}
    if layout == TINY_IMAGENET:
        rows |= PUBLISHED_STATISTICS
    return pd.DataFrame.from_dict(rows, orient="index", columns=["red", "green", "blue"])
