"""A folder of own images against PIL: what is packed, under which name, and what is refused."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from tinyclf import Settings, load_data
from tinyclf.data import cache
from tinyclf.data.registry import dataset_info, folder_name
from tinyclf.utils.errors import TinyclfError

TALL, WIDE = (80, 120), (200, 64)


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Smooth images: two classes, of which one has a file of 64x64 and one turned by its EXIF."""
    monkeypatch.setattr(cache.paths, "data_dirs", lambda: [tmp_path / "data"])
    rng = np.random.default_rng(0)
    for split, names in (("train", ("cat/1.png", "cat/2.bmp", "dog/deep/1.png")), ("val", ("dog/a.png", "cat/b.png"))):
        for name, (width, height) in zip(names, (TALL, WIDE, (64, 64)), strict=False):
            path = tmp_path / "pets" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = 6 if name == "dog/a.png" else 1  # turned to the right
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, exif=exif)
    (tmp_path / "pets/val/.DS_Store").touch()
    return tmp_path / "pets"


def middle(path):
    return ImageOps.fit(Image.open(path).convert("RGB"), (64, 64), Image.Resampling.BICUBIC)


def test_their_middle_is_packed_at_64x64_and_anew_when_the_folder_changes(pets, tmp_path, monkeypatch):
    data = load_data(str(pets))
    assert data.name == str(pets) and data.classes == data.class_names == ["cat", "dog"]
    assert data.train.labels.tolist() == [0, 0, 1] and data.val.labels.tolist() == [0, 1]
    for image, name in zip(data.train.images, ("cat/1.png", "cat/2.bmp", "dog/deep/1.png"), strict=True):
        assert np.array_equal(image, middle(pets / "train" / name))
    turned = middle(pets / "val/dog/a.png").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(data.val.images[1], turned)
    assert np.array_equal(data.train.images[2], Image.open(pets / "train/dog/deep/1.png"))
    assert not list(pets.parent.glob("pets.packed")) and (tmp_path / "data/pets.packed").is_dir()
    Image.new("RGBA", (10, 30), (255, 0, 0, 0)).save(pets / "train/dog/x.png")
    changed = load_data(str(pets))
    assert changed.identity != data.identity and (changed.train.images[3] == 255).all()  # what is transparent is white
    monkeypatch.chdir(tmp_path)
    assert load_data("pets").identity == changed.identity and load_data("./pets/", hold_out=True).hold_out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pets: shutil.move(pets / "train/dog", pets / "val/fox"), r"in val, and none in train.*: dog, fox"),
        (lambda pets: shutil.rmtree(pets / "val"), r"needs images in train/CLASS"),
        (lambda pets: (pets / "train/list.csv").touch(), r"not in the folder of a class are: train/list\.csv"),
        (lambda pets: (pets / "train/cat/a.txt").touch(), r"1 of (.|\n)*train/cat/a\.txt in .*no JPEG or PNG"),
        (lambda pets: os.truncate(pets / "val/cat/b.png", 500), r"1 of (.|\n)*val/cat/b\.png in .*not a whole PNG"),
        (shutil.rmtree, r"no folder /.*pets, which should hold train/CLASS"),
    ],
)
def test_what_is_wrong_is_named(pets, change, said):
    change(pets)
    with pytest.raises(TinyclfError, match=said):
        load_data(str(pets))


def test_a_path_is_a_data_set_with_a_name_for_its_pages(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("pets", "./pets", "pets/", "pets/train/.."):
        info = dataset_info(path)
        assert (info.name, info.own, info.input_size, info.batch_size) == (str(pets), True, 64, 10)
        assert folder_name(path) == "pets" and Settings(dataset=path).dataset == str(pets)
    for number in range(997):
        (pets / f"train/{number}").touch()
    assert dataset_info("pets").batch_size == 25
    assert folder_name("mini") == "mini" and not dataset_info("mini").own
    (tmp_path / "mini").mkdir()
    for path in ("./mini", "pets/.hidden"):
        with pytest.raises(TinyclfError, match="its pages go by its folder's name"):
            folder_name(path)
    for name in ("minni", ""):
        with pytest.raises(TinyclfError, match=r"did you mean mini|expected one of mini"):
            dataset_info(name)
