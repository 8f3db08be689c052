"""Files of a data set that are hostile, odd or damaged: any bytes give a data set or a TinyclfError, and no hang."""

import io
import os
import resource
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinyclf.data.annotations import SPLITS, read_classes, read_split
from tinyclf.data.archive import Source, fingerprint, open_source
from tinyclf.data.tiny_imagenet import TinyImageNet, decode
from tinyclf.utils.errors import TinyclfError

few = settings(
    max_examples=100, deadline=1000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def put(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return replace


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def line_of(number: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(f"n02_0.JPEG\t{number}\t0\t1\t1\n")


IMAGE, BOXES = "train/n02/images/n02_3.JPEG", "train/n02/n02_boxes.txt"
ODD = {
    "a dangling link": (
        put(IMAGE, lambda path: path.symlink_to("nowhere")),
        r"n02_3.JPEG cannot be read: No such file",
    ),
    "a link to itself": (put(IMAGE, lambda path: path.symlink_to(path.name)), "n02.*cannot be read"),
    "a pipe of words": (put("words.txt", os.mkfifo), "words.txt in .* cannot be read: it is no file"),
    "a pipe of boxes": (put(BOXES, os.mkfifo), "n02_boxes.txt in .* cannot be read: it is no file"),
    "words of a terabyte": (put("words.txt", huge), "words.txt in .* cannot be read: it has 1,099,511,627,776 bytes"),
    "a box of a million digits": (put(BOXES, line_of("1" * 10**6)), "lines that cannot be read: line 1"),
    "a box of other digits": (put(BOXES, line_of("\u0663\xb2")), "lines that cannot be read: line 1"),
    "a class that climbs": (put("wnids.txt", lambda path: path.write_text("../../x\n")), "name no class: '../../x'"),
    "a class of bytes": (put("wnids.txt", lambda path: path.write_bytes(b"n01\0\n\xff")), "name no class: "),
    "a folder as a file": (put("words.txt", Path.mkdir), "words.txt in .* cannot be read: it is no file"),
}


@pytest.mark.parametrize("change, expected", ODD.values(), ids=ODD)
def test_odd_files_are_named(small, change, expected):
    change(small.folder)
    with pytest.raises(TinyclfError, match=expected):
        fingerprint(small.folder)
        TinyImageNet(small.folder, layout=small.layout)


def test_a_folder_that_may_not_be_read_is_named(small, monkeypatch):
    """Root may read any, so the refusal is made up."""
    scandir = os.scandir

    def refuse(path: str):
        if path.endswith("n02/images"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TinyclfError, match=r"train/n02/images cannot be read \(Permission denied\)"):
        TinyImageNet(small.folder, layout=small.layout)


def test_a_link_to_a_folder_elsewhere_is_followed(small, tmp_path):
    (small.folder / "train").rename(tmp_path / "elsewhere")
    (small.folder / "train").symlink_to(tmp_path / "elsewhere")
    assert len(TinyImageNet(small.folder, layout=small.layout)) == 48


def test_a_pipe_that_takes_the_place_of_an_image_does_not_hang(small):
    data = TinyImageNet(small.folder, layout=small.layout)
    put(data.samples[0][0], os.mkfifo)(small.folder)
    with pytest.raises(TinyclfError, match="it is no file"):
        data.load(0)


def test_a_loop_of_links_ends(small):
    expected = TinyImageNet(small.folder, layout=small.layout).samples
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
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"than 64x64 pixels|instead of 64x64|not a whole"):
        warnings.simplefilter("ignore")
        decode(jpeg(*size))


def crafted(path: Path, **fields: int) -> None:
    """A zip of one member, wnids.txt, whose entry in the directory has these fields changed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("wnids.txt", b"\0" * 1_000_000)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    for name, value in fields.items():
        struct.pack_into("<I", data, entry + {"crc": 16, "stored": 20, "size": 24, "offset": 42}[name], value)
    path.write_bytes(data)


@pytest.mark.parametrize("size", [0, 2000, 999_999, 2**32 - 2])
def test_a_member_whose_size_is_another_than_declared_is_refused(tmp_path, size):
    crafted(tmp_path / "set.zip", size=size)
    with pytest.raises(TinyclfError, match=r"wnids\.txt in .* cannot be read"):
        Source(tmp_path / "set.zip").read("wnids.txt")


@pytest.mark.parametrize("fields", [{"offset": 2**31}, {"offset": 5}, {"crc": 1}])
def test_a_directory_that_lies_is_refused(tmp_path, fields):
    crafted(tmp_path / "set.zip", **fields)
    with pytest.raises(TinyclfError, match=r"cannot be read|not a whole zip"):
        Source(tmp_path / "set.zip").read("wnids.txt")


@pytest.mark.parametrize("size", [2**40, 2**64 - 1])
def test_a_directory_that_says_it_is_huge_is_refused(tmp_path, size):
    path = tmp_path / "set.zip"
    data = zip64(size)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TinyclfError, match="not a whole zip"):
        Source(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def zip64(size: int) -> bytes:
    """An empty zip whose directory has `size` bytes, by its own word (sections 4.3.14 to 4.3.16 of APPNOTE.TXT)."""
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)
    return (
        end
        + struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
        + struct.pack("<4s4H2IH", b"PK\5\6", *[65535] * 4, *[2**32 - 1] * 2, 0)
    )


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
    source = open_source(path)
    classes, _ = read_classes(source, layout)
    for split in SPLITS:
        for name in read_split(source, layout, split, classes).names[:1]:
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
    (scratch / name).write_bytes(good)
    read_everything(scratch, small_set.layout)


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
    @given(mutated(good))
    def check(data: bytes) -> None:
        try:
            image = decode(data)
        except ValueError:
            return
        assert image.size == (64, 64) and image.mode == "RGB" and np.asarray(image).shape == (64, 64, 3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()
