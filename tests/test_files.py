"""Files and folders are whole or not there at all; a lock ends with its holder."""

import errno
import os
from pathlib import Path

import pytest

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_folder, atomic_write, locked


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


def test_a_folder_takes_the_place_of_the_one_before_it_only_when_it_is_whole(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / content).touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["new"]


def test_a_lock_names_its_holder_and_is_gone_afterwards(tmp_path):
    refused = pytest.raises(TinyclfError, match=rf"^busy \(process {os.getpid()}\)$")
    with locked(tmp_path / "lock"), refused, locked(tmp_path / "lock", "busy"):
        pass
    assert names(tmp_path) == []
