"""Reads the files of a data set from a folder, or from a zip that is never unpacked."""

import hashlib
import os
import stat
import zipfile
from functools import lru_cache
from pathlib import Path

from tinyclf.data.registry import URL
from tinyclf.utils.errors import TinyclfError

LARGEST = 1 << 26  # bytes; no file of a data set is nearly as large
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
        self._members: list[str] = []
        if not self.is_folder:
            members = [info.filename for info in self._opened().infolist() if not info.is_dir()]
            inside = min((name for name in members if f"/{name}".endswith("/wnids.txt")), key=len, default="")
            self._start = inside.removesuffix("wnids.txt")
            self._members = [name.removeprefix(self._start) for name in members if name.startswith(self._start)]
        if not (os.path.isfile(path / "wnids.txt") if self.is_folder else "wnids.txt" in self._members):
            raise TinyclfError(f"{path} holds no wnids.txt. {looks_like(path)}The official zip is {URL}.")

    def names(self, folder: str) -> list[str]:
        """The files below `folder`, sorted as strings; hidden ones (`.DS_Store`, `._x.JPEG`) are left out."""
        names = _files_below(self.path, folder, DEPTH) if self.is_folder else self._members
        return sorted(name for name in names if name.startswith(f"{folder}/") and "/." not in f"/{name}")

    def read(self, name: str) -> bytes:
        """The content of a file. Raises TinyclfError where it is missing or damaged, or no file."""
        try:
            return self._read_file(f"{self.path}/{name}") if self.is_folder else self._read_member(self._start + name)
        except Exception as error:  # of bytes that others wrote, zipfile raises nearly anything
            fault = getattr(error, "strerror", None) or error
            raise TinyclfError(
                f"{name} in {self.path} cannot be read: {fault}. Put the official file there."
            ) from error

    def _read_file(self, path: str) -> bytes:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for somebody to write into it
            raise ValueError("it is no file")
        _refuse_huge(status.st_size)
        with open(path, "rb") as file:
            return file.read()

    def _read_member(self, name: str) -> bytes:
        member = self._opened().getinfo(name)
        _refuse_huge(member.file_size)
        return self._opened().read(member)

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
    names = [""]
    if path.is_dir():
        files = [name for part in PARTS for name in _files_below(path, part, DEPTH)]
        files += [part for part in PARTS if os.path.isfile(path / part)]
        names = sorted(f"/{name}" for name in files if "/." not in f"/{name}")
    try:
        stats = [(name, os.stat(f"{path}{name}")) for name in names]
    except OSError as error:
        raise TinyclfError(
            f"{error.filename} cannot be read: {error.strerror}. Put the official file there."
        ) from error
    stamps = [(name, status.st_size, status.st_mtime_ns) for name, status in stats]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def looks_like(folder: Path) -> str:
    """A sentence on what is there in place of the official files, with a space behind; "" where there is no telling."""
    names = [path.name for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern))]
    if any(name.endswith(".parquet") for name in names):
        return "It looks like a copy in parquet files, whose images are not the official files. "
    if "train" in names:
        return "It looks like the set without wnids.txt and words.txt, which lie beside train. "
    packed = [name for name in names if name.endswith((".tar", ".tar.gz", ".tgz", ".rar", ".7z"))]
    return f"It has {packed[0]}: unpack it. " if packed else ""


def _files_below(root: Path, folder: str, depth: int) -> list[str]:
    """What is no folder below `folder` of `root`, by its path below `root`; at most `depth` deep: a loop of links ends.

    Nothing where there is no such folder.
    """
    files = []
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                if not entry.is_dir():
                    files.append(f"{folder}/{entry.name}")
                elif depth > 1:
                    files += _files_below(root, f"{folder}/{entry.name}", depth - 1)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TinyclfError(f"{root}/{folder} cannot be read ({error.strerror}): mend or remove it") from error
    return files


def _refuse_huge(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes")
