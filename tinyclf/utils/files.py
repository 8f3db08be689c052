"""Files and folders that are written whole or not at all, and a lock that ends with its process."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyclf.utils.errors import TinyclfError


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


def atomic_write(path: Path, data: str | bytes | Callable[[Path], None]) -> None:
    """Write a file under another name and rename it, so that `path` is whole at any time.

    data: its content, text as UTF-8; or a function that writes the file whose path it is given.
    Raises TinyclfError for an OSError, with the free bytes of that disk; no part of a file is left.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        if callable(data):
            data(partial)
        else:
            partial.write_bytes(data.encode() if isinstance(data, str) else data)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # so that not even a power cut leaves a renamed file with holes
        os.replace(partial, path)
    except OSError as error:
        free = f"; {shutil.disk_usage(path.parent).free:,} bytes are free" if path.parent.is_dir() else ""
        raise TinyclfError(f"cannot write {path} ({error.strerror}{free})") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `path` when the block ends, and is removed where the block fails.

    To be used by one process at a time: under a lock.
    """
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed process may have left one
    try:
        (partial / "new").mkdir(parents=True)
        yield partial / "new"
        if path.exists():
            path.rename(partial / "old")
        (partial / "new").rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[int]:
    """Hold the file `path`, made with its folder, against other processes; gives its descriptor.

    The system frees it when this process ends. While another process holds it: wait, or where `busy` is given, raise
    TinyclfError with that text and the other's process id.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # the process before this one removed the folder just now
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                file.seek(0)
                raise TinyclfError(f"{busy} (process {file.read().strip() or 'unknown'})") from error
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # while this process waited, the one before removed the file
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
