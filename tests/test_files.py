"""Files are whole or not there at all; a lock keeps others out and ends with its holder."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write, locked, writable


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


def test_a_lock_names_its_holder_and_is_free_afterwards(tmp_path):
    for _ in range(2):
        with pytest.raises(FileNotFoundError), locked(tmp_path / "lock"):
            with pytest.raises(TinyclfError, match=rf"^busy \(process {os.getpid()}\)$"):
                locked(tmp_path / "lock", "busy").__enter__()
            (tmp_path / "missing").read_text()  # an error passes as it is
    (tmp_path / "folder").mkdir()
    with pytest.raises(TinyclfError, match=rf"cannot lock {tmp_path}/folder"), locked(tmp_path / "folder"):
        pass


def add_one(folder: Path) -> None:
    """Read, wait and write, as often as it takes to meet the others."""
    for _ in range(20):
        with locked(folder / "new/lock"):
            count = int((folder / "count").read_text())
            time.sleep(0.001)
            (folder / "count").write_text(str(count + 1))


def test_only_one_of_several_processes_holds_a_lock(tmp_path):
    (tmp_path / "count").write_text("0")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=add_one, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert (tmp_path / "count").read_text() == "80"
