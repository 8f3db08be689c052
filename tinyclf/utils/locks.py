"""Locks between processes, which end with the process that holds them."""

import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tinyclf.utils.errors import TinyclfError

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems have no locks
OURS = re.compile(rb"\d* ?[0-9a-f]*\n?")  # a process id and a random number, or the beginning of it


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the file `path`, made with its folder, against other processes; removed in the end by the one that holds it.

    The system frees it when this process ends. While another process holds it: wait, or where `busy` is given, raise
    TinyclfError with that text and the other's process id. On a disk without locks, a lock in the folder for temporary
    files takes its place, and keeps apart the processes of this machine only. Raises TinyclfError where there is none.
    """
    try:
        path, file = _hold_somewhere(path.absolute(), busy)
    except OSError as error:
        raise TinyclfError(f"cannot lock {path} ({error.strerror}{_owner(path)}){_remedy(error)}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(file)


def _hold_somewhere(path: Path, busy: str) -> tuple[Path, int]:
    try:
        return path, _hold(path, busy)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        with suppress(OSError):  # whoever is here, the lock is not in this file
            path.unlink()
        warn_of_no_locks(path.parent)
        name = f"tinyclf-{os.getuid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.lock"
        local = Path(tempfile.gettempdir()) / name
        return local, _hold(local, busy)


@functools.cache
def warn_of_no_locks(folder: Path) -> None:
    """Said once a folder."""
    print(f"The disk of {folder} has no locks: use it from one machine at a time.", file=sys.stderr)


def _hold(path: Path, busy: str) -> int:
    """The descriptor of the file `path`, locked."""
    token = f"{os.getpid()} {secrets.token_hex(8)}\n".encode()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # the process before this one removed the folder just now
        try:
            _wait(file, busy)
            if not OURS.fullmatch(os.pread(file, 100, 0)):
                raise TinyclfError(f"{path} was not written by tinyclf, and is needed as a lock: move it away")
            _write(file, path, token)
            # While this process waited, the one before removed the file, and another may have made it anew. (The
            # number of links does not tell: some file systems count none.)
            if path.read_bytes() == token:
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _wait(file: int, busy: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
    except BlockingIOError as error:
        holder = os.pread(file, 100, 0).decode(errors="replace").split()
        raise TinyclfError(f"{busy} (process {holder[0] if holder else 'unknown'})") from error


def _write(file: int, path: Path, token: bytes) -> None:
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, token, 0)
        os.fsync(file)  # a disk that is shared may be full only then
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def _owner(path: Path) -> str:
    """Whose file it is, where it is another user's."""
    with suppress(OSError, KeyError):
        if path.stat().st_uid != os.getuid():
            return f"; it belongs to {path.owner()}"
    return ""


def _remedy(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ": free some space" if full else ": remove it if its process has ended, or use another folder"
