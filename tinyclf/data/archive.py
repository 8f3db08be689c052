"""Reads the files of a data set from a folder, or from a zip that is never unpacked."""

import hashlib
import os
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from tinyclf.utils.errors import TinyclfError

PARTS = ("wnids.txt", "words.txt", "train", "val", "test")  # a folder may hold anything else beside them
DEPTH = 3  # folders in which an image lies: train/<wnid>/images


class Source:
    """The files of a data set by their path below `wnids.txt`, with `/` between the parts, in a folder or in a zip.

    It can be pickled and forked. Raises TinyclfError for what is neither. Of two of one name in a zip, the last counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self._is_folder, self._changed = self.path.is_dir(), self.path.stat().st_mtime_ns
        self._members: dict[str, str] = {}  # of a zip: the name in it of each file
        self.files = _files_in(self.path) if self._is_folder else self._files_in_zip()

    def names(self, folder: str) -> list[str]:
        """The files below `folder`, sorted as strings; hidden ones are left out."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def read(self, name: str) -> bytes:
        """The content of a file. Raises TinyclfError where it is missing or damaged, or no file."""
        try:
            if not self._is_folder:
                return self._zip().read(self._members[name])
            with open(f"{self.path}/{name}", "rb") as file:  # joining a Path takes as long as reading an image
                return file.read()
        except Exception as error:  # of bytes that others wrote, zipfile raises nearly anything
            raise _unreadable(f"{name} in {self.path}", error) from error

    def _zip(self) -> zipfile.ZipFile:
        return _opened_zip(self.path, self._changed, os.getpid())

    def _files_in_zip(self) -> list[str]:
        """The files below `wnids.txt`, wherever it is in the zip, or all; some programs write \\ between the parts."""
        members = self._zip().namelist()
        names = [member.replace("\\", "/") for member in members]
        start = min((name for name in names if f"/{name}".endswith("/wnids.txt")), key=len, default="")[:-9]
        self._members = {name.removeprefix(start): member for name, member in zip(names, members, strict=True)}
        return _visible({name.removeprefix(start) for name in names if name.startswith(start) and name[-1] != "/"})


@lru_cache(2)  # by the process too: two must not share a position in a file
def _opened_zip(path: Path, changed: int, process: int) -> zipfile.ZipFile:
    """The zip; its directory, of 120,000 files, takes a second to read."""
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        remedy = "Remove it and put the official zip there, or let it be downloaded again"
        raise TinyclfError(f"{path} is not a whole zip: {error!r}. {remedy}.") from error


def fingerprint(path: Path) -> str:
    """A hex digest of the names, sizes and times of change of the data set's files. Reads no file's content."""
    names = [f"/{name}" for name in _files_in(path)] if path.is_dir() else [""]
    try:
        stats = [(name, os.stat(f"{path}{name}")) for name in names]
    except OSError as error:
        raise _unreadable(error.filename, error) from error
    stamps = [(name, status.st_size, status.st_mtime_ns) for name, status in stats]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _files_in(root: Path) -> list[str]:
    """The files of the set by their path below `root`, sorted; at most DEPTH folders deep: a loop of links ends."""
    files = []
    for place, folders, names in os.walk(root, followlinks=True, onerror=_refuse_folder):
        parts = Path(place).relative_to(root).parts
        if not parts:
            folders[:], names = set(folders).intersection(PARTS), list(set(names).intersection(PARTS))
        elif len(parts) == DEPTH:
            folders.clear()
        files += ["/".join((*parts, name)) for name in names]
    return _visible(files)


def _visible(files: Iterable[str]) -> list[str]:
    """The files sorted, without those that systems hide: `.DS_Store`, `._x.JPEG`."""
    return sorted(name for name in files if "/." not in f"/{name}")


def _refuse_folder(error: OSError) -> None:
    raise _unreadable(error.filename, error) from error


def _unreadable(what: str, error: Exception) -> TinyclfError:
    fault = getattr(error, "strerror", None) or error
    return TinyclfError(f"{what} cannot be read: {fault}. Put a whole one there.")
