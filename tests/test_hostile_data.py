"""Files of a data set that are hostile, odd or damaged: any bytes give a data set or a TinyclfError, and no hang."""

import io
import itertools
import os
import shutil
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

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
    scandir = os.scandir

    def refuse(path: Path):
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


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of 64x64 pixels whose header says something else."""
    text = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(text, "JPEG")
    data = bytearray(text.getvalue())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("size", [(65500, 65500), (10000, 10000), (64, 65), (0, 0)])
def test_an_image_that_says_it_is_huge_is_refused(size):
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"none of the formats|cannot be decoded|instead of 64x64|not a whole"),
    ):
        warnings.simplefilter("ignore")
        decode(jpeg(*size))


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
        for name in read_split(source, layout, split, classes)[0][:1]:
            source.read(name)


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt", "train/n02/n02_boxes.txt"])
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


def test_the_words_of_a_class_may_have_any_characters_but_those_that_end_lines(small_set, scratch):
    good = (scratch / "words.txt").read_text()

    @few
    @given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])))
    @example("a\x85b\u2028c\u2029d\x0ce\x0bf\x1cg\ufeffh")
    def check(words: str) -> None:
        (scratch / "words.txt").write_bytes(good.replace("word n02, other word", words).encode())
        assert read_classes(Source(scratch), small_set.layout)[1][1] == words

    check()
    (scratch / "words.txt").write_text(good)


def test_names_in_a_zip_may_have_either_separator_and_come_once(tmp_path):
    names = ("wnids.txt", "train/n01/images/n01_0.JPEG", "test/images/test_0.JPEG")

    @few
    @given(
        st.sampled_from(["", "set/", "a\\b\\", "wnids.txt/"]),
        st.lists(st.tuples(st.sampled_from(names), st.booleans())),
    )
    def check(start: str, members: list[tuple[str, bool]]) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as opened:
            for name, windows in [("wnids.txt", False), *members]:
                opened.writestr(start + (name.replace("/", "\\") if windows else name), name)
        os.utime(tmp_path / "set.zip", ns=(0, next(times)))
        written = ["wnids.txt", *(name for name, _ in members)]
        if len({*written}) < len(written):
            with pytest.raises(TinyclfError, match=r"set\.zip has '.*' more than once"):
                Source(tmp_path / "set.zip")
        else:
            source = Source(tmp_path / "set.zip")
            assert source.files == sorted(written) and all(source.read(name).decode() == name for name in written)

    times = itertools.count(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile's, that a name comes twice
        check()


def test_a_zip_within_the_zip_is_named(small, tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(small.zip, "archive/small.zip")
    with pytest.raises(TinyclfError, match=r"outer\.zip .*no wnids\.txt.*another zip, archive/small\.zip: unpack"):
        TinyImageNet(tmp_path / "outer.zip", layout=small.layout)


def test_any_bytes_in_a_zip(small_set):
    """Mostly in its directory, which is at its end."""
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("wnids.txt", "words.txt", "train/n02/images/n02_0.JPEG"):
            opened.write(small_set.folder / name, f"small/{name}")
    good = text.getvalue()
    start = good.index(b"PK\1\2")
    directories = mutated(good[start:]).map(lambda data: good[:start] + data) | mutated(good)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.zip"

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
