"""Files are whole or not there at all."""

import errno
import os
from pathlib import Path

import pytest

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write, writable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_content_over_the_one_before_it_and_the_mode_of_any_other(tmp_path):
    for data in ("ä\n", "ä\n".encode()):
        atomic_write(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == b"\xc3\xa4\n" and names(tmp_path) == ["file"]
        (tmp_path / "file").write_text("before")
    (tmp_path / "usual").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_write_keeps_the_file_before_it(tmp_path, monkeypatch, stop):
    def interrupt(_: int) -> None:
        assert len(names(tmp_path)) == 2  # the other one is the part of a file
        raise stop

    atomic_write(tmp_path / "file", "whole")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(TinyclfError if isinstance(stop, OSError) else KeyboardInterrupt, match=r"No space left|^$"):
        atomic_write(tmp_path / "file", "half")
    assert (tmp_path / "file").read_text() == "whole" and names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written_is_named_and_a_probe_leaves_nothing(tmp_path):
    assert writable(tmp_path / "new") == tmp_path / "new" and names(tmp_path / "new") == []
    with pytest.raises(TinyclfError, match=r"cannot write .*missing/file \(No such file or directory\)"):
        atomic_write(tmp_path / "missing" / "file", "")
    (tmp_path / "file").touch()
    with pytest.raises(TinyclfError, match=r"cannot write to .*file/new \(Not a directory\).*TINYCLF_REPORTS"):
        writable(tmp_path / "file/new")
