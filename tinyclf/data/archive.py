"""Reads the files of a data set from a folder, or from a zip that is never unpacked.

Both kinds can be pickled and forked, so DataLoader workers may share one: a folder holds no open file, and
a zip is read with `os.pread`, which has no file position that two workers could move under each other.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from tinyclf.utils.errors import TinyclfError


def fingerprint(path: Path) -> str:
    """A hex digest of the names, sizes and times of change of the data set's files.

    Reads no file's content and does not even open a zip: about a second for a folder of 120,000 files.
    """
    files = _files(str(path)) if path.is_dir() else [str(path)]
    stats = ((file.removeprefix(str(path)), os.stat(file)) for file in files)
    stamps = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


class FolderSource:
    """The files of a data set in a folder, named by their path below it, with `/` between the parts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, folder: str) -> list[str]:
        """Names of all files below `folder`, sorted as strings; hidden files (`.DS_Store`, `._x.JPEG`) are left out."""
        return sorted(file.removeprefix(f"{self.path}/") for file in _files(f"{self.path}/{folder}"))

    def read(self, name: str) -> bytes:
        """The content of the file `name`. Raises TinyclfError when it is missing or damaged."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise TinyclfError(f"{self.path / name} cannot be read: {error.strerror}. Put the file back.") from error


class _Member(NamedTuple):
    """A file in a zip. The zip itself is parsed once; 120,000 of these are small and pickle fast."""

    offset: int  # of the local header, in bytes from the start of the zip
    stored: int  # bytes in the zip
    size: int  # bytes once inflated
    method: int  # zipfile.ZIP_STORED or zipfile.ZIP_DEFLATED
    crc: int


class ZipSource:
    """The same of a zip: names are paths below the folder of `wnids.txt` in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        members = _members(path)
        inside = min((name for name in members if f"/{name}".endswith("/wnids.txt")), key=len, default=None)
        if inside is None:
            raise TinyclfError(f"{path} holds no wnids.txt, so it is not Tiny-ImageNet. Put the official zip there.")
        start = inside.removesuffix("wnids.txt")
        self._members = {name.removeprefix(start): member for name, member in members.items() if name.startswith(start)}

    def names(self, folder: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        below = [name for name in self._members if name.startswith(start)]
        return sorted(name for name in below if not name.rpartition("/")[2].startswith("."))

    def read(self, name: str) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise TinyclfError(f"{self.path} has no member {name}. Put a whole zip there.")
        try:
            return self._extract(member)
        except (OSError, ValueError, struct.error, zlib.error) as error:
            raise TinyclfError(f"{name} in {self.path} is damaged ({error}). Put a whole zip there.") from error

    def _extract(self, member: _Member) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        # The local header: 30 bytes, the last two pairs of which are the lengths of the name and of the extra field
        # (section 4.3.7 of the zip specification, APPNOTE.TXT).
        signature, name_size, extra_size = struct.unpack("<4s22xHH", os.pread(self._file, 30, member.offset))
        if signature != b"PK\3\4":
            raise ValueError("no header where the directory says")
        data = os.pread(self._file, member.stored, member.offset + 30 + name_size + extra_size)
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompress(data, wbits=-15)
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ValueError("wrong checksum")
        return data

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_file": None}  # another process opens the zip for itself

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            os.close(file)


Source = FolderSource | ZipSource


def open_source(path: Path) -> Source:
    """Opens the data set in `path`, a folder with `wnids.txt` in it or a zip with one such folder in it."""
    path = Path(path).absolute()
    return FolderSource(path) if path.is_dir() else ZipSource(path)


def _files(folder: str) -> list[str]:
    """Paths of all files below `folder`, but hidden ones; none where there is no such folder."""
    parents = os.walk(folder, followlinks=True)
    return [os.path.join(parent, name) for parent, _, names in parents for name in names if not name.startswith(".")]


def _members(path: Path) -> dict[str, _Member]:
    """The files of a zip by name. Nothing is ever unpacked, yet a name that climbs out means a zip to distrust."""
    try:
        with zipfile.ZipFile(path) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        raise TinyclfError(
            f"{path} ({size}) is not a whole zip: {error}. Part of it may be missing: "
            "remove it and put the official zip there, or let it be downloaded again."
        ) from error
    members = {}
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/"):
            raise TinyclfError(f"{path} is refused: its member {name!r} points out of the zip. Use the official zip.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise TinyclfError(f"{path}: {name} is encrypted or of an unusual compression. Use the official zip.")
        sizes = info.compress_size, info.file_size
        members[name] = _Member(info.header_offset, *sizes, info.compress_type, info.CRC)
    return members
