"""Files of a data set that are hostile, odd or damaged: any bytes give a data set or a TinyclfError, and no hang."""

import io
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyclf.data.annotations import SPLITS, read_classes, read_split
from tinyclf.data.archive import Source, fingerprint
from tinyclf.data.images import decode, decode_any
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.errors import TinyclfError

few = settings(
    max_examples=100, deadline=1000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def test_a_file_that_cannot_be_read_is_named(small, monkeypatch):
    """A link to nowhere, and a folder that may not be read: root may read any, so the refusal is made up."""
    image = small.folder / "train/n02/images/n02_3.JPEG"
    image.unlink()
    image.symlink_to("nowhere")
    with pytest.raises(TinyclfError, match=r"n02_3.JPEG cannot be read: No such file"):
        fingerprint(small.folder)
    with pytest.raises(TinyclfError, match=r"n02_3.JPEG in .* cannot be read: No such file"):
        TinyImageNet(small.folder, layout=small.layout).check()
    answers = [os.scandir(small.folder), PermissionError(13, "Denied", "x")]
    monkeypatch.setattr(os, "scandir", Mock(side_effect=answers))
    with pytest.raises(TinyclfError, match=r"x cannot be read: Denied"):
        TinyImageNet(small.folder, layout=small.layout)


def test_links_to_folders_are_followed_and_a_loop_of_them_ends(small, tmp_path):
    expected = TinyImageNet(small.folder, layout=small.layout).samples
    (small.folder / "train").rename(tmp_path / "elsewhere")
    (small.folder / "train").symlink_to(tmp_path / "elsewhere")
    (small.folder / "train/n02/loop").symlink_to("../..")
    assert TinyImageNet(small.folder, layout=small.layout).samples == expected and fingerprint(small.folder)


@pytest.fixture(scope="module")
def scratch(small_set, tmp_path_factory) -> Path:
    """A copy of the set to write hostile files into."""
    return shutil.copytree(small_set.folder, tmp_path_factory.mktemp("hostile") / "small")


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with some bytes replaced, put in or taken out; or any bytes."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = bytearray(data)
        for start, length, fresh in edits:
            start %= len(changed) + 1
            changed[start : start + length] = fresh
        return bytes(changed)

    pieces = st.binary(max_size=8) | st.sampled_from([b"\t", b"\n", b"\r", b"n02", b"-1", b"9" * 30, "\u2028".encode()])
    edits = st.tuples(st.integers(0, 1 << 16), st.integers(0, 4), pieces)
    return st.lists(edits, min_size=1, max_size=5).map(apply) | st.binary(max_size=300)


def read_everything(path: Path, layout) -> None:
    source = Source(path)
    classes, _ = read_classes(source, layout)
    for split in SPLITS:
        for name in read_split(source, layout, split, classes).names[:1]:
            source.read(name)


@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt"])
def test_any_bytes_in_a_text_file(small_set, scratch, name):
    good = (small_set.folder / name).read_bytes()

    @few
    @given(mutated(good))
    def check(data: bytes) -> None:
        (scratch / name).write_bytes(data)
        try:
            read_everything(scratch, small_set.layout)
        except TinyclfError as error:
            assert str(scratch) in str(error) and len(str(error)) < 5000

    check()
    (scratch / name).write_bytes(b"\xef\xbb\xbf" + good.replace(b"\n", b"\r\n"))  # as Windows's editors leave it
    read_everything(scratch, small_set.layout)
    (scratch / name).write_bytes(good)


def test_any_bytes_in_a_zip(small_set, tmp_path):
    """Mostly in its directory, which is at its end."""
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("wnids.txt", "words.txt", "train/n02/images/n02_0.JPEG"):
            opened.write(small_set.folder / name, f"small/{name}")
    good = text.getvalue()
    start = good.index(b"PK\1\2")
    directories = mutated(good[start:]).map(lambda data: good[:start] + data) | mutated(good)

    path = tmp_path / "set.zip"

    @few
    @given(directories)
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            source = Source(path)
            for name in source.names("train"):
                source.read(name)
        except TinyclfError as error:
            assert str(path) in str(error)

    check()


def test_any_bytes_as_an_image(small_set):
    good = (small_set.folder / "val/images/val_0.JPEG").read_bytes()

    @few
    @given(st.sampled_from([decode, decode_any]), mutated(good))
    def check(read, data: bytes) -> None:
        try:
            image = read(data)
        except ValueError as error:
            assert "0x" not in str(error)
            return
        assert image.size == (64, 64) and image.mode == "RGB" and np.asarray(image).shape == (64, 64, 3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()
