"""TinyImageNet against ImageFolder and PIL, from folder and zip, whole and damaged; and the synthetic set."""

import hashlib
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tinyclf.data import synthetic
from tinyclf.data.archive import fingerprint
from tinyclf.data.registry import MINI
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.errors import TinyclfError


def test_train_is_what_torchvision_reads(small):
    expected = ImageFolder(small.folder / "train")
    for root in (small.folder, small.folder.parent, small.zip, small.zip.parent):
        data = TinyImageNet(root, "train", layout=small.layout)
        for name in ("classes", "class_to_idx", "targets"):
            assert getattr(data, name) == getattr(expected, name)
        assert [small.folder / name for name, _ in data.samples] == [Path(name) for name, _ in expected.samples]
        for (image, target), (expected_image, expected_target) in zip(data, expected, strict=True):
            assert image.mode == "RGB" and target == expected_target and type(target) is int
            assert np.array_equal(image, expected_image)


def test_boxes_and_val_labels_are_those_of_the_files(small):
    val = TinyImageNet(small.zip, "val", layout=small.layout)
    lines = (small.folder / "val/val_annotations.txt").read_text().splitlines()
    rows = dict(line.split("\t", 1) for line in lines)
    assert [name for name, _ in val.samples] == sorted(f"val/images/{name}" for name in rows)
    for (name, target), box in zip(val.samples, val.boxes, strict=True):
        assert "\t".join([val.classes[target], *map(str, box.tolist())]) == rows[Path(name).name]
    train = TinyImageNet(small.zip, "train", layout=small.layout)
    assert train.boxes.shape == (48, 4) and train.boxes.dtype == np.int64
    name, target = train.samples[17]
    boxes = (small.folder / f"train/{train.classes[target]}/{train.classes[target]}_boxes.txt").read_text()
    assert "\t".join([Path(name).name, *map(str, train.boxes[17].tolist())]) + "\n" in boxes


def test_workers_read_from_a_zip_what_one_process_reads(small):
    data = TinyImageNet(small.zip, "train", v2.PILToTensor(), layout=small.layout)
    expected = torch.stack([data[index][0] for index in range(len(data))])  # opens the zip before the fork
    loader = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context="fork")
    images, targets = (torch.cat(part) for part in zip(*loader, strict=True))
    assert torch.equal(images, expected) and targets.tolist() == data.targets
    assert torch.equal(pickle.loads(pickle.dumps(data))[3][0], expected[3])  # as for workers that are spawned


def test_hidden_files_do_not_count(small):
    (small.folder / "val/images/._val_0.JPEG").touch()
    with zipfile.ZipFile(small.zip, "a") as opened:
        opened.writestr("__MACOSX/small/val/images/._val_0.JPEG", b"")
    for root in (small.folder, small.zip):
        assert len(TinyImageNet(root, "val", layout=small.layout)) == 12


def test_fingerprint_changes_with_names_sizes_and_times(small):
    image = small.folder / "val/images/val_0.JPEG"
    seen, time = {fingerprint(small.folder)}, image.stat().st_mtime_ns
    for size, when in ((0, time + 1), (1, time)):
        image.write_bytes(image.read_bytes() + bytes(size))
        os.utime(image, ns=(time, when))
        seen.add(fingerprint(small.folder))
    image.rename(image.with_name("val_00.JPEG"))
    assert len({*seen, fingerprint(small.folder)}) == 4


def remove(name):
    return lambda folder: (folder / name).unlink()


def edit(name, pattern, by):
    def apply(folder):
        path = folder / name
        path.write_text(re.sub(pattern, by, path.read_text(), count=1))

    return apply


