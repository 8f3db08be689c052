"""Files and folders are whole or not there at all, and nobody else's are removed."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_folder, atomic_write, writable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", ["ä\n", "ä\n".encode(), lambda path: path.write_text("ä\n", encoding="utf-8")])
def test_a_file_gets_its_content(tmp_path, data):
    for _ in range(2):  # the second time over the first
        atomic_write(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa4\n" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_write_keeps_the_file_before_it(tmp_path, stop):
    def write(path: Path) -> None:
        path.write_text("half")
        raise stop

    atomic_write(tmp_path / "file", "whole")
    with pytest.raises(TinyclfError if isinstance(stop, OSError) else KeyboardInterrupt, match=r"bytes are free|^$"):
        atomic_write(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "whole" and names(tmp_path) == ["file"]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(TinyclfError, match=r"cannot write .*missing/file \(No such file or directory\)"):
        atomic_write(tmp_path / "missing" / "file", "")


def test_a_file_has_the_mode_of_the_umask_whoever_wrote_it(tmp_path):
    def write(path: Path) -> None:
        os.close(os.open(path.with_name("own"), os.O_CREAT | os.O_WRONLY, 0o600))
        os.replace(path.with_name("own"), path)

    atomic_write(tmp_path / "file", write)
    (tmp_path / "usual").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_that_vanishes_while_a_file_is_written_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    with pytest.raises(TinyclfError, match=r"cannot write .*gone/file \(No such file or directory\)"):
        atomic_write(tmp_path / "gone/file", lambda path: shutil.rmtree(path.parent))


def test_a_folder_that_cannot_be_written_is_named_and_a_probe_leaves_nothing(tmp_path):
    assert writable(tmp_path / "new") == tmp_path / "new" and names(tmp_path / "new") == []
    (tmp_path / "file").touch()
    with pytest.raises(TinyclfError, match=r"cannot write to .*file/new \(Not a directory\).*or go elsewhere"):
        writable(tmp_path / "file/new", "go elsewhere")


OURS = re.compile("old|new|half")


def test_a_folder_takes_the_place_of_the_one_before_it_only_when_it_is_whole(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder", ".mark", OURS) as folder:
            (folder / content).touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder", ".mark", OURS) as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == [".mark", "new"]


FOREIGN = {
    "a file": lambda path: path.write_text("precious"),
    "a folder without the marker": lambda path: (path.mkdir(), (path / "new").write_text("precious")),
    "another marker": lambda path: (path.mkdir(), (path / ".mark").write_text("precious")),
    "a file more": lambda path: (path.mkdir(), mark(path), (path / "precious").touch()),
    "a folder more": lambda path: (path.mkdir(), mark(path), (path / "my").mkdir(), (path / "my/new").touch()),
    "a link": lambda path: ((path.parent / "disk").mkdir(), mark(path.parent / "disk"), path.symlink_to("disk")),
    "a link within": lambda path: (path.mkdir(), mark(path), (path / "my").symlink_to("/")),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
}


def mark(folder: Path) -> None:
    (folder / ".mark").write_text("tinyclf\n")


def everything(folder: Path) -> list[tuple[str, bytes]]:
    paths = sorted(folder.rglob("*"))
    return [(str(path), os.readlink(path).encode() if path.is_symlink() else b"") for path in paths]


@pytest.mark.parametrize("name", ["folder", "folder.partial"])
@pytest.mark.parametrize("put", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_ours_is_named_and_stays(tmp_path, put, name):
    put(tmp_path / name)
    before = everything(tmp_path)
    refused = pytest.raises(TinyclfError, match=rf"{tmp_path / name}\b.*move it away")
    with refused, atomic_folder(tmp_path / "folder", ".mark", OURS) as folder:
        (folder / "new").touch()
    assert everything(tmp_path) == before


def test_an_empty_folder_and_what_was_left_half_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.partial/new").mkdir(parents=True)
    for folder in (tmp_path / "folder.partial", tmp_path / "folder.partial/new"):
        mark(folder)
    (tmp_path / "folder.partial/new/half").touch()
    with atomic_folder(tmp_path / "folder", ".mark", OURS) as folder:
        (folder / "new").touch()
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == [".mark", "new"]
