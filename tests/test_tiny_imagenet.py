"""TinyImageNet against torchvision's ImageFolder and PIL, from folder and zip, whole and damaged."""

import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tinyclf.data.archive import fingerprint
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.errors import TinyclfError


def roots(small) -> list[Path]:
    return [small.folder, small.folder.parent, small.zip, small.zip.parent]


def test_train_is_what_torchvision_reads(small):
    expected = ImageFolder(small.folder / "train")
    for root in roots(small):
        data = TinyImageNet(root, "train", layout=small.layout)
        for name in ("classes", "class_to_idx", "targets"):
            assert getattr(data, name) == getattr(expected, name)
        assert [small.folder / name for name, _ in data.samples] == [Path(name) for name, _ in expected.samples]
        for (image, target), (expected_image, expected_target) in zip(data, expected, strict=True):
            assert image.mode == "RGB" and target == expected_target and type(target) is int
            assert np.array_equal(image, expected_image)


def test_boxes_and_val_labels_are_those_of_the_files(small):
    val = TinyImageNet(small.zip, "val", layout=small.layout)
    rows = [line.split("\t") for line in (small.folder / "val/val_annotations.txt").read_text().splitlines()]
    by_name = {row[0]: row for row in rows}
    assert [name for name, _ in val.samples] == sorted(f"val/images/{name}" for name in by_name)
    for (name, target), box in zip(val.samples, val.boxes, strict=True):
        row = by_name[Path(name).name]
        assert val.classes[target] == row[1] and box.tolist() == [int(field) for field in row[2:]]
    train = TinyImageNet(small.zip, "train", layout=small.layout)
    assert train.boxes.shape == (48, 4) and train.boxes.dtype == np.int64
    name, target = train.samples[17]
    wnid = train.classes[target]
    boxes = (small.folder / f"train/{wnid}/{wnid}_boxes.txt").read_text()
    assert "\t".join([Path(name).name, *map(str, train.boxes[17].tolist())]) + "\n" in boxes


def test_workers_read_from_a_zip_what_one_process_reads(small):
    data = TinyImageNet(small.zip, "train", v2.PILToTensor(), layout=small.layout)
    expected = torch.stack([data[index][0] for index in range(len(data))])  # opens the zip before the fork
    loader = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context="fork")
    images, targets = (torch.cat(part) for part in zip(*loader, strict=True))
    assert torch.equal(images, expected) and targets.tolist() == data.targets
    assert torch.equal(pickle.loads(pickle.dumps(data))[3][0], expected[3])  # as for workers that are spawned


def test_hidden_files_do_not_count(small):
    (small.folder / "val/images/.DS_Store").touch()
    (small.folder / "val/images/._val_0.JPEG").touch()
    assert len(TinyImageNet(small.folder, "val", layout=small.layout)) == 12
    with zipfile.ZipFile(small.zip, "a") as opened:
        opened.writestr("small/val/images/._val_0.JPEG", b"")
        opened.writestr("__MACOSX/small/val/images/._val_0.JPEG", b"")
    assert len(TinyImageNet(small.zip, "val", layout=small.layout)) == 12


def test_fingerprint_changes_with_names_sizes_and_times(small):
    image = small.folder / "val/images/val_0.JPEG"
    seen, stat = {fingerprint(small.folder)}, image.stat()
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    seen.add(fingerprint(small.folder))
    image.write_bytes(image.read_bytes() + b"x")
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seen.add(fingerprint(small.folder))
    image.rename(image.with_name("val_00.JPEG"))
    assert len({*seen, fingerprint(small.folder)}) == 4


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("".join(f"{line}\n" for line in change(lines)))

    return apply


ANNOTATIONS = "val/val_annotations.txt"
BOXES = "train/n02/n02_boxes.txt"
DAMAGES = [
    ("train", remove("train/n02/images/n02_7.JPEG"), "each image that is there once, and no others: n02_7 (1)"),
    ("train", lambda folder: shutil.copytree(folder / "train/n02", folder / "train/n77"), "and no others: n77 (12)"),
    ("train", remove(BOXES), "n02_boxes.txt in "),
    ("train", edit(BOXES, lambda lines: [lines[0], lines[1][:-3], *lines[2:]]), "cannot be read, those of: n02_1.JPEG"),
    ("train", edit(BOXES, lambda lines: [*lines, lines[0]]), "and no others: n02_0 (2)"),
    ("val", edit(ANNOTATIONS, lambda lines: [lines[0].replace("n03", "n55"), *lines[1:]]), "n03 (2), n55 (1)"),
    ("val", lambda folder: shutil.rmtree(folder / "val/images"), "val_0 (1), val_1 (1), val_10 (1) and 9 more"),
    ("test", remove("test/images/test_1.JPEG"), "test/images has 7 images instead of 8"),
    ("test", edit("words.txt", lambda lines: lines[2:]), "words.txt has no words for: n01"),
    ("test", edit("wnids.txt", lambda lines: lines[1:]), "wnids.txt has 3 classes instead of 4"),
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


def test_the_folder_within_a_zip_and_its_name_do_not_matter(small, tmp_path):
    path = tmp_path / "any name.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        for file in sorted(small.folder.rglob("*")):
            opened.write(file, f"deep/er/{file.relative_to(small.folder)}")
    data, expected = (TinyImageNet(p, "val", layout=small.layout) for p in (path, small.folder))
    assert data.samples == expected.samples
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(data, expected, strict=True))


@pytest.mark.parametrize("cut", [1, 400])
def test_a_jpeg_cut_short_is_named_where_pil_is_told_to_be_lenient(small, monkeypatch, cut):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = small.folder / "val/images/val_5.JPEG"
    os.truncate(path, path.stat().st_size - cut)
    data = TinyImageNet(small.folder, "val", layout=small.layout)
    with pytest.raises(TinyclfError, match=r"val/images/val_5\.JPEG in .*(cut short|not a whole JPEG)"):
        data[[name for name, _ in data.samples].index("val/images/val_5.JPEG")]


def test_check_names_every_bad_image(small):
    data = TinyImageNet(small.folder, "val", layout=small.layout)
    data.check()
    Image.new("RGB", (63, 64)).save(small.folder / "val/images/val_2.JPEG", "JPEG")
    Image.new("RGB", (64, 64)).save(small.folder / "val/images/val_7.JPEG", "PNG")
    (small.folder / "val/images/val_9.JPEG").write_bytes(b"")
    with pytest.raises(TinyclfError, match="3 of the images cannot be used") as error:
        data.check()
    for part in ("val_2.JPEG", "63x64", "val_7.JPEG", "it is a PNG and no JPEG", "val_9.JPEG"):
        assert part in str(error.value)
