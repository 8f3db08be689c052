"""A folder of own images against PIL: what is packed, under which name, and what is refused."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tinyclf.data import cache
from tinyclf.data.cache import load_data
from tinyclf.data.registry import dataset_info, folder_name
from tinyclf.experiments.settings import Settings
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
    with Image.open(path) as image:
        width, height = (round(64 * side / min(image.size)) for side in image.size)
        left, top = (width - 64) // 2, (height - 64) // 2
        small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return small.crop((left, top, left + 64, top + 64))


def far_apart(image, expected):
    """How far from the border: there the one or the other looks past it."""
    return np.abs(image.astype(int) - np.asarray(expected))[2:-2, 2:-2].max()


def test_their_middle_is_packed_at_64x64_and_anew_when_the_folder_changes(pets, tmp_path, monkeypatch):
    data = load_data(str(pets))
    assert data.name == str(pets) and data.classes == data.class_names == ["cat", "dog"]
    assert data.train.labels.tolist() == [0, 0, 1] and data.val.labels.tolist() == [0, 1]
    for image, name in zip(data.train.images, ("cat/1.png", "cat/2.bmp", "dog/deep/1.png"), strict=True):
        assert far_apart(image, middle(pets / "train" / name)) <= 1
    turned = middle(pets / "val/dog/a.png").transpose(Image.Transpose.ROTATE_270)
    assert far_apart(data.val.images[1], turned) <= 1
    assert np.array_equal(data.train.images[2], Image.open(pets / "train/dog/deep/1.png"))
    assert not list(pets.parent.glob("pets.packed")) and (tmp_path / "data/pets.packed").is_dir()
    Image.new("RGBA", (10, 30), (255, 0, 0, 0)).save(pets / "train/dog/x.png")
    changed = load_data(str(pets))
    assert changed.identity != data.identity and (changed.train.images[3] == 255).all()  # what is transparent is white
    monkeypatch.chdir(tmp_path)
    assert load_data("pets").identity == changed.identity and load_data("./pets/", hold_out=True).hold_out


def test_settings_have_the_whole_path_wherever_they_are_made(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    assert (
        Settings(dataset="pets").dataset == Settings(dataset="./pets/").dataset == load_data("pets").name == str(pets)
    )


def cut_png(pets):
    (pets / "val/cat/x.JPEG").write_bytes((pets / "val/cat/b.png").read_bytes()[:500])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pets: shutil.move(pets / "train/dog", pets / "val/fox"), r"in val, and none in train.*: dog, fox"),
        (lambda pets: shutil.rmtree(pets / "val"), r"needs images in train/CLASS"),
        (lambda pets: (pets / "train/list.csv").touch(), r"not in the folder of a class are: train/list\.csv"),
        (lambda pets: (pets / "train/cat/a.txt").touch(), r"1 of the images(.|\n)*train/cat/a\.txt in .*formats JPEG"),
        (cut_png, r"1 of the images(.|\n)*val/cat/x\.JPEG in .*not a whole PNG"),
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
        assert folder_name(path) == "pets"
    for number in range(997):
        (pets / f"train/{number}").touch()
    assert dataset_info("pets").batch_size == 25
    assert folder_name("mini") == "mini" and folder_name("/not/there/now") == "now" and not dataset_info("mini").own
    (tmp_path / "mini").mkdir()
    for path in ("./mini", "pets/.hidden"):
        with pytest.raises(TinyclfError, match="its pages go by its folder's name"):
            folder_name(path)
    for name in ("minni", "~nouser/pets", ""):
        with pytest.raises(TinyclfError, match=r"did you mean mini|no home folder|no path"):
            dataset_info(name)
