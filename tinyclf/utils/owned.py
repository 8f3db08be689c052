"""Folders that are replaced as a whole: for data/ until it does without. Then delete this file."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tinyclf.utils.errors import TinyclfError


@contextmanager
def atomic_folder(path: Path, marker: str, ours: re.Pattern[str]) -> Iterator[Path]:
    """A folder to fill; it takes the place of `path` when the block ends, and is removed where the block fails.

    marker: the name of a file that is in it from the start, and says that it is ours. ours: matches the names, below
    the folder, of all files that it may have. What is in the way and is not ours raises TinyclfError, and stays.
    To be used by one process at a time: under a lock.
    """
    refuse_foreign(path, marker, ours)
    partial = remove_partial(path, marker, ours)
    try:
        for folder in (partial, partial / "new"):
            folder.mkdir(parents=True)
            (folder / marker).write_text("tinyclf\n", encoding="utf-8")
        yield partial / "new"
        if path.exists():
            path.rename(partial / "old")
        (partial / "new").rename(path)
    finally:
        _remove(partial, marker)


def remove_partial(path: Path, marker: str, ours: re.Pattern[str]) -> Path:
    """Remove what a killed process left of `atomic_folder(path, ...)`, if there is any; returns its path."""
    partial = path.with_name(f"{path.name}.partial")
    remove_own(partial, marker, re.compile(f"((new|old)/)?({re.escape(marker)}|{ours.pattern})"))
    return partial


def remove_own(folder: Path, marker: str, ours: re.Pattern[str]) -> None:
    """Remove a folder that `atomic_folder` made, if it is there. Raises TinyclfError, and removes nothing, if not."""
    refuse_foreign(folder, marker, ours)
    _remove(folder, marker)


def _remove(folder: Path, marker: str) -> None:
    """The marker goes last, so that a folder half removed is known as ours."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != marker:
                path.unlink()
        (folder / marker).unlink(missing_ok=True)
        folder.rmdir()


def refuse_foreign(folder: Path, marker: str, ours: re.Pattern[str]) -> None:
    """Raise TinyclfError if `folder` is there and is not what `atomic_folder` made: name, marker and all files."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise _foreign(folder, folder, "is no folder of its own")
    try:
        text = (folder / marker).read_text(encoding="utf-8", errors="replace")
        if not (text.startswith("tinyclf") or "tinyclf".startswith(text)):  # or cut off while it was written
            raise _foreign(folder, folder / marker, "was not written by tinyclf")
    except OSError as error:
        if any(folder.iterdir()):  # an empty one holds nothing that could be lost
            raise _foreign(folder, folder, f"was not made by tinyclf: it has no {marker}") from error
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in files + links:
            file = Path(parent, name)
            if not ours.fullmatch(file.relative_to(folder).as_posix()) and name != marker:
                raise _foreign(folder, file, "was not written by tinyclf")


def _foreign(folder: Path, what: Path, fault: str) -> TinyclfError:
    return TinyclfError(f"{what} {fault}, and {folder} is needed: move it away, or remove it if nobody needs it")
