"""Files of a data set that are hostile, odd or damaged: any bytes give a data set or a TinyclfError, and no hang."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinyclf.data.annotations import SPLITS, read_classes, read_split
from tinyclf.data.archive import Source, fingerprint
from tinyclf.data.tiny_imagenet import TinyImageNet, decode, decode_any
from tinyclf.utils.errors import TinyclfError

TEXTS = ("wnids.txt", "words.txt", "val/val_annotations.txt", "train/n02/n02_boxes.txt")
few = settings(
    max_examples=100, deadline=1000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PIECES = st.binary(max_size=8) | st.sampled_from([b"\t", b"\n", b"\r", b"n02", b"-1", b"9" * 30, "\u2028".encode()])
# Bytes replaced, put in or taken out, each as place, length and what is there instead; or any bytes instead of all
EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 4), PIECES), min_size=1, max_size=5)
EDITS |= st.binary(max_size=300).map(lambda data: [(0, 1 << 16, data)])


def edited(data, edits):
    changed = bytearray(data)
    for start, length, fresh in edits:
        start %= len(changed) + 1
        changed[start : start + length] = fresh
    return bytes(changed)


def test_a_file_that_cannot_be_read_is_named(small, monkeypatch):
    """A link to nowhere, and a folder that may not be read: root may read any, so the refusal is made up."""
    image = small.folder / "train/n02/images/n02_3.JPEG"
    image.unlink()
    image.symlink_to("nowhere")
    with pytest.raises(TinyclfError, match=r"n02_3.JPEG cannot be read: No such file"):
        fingerprint(small.folder)
    with pytest.raises(TinyclfError, match=r"n02_3.JPEG in .* cannot be read: No such file"):
        TinyImageNet(small.folder, layout=small.layout).check()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("n02/images"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TinyclfError, match=r"train/n02/images cannot be read: Permission denied"):
        TinyImageNet(small.folder, layout=small.layout)


def test_links_to_folders_are_followed_and_a_loop_of_them_ends(small, tmp_path):
    expected = TinyImageNet(small.folder, layout=small.layout).samples
    (small.folder / "train").rename(tmp_path / "elsewhere")
    (small.folder / "train").symlink_to(tmp_path / "elsewhere")
    (small.folder / "train/n02/loop").symlink_to("../..")
    assert TinyImageNet(small.folder, layout=small.layout).samples == expected and fingerprint(small.folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(65500, 65500), (10000, 10000), (64, 65), (0, 0)])
def test_an_image_whose_header_says_another_size_is_refused(size):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "JPEG")
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", *size)
    with pytest.raises(ValueError, match=r"it is no JPEG|cannot be decoded|instead of 64x64"):
        decode(bytes(data))


def read_everything(folder, layout):
    source = Source(folder)
    classes, _ = read_classes(source, layout)
    for split in SPLITS:
        for name in read_split(source, layout, split, classes)[0][:1]:
            source.read(name)


@pytest.mark.parametrize("name", TEXTS)
@few
@given(edits=EDITS)
def test_any_bytes_in_a_text_file(small_set, small, name, edits):
    (small.folder / name).write_bytes(edited((small_set.folder / name).read_bytes(), edits))
    try:
        read_everything(small.folder, small.layout)
    except TinyclfError as error:
        assert str(small.folder) in str(error) and len(str(error)) < 5000


def test_text_files_may_be_as_windows_editors_leave_them_and_words_have_any_characters(small):
    words = "a\x85b\u2028c\u2029d\x0ce\x0bf\x1cg\ufeffh"  # for Unicode, or for Python, some of them end a line
    for name in TEXTS:
        text = (small.folder / name).read_text().replace("word n02, other word", words).replace("\n", "\r\n")
        (small.folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    read_everything(small.folder, small.layout)
    assert read_classes(Source(small.folder), small.layout)[1][1] == words


@pytest.mark.parametrize("start", ["", "set/", "a\\b\\", "wnids.txt/"])
def test_names_in_a_zip_may_have_either_separator(tmp_path, start):
    names = ["test/images/test_0.JPEG", "train\\n01\\images\\n01_0.JPEG", "wnids.txt"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as opened:
        for name in names:
            opened.writestr(start + name, name)
    source = Source(tmp_path / "set.zip")
    assert source.files == [name.replace("\\", "/") for name in names]
    assert [source.read(file).decode() for file in source.files] == names


@few
@given(in_directory=st.booleans(), edits=EDITS)
def test_any_bytes_in_a_zip_or_in_the_directory_at_its_end(small_set, tmp_path, in_directory, edits):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("wnids.txt", "words.txt", "train/n02/images/n02_0.JPEG"):
            opened.write(small_set.folder / name, f"small/{name}")
    good = path.read_bytes()
    start = good.index(b"PK\1\2") if in_directory else 0
    path.write_bytes(good[:start] + edited(good[start:], edits))
    try:
        source = Source(path)
        for name in source.names("train"):
            source.read(name)
    except TinyclfError as error:
        assert str(path) in str(error)


@pytest.mark.filterwarnings("ignore")
@few
@given(read=st.sampled_from([decode, decode_any]), edits=EDITS)
def test_any_bytes_as_an_image(small_set, read, edits):
    good = (small_set.folder / "val/images/val_0.JPEG").read_bytes()
    try:
        image = read(edited(good, edits))
    except ValueError as error:
        assert "0x" not in str(error)
        return
    assert image.size == (64, 64) and image.mode == "RGB" and np.asarray(image).shape == (64, 64, 3)
