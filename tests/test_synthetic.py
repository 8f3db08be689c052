"""The synthetic data set: the official layout, true boxes, the same bytes every time, whole or not there at all."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyclf.data import synthetic
from tinyclf.data.registry import MINI
from tinyclf.data.tiny_imagenet import TinyImageNet


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_dataset(MINI, tmp_path_factory.mktemp("synthetic"))


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_layout_is_the_official_one(root: Path) -> None:
    wnids = [row[0] for row in lines(root / "wnids.txt")]
    assert wnids != sorted(wnids)  # as in the official file: a reader that forgets to sort must fail here
    assert sorted(path.name for path in root.iterdir()) == ["test", "train", "val", "wnids.txt", "words.txt"]
    for split in ("train", "val", "test"):
        data = TinyImageNet(root, split, layout=MINI)  # which checks all names, numbers and classes
        assert sorted(data.classes) == sorted(wnids)


def test_annotations_are_those_of_the_drawing(root: Path) -> None:
    """Every image of val, drawn again: the file shows it, and its box is what PIL finds around the mask."""
    modes = []
    for name, wnid, *corners in lines(root / "val" / "val_annotations.txt"):
        kind = synthetic.class_table()[wnid]
        image, mask = synthetic.draw_image(*kind, synthetic._generator(name, *kind))
        rows, columns = np.nonzero(mask)
        assert [int(corner) for corner in corners] == [columns.min(), rows.min(), columns.max(), rows.max()]
        with Image.open(root / "val" / "images" / name) as shown:
            modes.append((shown.mode, shown.format, shown.size))
            redrawn = np.asarray(Image.fromarray(image).convert(shown.mode), float)
            assert np.abs(np.asarray(shown) - redrawn).mean() < 12  # what JPEG loses, mostly of the noise
    assert {*modes} == {(mode, "JPEG", (64, 64)) for mode in ("RGB", "L")}
    assert [mode for mode, *_ in modes].count("L") == len(modes) / 50


def test_pixels_are_those_of_this_version() -> None:
    """Before JPEG, so whatever the Pillow. Where this fails on purpose, raise VERSION and write down the new digest."""
    total = hashlib.sha256()
    for kind in synthetic.class_table().values():
        total.update(synthetic.draw_image(*kind, synthetic._generator("pinned", *kind))[0].tobytes())
    assert (synthetic.VERSION, total.hexdigest()[:16]) == (4, "a244223652315d66")


def test_pretraining_has_other_classes_of_the_same_families() -> None:
    own, other = synthetic.class_table("mini"), synthetic.class_table("mini-pretrain")
    assert (len(own), len(other)) == (MINI.classes, synthetic.PRETRAIN.classes)
    assert not own.keys() & other.keys()
    assert not set(own.values()) & set(other.values())
    for part in (0, 1):  # shapes, then textures: none of them gives a class away
        names = [kind[part] for kind in own.values()]
        assert min(names.count(name) for name in names) >= 2
        assert set(names) <= {kind[part] for kind in other.values()}
