"""A lock keeps others out, ends with its holder, and says in one message why it cannot be had."""

import errno
import fcntl
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import pytest

from tinyclf.utils import locks
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.locks import locked

fork = multiprocessing.get_context("fork")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(path: Path, message: str):
    """`locked` with a text for the busy case ends with `message`."""
    with pytest.raises(TinyclfError, match=message), locked(path, "busy"):
        pass


def test_it_names_its_holder_and_is_gone_afterwards(tmp_path):
    with locked(tmp_path / "lock"):
        refused(tmp_path / "lock", rf"^busy \(process {os.getpid()}\)$")
        assert names(tmp_path) == ["lock"]  # whoever is refused removes nothing
    assert names(tmp_path) == []


def add_one(folder: Path) -> None:
    """Read, wait and write, as often as it takes to meet the others."""
    for _ in range(20):
        with locked(folder / "new/lock"):
            count = int((folder / "count").read_text())
            time.sleep(0.001)
            (folder / "count").write_text(str(count + 1))


def test_only_one_of_several_processes_holds_it(tmp_path):
    (tmp_path / "count").write_text("0")
    processes = [fork.Process(target=add_one, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert (tmp_path / "count").read_text() == "80" and names(tmp_path / "new") == []


def test_it_works_where_no_links_are_counted(tmp_path, monkeypatch):
    """As on some FUSE file systems."""
    fstat = os.fstat

    def unlinked(file: int) -> os.stat_result:
        values = list(fstat(file))
        values[3] = 0
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", unlinked)
    with locked(tmp_path / "lock"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", locks.UNSUPPORTED, ids=errno.errorcode.get)
def test_on_a_disk_without_locks_this_machine_keeps_its_processes_apart(tmp_path, monkeypatch, capsys, number):
    flock, local = fcntl.flock, tmp_path / "temporary"

    def only_local(file: int, how: int) -> None:
        if not os.readlink(f"/proc/self/fd/{file}").startswith(str(local)):
            raise OSError(number, os.strerror(number))
        flock(file, how)

    local.mkdir()
    locks.warn_of_no_locks.cache_clear()
    monkeypatch.setattr(fcntl, "flock", only_local)
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    with locked(tmp_path / "disk/lock"):
        refused(tmp_path / "disk/lock", rf"^busy \(process {os.getpid()}\)$")
        with locked(tmp_path / "disk/other"):
            pass
    assert names(tmp_path / "disk") == names(local) == []
    assert capsys.readouterr().err.count("has no locks") == 1


def test_a_system_without_any_locks_says_so(tmp_path, monkeypatch):
    def unsupported(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    refused(tmp_path / "lock", rf"cannot lock {tmp_path}/lock \(No locks available\)")


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    refused(tmp_path / "lock", r"cannot lock .*/lock \(No space left on device\): free some space")
    assert names(tmp_path) == []


def test_the_lock_of_another_user_names_them(tmp_path, monkeypatch):
    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "lock").touch()
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    monkeypatch.setattr(os, "open", denied)
    refused(tmp_path / "lock", r"\(Permission denied; it belongs to \w+\): remove it if its process has ended")


@pytest.mark.parametrize(
    "put", [lambda path: path.write_text("precious"), Path.mkdir, lambda path: path.symlink_to("x")]
)
def test_what_is_not_ours_is_not_used_as_a_lock(tmp_path, put):
    put(tmp_path / "lock")
    refused(tmp_path / "lock", rf"{tmp_path}/lock")
    assert names(tmp_path) == ["lock"]


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    for left in ("", "123", "123\n", "123 00ff\n"):
        (tmp_path / "lock").write_text(left)
        with locked(tmp_path / "lock", "busy"):
            pass
        assert names(tmp_path) == []
