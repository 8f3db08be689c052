"""Files that are written whole or not at all, and locks between processes."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tinyclf.utils.errors import TinyclfError


def writable(folder: Path) -> Path:
    """`folder`, made if need be. Raises TinyclfError where nothing can be written, before anything was computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "make it writable, or set TINYCLF_REPORTS to another folder"
        raise TinyclfError(f"cannot write to {folder} ({error.strerror}): {remedy}") from error
    return folder


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a file, text as UTF-8, under a name of its own and rename it, so that `path` is whole at any time.

    Raises TinyclfError for an OSError; no part of a file is left.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # so that not even a power cut leaves a renamed file with holes
        os.replace(partial, path)
    except OSError as error:
        raise TinyclfError(f"cannot write {path} ({error.strerror})") from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path`, made with its folder, against other processes until the block or this process ends.

    While another process holds it: wait, or where `busy` is given, raise TinyclfError with that text and the other's
    process id. The file stays. Raises TinyclfError where it cannot be made.
    """
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path, timeout=0 if busy else -1))
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        except Timeout as error:
            raise TinyclfError(f"{busy} (process {path.read_text(encoding='utf-8').strip() or 'unknown'})") from error
        except OSError as error:
            raise TinyclfError(f"cannot lock {path} ({error.strerror}): use another folder, or free space") from error
        yield


def make_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`; where it is not there, one process makes it, whole or not at all, by `fill`, and others wait.

    Raises TinyclfError for an OSError.
    """
    try:
        with locked(target.with_suffix(".lock")):
            if target.is_dir():
                return target
            with tempfile.TemporaryDirectory(prefix=f"{target.name}.", suffix=".partial", dir=target.parent) as place:
                folder = Path(place) / "new"
                folder.mkdir()  # with the rights of a new folder, which the temporary one has not
                fill(folder)
                os.rename(folder, target)
                return target
    except OSError as error:
        raise TinyclfError(f"cannot write {target} ({error.strerror}): free some space, or use another disk") from error
