"""Folders that can be written, files written whole or not at all, and locks that die with their process."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyclf.errors import TinyclfError


def writable(folder: Path) -> Path:
    """`folder`, made if need be. Raises TinyclfError where nothing can be written, before anything was computed."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TinyclfError(
            f"cannot write to {folder} ({error.strerror}): make it writable, or set TINYCLF_REPORTS to another folder"
        ) from error
    return folder


def write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise TinyclfError(f"cannot write {path} ({error.strerror}; {free:,} bytes are free)") from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[int]:
    """Hold the file `path`, made with its folder, against other processes; gives its descriptor.

    The system lets go of it when this process dies. While another one holds it: wait, or where `busy` is given, raise
    TinyclfError with that text and the other's process id.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:
            continue  # the one before removed the folder just now
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                file.seek(0)
                raise TinyclfError(f"{busy} (process {file.read().strip() or 'unknown'})") from error
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # while this one waited, the one before removed the file
            try:
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            except OSError as error:
                path.unlink(missing_ok=True)
                raise TinyclfError(f"cannot write {path} ({error.strerror}): is the disk full?") from error
            try:
                yield file.fileno()
            finally:
                path.unlink(missing_ok=True)
            return
