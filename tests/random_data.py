"""A few random images of a few classes, for runs whose accuracy does not matter."""

import numpy as np

from tinyclf.data.cache import Packed, PackedSplit


def data(classes=4):
    rng = np.random.default_rng(0)
    splits = [
        PackedSplit(rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8), rng.integers(0, classes, count))
        for count in (20, 12)
    ]
    words = [f"word {number}" for number in range(classes)]
    return Packed("mini", list("abcdefgh")[:classes], words, "fingerprint", *splits)