BOXES = "train/n02/n02_boxes.txt"
DAMAGES = [
    ("train", remove("train/n02/images/n02_7.JPEG"), "each image that is there once, and no others: n02_7 (1)"),
    ("train", lambda folder: shutil.copytree(folder / "train/n02", folder / "train/n77"), "and no others: n77 (12)"),
    ("train", remove(BOXES), "n02_boxes.txt in "),
    ("train", edit(BOXES, r"n02_1\.JPEG\t", "n02_1.JPEG "), "cannot be read, those of: n02_1.JPEG"),
    ("train", edit(BOXES, r"(n02_0.*\n)", r"\1\1"), "and no others: n02_0 (2)"),
    ("val", edit("val/val_annotations.txt", "n03", "n55"), "n03 (2), n55 (1)"),
    ("test", remove("test/images/test_1.JPEG"), "test/images has 7 images instead of 8"),
    ("test", edit("words.txt", "n01", "n98"), "words.txt has no words for: n01"),
    ("test", edit("wnids.txt", r".*\n", ""), "wnids.txt has 3 classes instead of 4"),
    ("test", remove("wnids.txt"), "small holds neither the folder small nor small.zip"),
    ("valid", lambda folder: None, "'valid'"),
]


@pytest.mark.parametrize("split, damage, expected", DAMAGES)
def test_what_is_wrong_is_named(small, split, damage, expected):
    damage(small.folder)
    with pytest.raises(TinyclfError, match=re.escape(expected)):
        TinyImageNet(small.folder, split, layout=small.layout)


def test_a_damaged_member_is_named(small):
    data = TinyImageNet(small.zip, "train", layout=small.layout)
    name = data.samples[20][0]
    with zipfile.ZipFile(small.zip) as opened:
        info = opened.getinfo(f"small/{name}")
    with small.zip.open("r+b") as file:
        file.seek(info.header_offset + 200)
        file.write(b"\0\0\0\0")
    with pytest.raises(TinyclfError, match=rf"{name} in .*small\.zip cannot be read"):
        data[20]
    data[19]
    os.truncate(small.zip, small.zip.stat().st_size - 1000)
    with pytest.raises(TinyclfError, match=r"small\.zip .*not a whole zip.*Remove it"):
        TinyImageNet(small.zip, layout=small.layout)


def test_check_names_every_bad_image(small):
    data = TinyImageNet(small.folder, "val", layout=small.layout)
    data.check()
    Image.new("RGB", (63, 64)).save(small.folder / "val/images/val_2.JPEG", "JPEG")
    Image.new("RGB", (64, 64)).save(small.folder / "val/images/val_7.JPEG", "PNG")
    (small.folder / "val/images/val_9.JPEG").write_bytes(b"")
    with pytest.raises(TinyclfError, match="3 of the images cannot be used") as error:
        data.check()
    for part in ("val_2.JPEG", "63x64", "val_7.JPEG", "it is no JPEG", "val_9.JPEG"):
        assert part in str(error.value)


def test_annotations_are_those_of_the_drawing(tmp_path):
    """Every image of val, drawn again: the file shows it, and its box is what NumPy finds around the mask."""
    root, modes = synthetic.make_dataset(MINI, tmp_path), []
    words = [line.split("\t") for line in (root / "words.txt").read_text().splitlines()]
    letters = {wnid: text[-1] for wnid, text in words}  # of mini's classes and the others
    assert len(letters) == len({*letters.values()}) == MINI.classes + synthetic.PRETRAIN.classes
    for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid, *corners = line.split("\t")
        letter = letters[wnid]
        image, mask = synthetic.draw_image(letter, synthetic._generator(name, letter))
        rows, columns = np.nonzero(mask)
        assert [int(corner) for corner in corners] == [columns.min(), rows.min(), columns.max(), rows.max()]
        with Image.open(root / "val" / "images" / name) as shown:
            modes.append((shown.mode, shown.format, shown.size))
            redrawn = np.asarray(Image.fromarray(image).convert(shown.mode), float)
            assert np.abs(np.asarray(shown) - redrawn).mean() < 12  # what JPEG loses, mostly of the noise
    assert {*modes} == {(mode, "JPEG", (64, 64)) for mode in ("RGB", "L")}
    assert [mode for mode, *_ in modes].count("L") == len(modes) / 50


@pytest.mark.skipif(PIL.__version__ != "13.0.0", reason="letters are drawn by Pillow: other versions, other pixels")
def test_pixels_are_those_of_this_version():
    """Where this fails on purpose, raise VERSION and write down the new digest."""
    pictures = [synthetic.draw_image(each, synthetic._generator("pinned", each))[0] for each in ascii_uppercase]
    assert (synthetic.VERSION, hashlib.sha256(np.stack(pictures)).hexdigest()[:16]) == (5, "3721b443f598acce")
