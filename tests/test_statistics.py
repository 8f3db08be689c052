"""Channel statistics and counts against NumPy's own and against the files."""

import numpy as np
import pandas as pd
from PIL import Image

from tinyclf.data.annotations import SPLITS
from tinyclf.data.registry import TINY_IMAGENET, Layout
from tinyclf.data.statistics import channel_statistics, properties
from tinyclf.data.tiny_imagenet import TinyImageNet


def test_channel_statistics_are_numpys_whatever_the_number_of_images():
    images = np.random.default_rng(0).integers(0, 256, (2345, 4, 4, 3), dtype=np.uint8)
    table = channel_statistics(images, Layout("small", 4, 12, 3, 2))
    assert list(table.index) == ["mean", "standard deviation"]
    assert len(channel_statistics(images, TINY_IMAGENET)) == 4
    np.testing.assert_allclose(table.loc["mean"], (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(table.loc["standard deviation"], (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_properties_are_counted_from_the_files(small_set):
    splits = {split: TinyImageNet(small_set.folder, split, layout=small_set.layout) for split in SPLITS}

    table = properties(splits, small_set.layout, np.zeros((48, 64, 64, 3), np.uint8))
    grey = sum(Image.open(path).mode == "L" for path in small_set.folder.rglob("*.JPEG"))
    assert grey > 0
    expected = {
        "classes": "4",
        "training images a class": "12",
        "validation images a class": "3",
        "test images a class": "2",
        "image shape": "(64, 64, 3)",
        "images in all": "68",
        "of these greyscale files, read as RGB": str(grey),
    }
    pd.testing.assert_series_equal(table["counted"], pd.Series(expected, name="counted"), check_dtype=False)
