"""Reads the files of a data set from a folder, or from a zip that is never unpacked."""

import hashlib
import os
import zipfile
from functools import lru_cache
from pathlib import Path

from tinyclf.data.registry import URL
from tinyclf.utils.errors import TinyclfError

PARTS = ("wnids.txt", "words.txt", "train", "val", "test")  # a folder may hold anything else beside them
DEPTH = 3  # folders in which an image lies: train/<wnid>/images


class Source:
    """The files of a data set by their path below `wnids.txt`, with `/` between the parts, in a folder or in a zip.

    It can be pickled and forked: another process opens the zip for itself, as two must not share a position in it.
    Raises TinyclfError for what is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self._zip: zipfile.ZipFile | None = None
        self._process, self._start = 0, ""
        if self.is_folder:
            files = _files_in(path)
        else:
            members = [info.filename for info in self._opened().infolist() if not info.is_dir()]
            inside = min((name for name in members if f"/{name}".endswith("/wnids.txt")), key=len, default="")
            self._start = inside.removesuffix("wnids.txt")
            files = [name.removeprefix(self._start) for name in members if name.startswith(self._start)]
        self._files = sorted(name for name in files if "/." not in f"/{name}")  # without `.DS_Store`, `._x.JPEG`
        if "wnids.txt" not in self._files:
            raise TinyclfError(f"{path} holds no wnids.txt. The official zip is {URL}.")

    def names(self, folder: str) -> list[str]:
        """The files below `folder`, sorted as strings; hidden ones are left out."""
        return [name for name in self._files if name.startswith(f"{folder}/")]

    def read(self, name: str) -> bytes:
        """The content of a file. Raises TinyclfError where it is missing or damaged, or no file."""
        try:
            return (self.path / name).read_bytes() if self.is_folder else self._opened().read(self._start + name)
        except Exception as error:  # of bytes that others wrote, zipfile raises nearly anything
            raise _unreadable(f"{name} in {self.path}", error) from error

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None or self._process != os.getpid():
            try:
                self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
            except Exception as error:
                remedy = "Remove it and put the official zip there, or let it be downloaded again"
                raise TinyclfError(f"{self.path} is not a whole zip: {error!r}. {remedy}.") from error
        return self._zip

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_zip": None}


@lru_cache(4)
def _source(path: Path, changed: int) -> Source:
    return Source(path)


def open_source(path: Path) -> Source:
    """The data set in `path`; a zip, whose directory of 120,000 files takes a second, is read once for all splits."""
    path = Path(path).absolute()
    return _source(path, path.stat().st_mtime_ns) if path.is_file() else Source(path)


def fingerprint(path: Path) -> str:
    """A hex digest of the names, sizes and times of change of the data set's files. Reads no file's content."""
    names = sorted(f"/{name}" for name in _files_in(path) if "/." not in f"/{name}") if path.is_dir() else [""]
    try:
        stats = [(name, os.stat(f"{path}{name}")) for name in names]
    except OSError as error:
        raise _unreadable(error.filename, error) from error
    stamps = [(name, status.st_size, status.st_mtime_ns) for name, status in stats]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _files_in(root: Path) -> list[str]:
    """The files of the set by their path below `root`. Its folders are at most DEPTH deep: a loop of links ends."""
    files = []
    for place, folders, names in os.walk(root, followlinks=True, onerror=_refuse_folder):
        parts = Path(place).relative_to(root).parts
        if not parts:
            folders[:], names = set(folders).intersection(PARTS), list(set(names).intersection(PARTS))
        elif len(parts) == DEPTH:
            folders.clear()
        files += ["/".join((*parts, name)) for name in names]
    return files


def _refuse_folder(error: OSError) -> None:
    raise _unreadable(error.filename, error) from error


def _unreadable(what: str, error: Exception) -> TinyclfError:
    fault = getattr(error, "strerror", None) or error
    return TinyclfError(f"{what} cannot be read: {fault}. Put the official file there.")
