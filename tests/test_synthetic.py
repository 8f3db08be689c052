"""The synthetic data set: the official layout, true boxes, the same bytes every time, whole or not there at all."""

import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyclf.data import synthetic
from tinyclf.data.registry import MINI, Layout
from tinyclf.utils.errors import TinyclfError

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


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


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


@pytest.mark.parametrize("shape", synthetic.SHAPES)
def test_mask_is_where_the_texture_shows(shape: str) -> None:
    """Only the object differs between two drawings that differ in texture alone."""
    for seed in range(10):
        one, mask = synthetic.draw_image(shape, "striped", np.random.default_rng(seed))
        other, same_mask = synthetic.draw_image(shape, "checkered", np.random.default_rng(seed))
        changed = np.any(one != other, axis=2)
        assert np.array_equal(mask, same_mask)
        x0, y0, x1, y1 = np.array(Image.fromarray(mask).getbbox()) - [0, 0, 1, 1]
        rows, columns = np.nonzero(changed)
        edges = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
        assert np.abs(edges - [x0, y0, x1, y1]).max() <= 3  # a sharp tip fades out over three pixels
        assert changed[mask].mean() > 0.9


def test_pixels_are_those_of_this_version() -> None:
    """Before JPEG, so whatever the Pillow. Where this fails on purpose, raise VERSION and write down the new digest."""
    total = hashlib.sha256()
    for kind in synthetic.class_table().values():
        total.update(synthetic.draw_image(*kind, synthetic._generator("pinned", *kind))[0].tobytes())
    assert (synthetic.VERSION, total.hexdigest()[:16]) == (4, "a244223652315d66")


def test_same_bytes_every_time(root: Path, tmp_path: Path) -> None:
    np.random.seed(1)
    assert digest(synthetic.make_dataset(MINI, tmp_path)) == digest(root)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    write, written = synthetic._write_image, []

    def write_some(path: Path, *arguments: object) -> str:
        written.append(path)
        if len(written) == 30:
            raise stop
        return write(path, *arguments)

    monkeypatch.setattr(synthetic, "_write_image", write_some)
    expected = TinyclfError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(stop, OSError) else None):
        synthetic.make_dataset(FEW, tmp_path)
    assert len(written) == 30
    assert [path.name for path in tmp_path.iterdir()] == [".mini.lock"]


def test_pretraining_has_other_classes_of_the_same_families() -> None:
    own, other = synthetic.class_table("mini"), synthetic.class_table("mini-pretrain")
    assert (len(own), len(other)) == (MINI.classes, synthetic.PRETRAIN.classes)
    assert not own.keys() & other.keys()
    assert not set(own.values()) & set(other.values())
    for part in (0, 1):  # shapes, then textures: none of them gives a class away
        names = [kind[part] for kind in own.values()]
        assert min(names.count(name) for name in names) >= 2
        assert set(names) <= {kind[part] for kind in other.values()}


def test_mean_colour_does_not_tell_the_class(root: Path) -> None:
    """A linear classifier on the mean and standard deviation of each channel stays near chance (0.1)."""

    def features(paths: list[Path]) -> np.ndarray:
        images = np.stack([pixels(path) for path in paths]).reshape(len(paths), -1, 3) / 255
        return np.hstack([images.mean(axis=1), images.std(axis=1), np.ones((len(paths), 1))])

    wnids = sorted(row[0] for row in lines(root / "wnids.txt"))
    train = [path for wnid in wnids for path in (root / "train" / wnid / "images").iterdir()]
    one_hot = np.repeat(np.eye(len(wnids)), MINI.train, axis=0)
    weights, *_ = np.linalg.lstsq(features(train), one_hot, rcond=None)
    annotated = lines(root / "val" / "val_annotations.txt")
    scores = features([root / "val" / "images" / row[0] for row in annotated]) @ weights
    assert np.mean([wnids[best] == row[1] for best, row in zip(scores.argmax(1), annotated, strict=True)]) < 0.3
