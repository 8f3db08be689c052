"""The synthetic data set: the official layout, true boxes, the same bytes every time, whole or not there at all."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyclf.data import synthetic
from tinyclf.data.registry import MINI, Layout

FEW = Layout("mini", classes=10, train=2, val=1, test=1)  # 40 images, made in no time


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_dataset(MINI, tmp_path_factory.mktemp("synthetic"))


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"/"))
    return total.hexdigest()


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_layout_is_the_official_one(root: Path) -> None:
    wnids = [row[0] for row in lines(root / "wnids.txt")]
    assert len(set(wnids)) == len(wnids) == MINI.classes
    assert wnids != sorted(wnids)  # as in the official file: a reader that forgets to sort must fail here
    assert sorted(path.name for path in (root / "train").iterdir()) == sorted(wnids)
    for wnid in wnids:
        expected = [f"{wnid}_{i}.JPEG" for i in range(MINI.train)]
        assert [row[0] for row in lines(root / "train" / wnid / f"{wnid}_boxes.txt")] == expected
        assert sorted(path.name for path in (root / "train" / wnid / "images").iterdir()) == sorted(expected)
    annotated = lines(root / "val" / "val_annotations.txt")
    for split, count in (("val", MINI.val), ("test", MINI.test)):
        expected = {f"{split}_{i}.JPEG" for i in range(MINI.classes * count)}
        assert {path.name for path in (root / split / "images").iterdir()} == expected
        assert split == "test" or {row[0] for row in annotated} == expected
    assert sorted(row[1] for row in annotated) == sorted(wnids * MINI.val)
    assert sorted(path.name for path in (root / "test").iterdir()) == ["images"]  # test labels are not public


def test_images_are_64x64_jpegs_and_some_are_greyscale(root: Path) -> None:
    for split in ("train", "val", "test"):
        modes = []
        for path in (root / split).rglob("*.JPEG"):
            with Image.open(path) as image:
                assert (image.format, image.size) == ("JPEG", (64, 64))
                modes.append(image.mode)
        assert set(modes) == {"L", "RGB"}
        assert modes.count("L") <= 0.05 * len(modes)


def test_annotations_are_those_of_the_drawing(root: Path) -> None:
    """Every image of val, drawn again: the file shows it, and its box is what PIL finds around the mask."""
    for name, wnid, *corners in lines(root / "val" / "val_annotations.txt"):
        kind = synthetic.class_table()[wnid]
        image, mask = synthetic.draw_image(*kind, synthetic._generator(name, *kind))
        rows, columns = np.nonzero(mask)
        assert [int(corner) for corner in corners] == [columns.min(), rows.min(), columns.max(), rows.max()]
        with Image.open(root / "val" / "images" / name) as shown:
            redrawn = np.asarray(Image.fromarray(image).convert(shown.mode), float)
            assert np.abs(np.asarray(shown) - redrawn).mean() < 12  # what JPEG loses, mostly of the noise


def test_pixels_are_those_of_this_version() -> None:
    """Before JPEG, so whatever the Pillow. Where this fails on purpose, raise VERSION and write down the new digest."""
    total = hashlib.sha256()
    for kind in synthetic.class_table().values():
        total.update(synthetic.draw_image(*kind, synthetic._generator("pinned", *kind))[0].tobytes())
    assert (synthetic.VERSION, total.hexdigest()[:16]) == (4, "a244223652315d66")


def test_same_bytes_every_time(root: Path, tmp_path: Path) -> None:
    np.random.seed(1)
    assert digest(synthetic.make_dataset(MINI, tmp_path)) == digest(root)


def test_pretraining_has_other_classes_of_the_same_families() -> None:
    own, other = synthetic.class_table("mini"), synthetic.class_table("mini-pretrain")
    assert (len(own), len(other)) == (MINI.classes, synthetic.PRETRAIN.classes)
    assert not own.keys() & other.keys()
    assert not set(own.values()) & set(other.values())
    for part in (0, 1):  # shapes, then textures: none of them gives a class away
        names = [kind[part] for kind in own.values()]
        assert min(names.count(name) for name in names) >= 2
        assert set(names) <= {kind[part] for kind in other.values()}
