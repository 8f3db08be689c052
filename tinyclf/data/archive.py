"""Reads the files of a data set from a folder, or from a zip that is never unpacked.

Both kinds can be pickled and forked, so DataLoader workers may share one: a folder holds no open file, and
a zip is read with `os.pread`, which has no file position that two workers could move under each other.
"""

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from tinyclf.data.registry import URL
from tinyclf.utils.errors import TinyclfError

LARGEST = 1 << 26  # bytes; no file of a data set is nearly as large
PARTS = ("wnids.txt", "words.txt", "train", "val", "test")  # a folder may hold anything else beside them


def fingerprint(path: Path) -> str:
    """A hex digest of the names, sizes and times of change of the data set's files.

    Reads no file's content and does not even open a zip: about a second for a folder of 120,000 files.
    """
    if path.is_dir():
        files = [file for part in PARTS for file in _files(f"{path}/{part}")]
        files += [f"{path}/{part}" for part in PARTS if os.path.isfile(f"{path}/{part}")]
    else:
        files = [str(path)]
    stats = ((file.removeprefix(str(path)), os.stat(file)) for file in files)
    stamps = sorted((name, status.st_size, status.st_mtime_ns) for name, status in stats)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


class FolderSource:
    """The files of a data set in a folder, named by their path below it, with `/` between the parts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.isfile(path / "wnids.txt"):
            raise TinyclfError(f"{path} holds no wnids.txt. {looks_like(path)}Put back what is missing.")

    def names(self, folder: str) -> list[str]:
        """Names of all files below `folder`, sorted as strings; what is hidden (`.DS_Store`, `._x.JPEG`) is left out.

        Raises TinyclfError for a folder that cannot be read, a loop of links, and what is neither file nor folder.
        """
        return sorted(file.removeprefix(f"{self.path}/") for file in _files(f"{self.path}/{folder}"))

    def read(self, name: str) -> bytes:
        """The content of the file `name`. Raises TinyclfError when it is missing, damaged or no file."""
        try:
            with open(f"{self.path}/{name}", "rb", buffering=0, opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("it is no file")
                if status.st_size > LARGEST:
                    raise ValueError(f"it has {status.st_size:,} bytes")
                return file.readall()
        except (OSError, ValueError) as error:
            fault = getattr(error, "strerror", None) or error
            raise TinyclfError(f"{self.path / name} cannot be read: {fault}. Put the file back.") from error


def _open_at_once(path: str, flags: int) -> int:
    """A pipe would otherwise wait for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)


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
        return sorted(name for name in below if "/." not in f"/{name}")

    def read(self, name: str) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise TinyclfError(f"{self.path} has no member {name}. Put a whole zip there.")
        try:
            return self._extract(member)
        except (OSError, ValueError, OverflowError, struct.error, zlib.error) as error:
            raise TinyclfError(f"{name} in {self.path} is damaged ({error}). Put a whole zip there.") from error

    def _extract(self, member: _Member) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        # The local header: 30 bytes, the last two pairs of which are the lengths of the name and of the extra field
        # (section 4.3.7 of the zip specification, APPNOTE.TXT).
        signature, name_size, extra_size = struct.unpack("<4s22xHH", os.pread(self._file, 30, member.offset))
        if signature != b"PK\3\4":
            raise ValueError("no header where the directory says")
        if member.size > LARGEST or member.stored > LARGEST:
            raise ValueError(f"it has {member.size:,} bytes")
        data = os.pread(self._file, member.stored, member.offset + 30 + name_size + extra_size)
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(wbits=-15).decompress(data, member.size + 1)  # and not all that it may inflate to
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ValueError("wrong size or checksum")
        return data

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_file": None}  # another process opens the zip for itself

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            os.close(file)


Source = FolderSource | ZipSource


_OPEN: WeakValueDictionary[tuple[Path, int, int], ZipSource] = WeakValueDictionary()


def open_source(path: Path) -> Source:
    """Opens the data set in `path`, a folder with `wnids.txt` in it or a zip with one such folder in it.

    The splits of a zip share one source: its directory of 120,000 files takes a second or more to read.
    """
    path = Path(path).absolute()
    if path.is_dir():
        return FolderSource(path)
    key = (path, path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (path, 0, 0)
    if (source := _OPEN.get(key)) is None:
        _OPEN[key] = source = ZipSource(path)
    return source


def looks_like(folder: Path) -> str:
    """A sentence on what is there in place of the official files, with a space behind; "" where there is no telling."""
    names: set[str] = set()
    for place in (folder, *folder.glob("*")):
        with suppress(OSError):
            names.update(os.listdir(place))
    official = f"The official zip is {URL}."
    if any(name.endswith(".parquet") for name in names):
        return f"It looks like a copy in parquet files, whose images are not the official files. {official} "
    if "train" in names:
        return f"It looks like the set without wnids.txt and words.txt, which lie beside train. {official} "
    if packed := [name for name in sorted(names) if name.endswith((".tar", ".tar.gz", ".tgz", ".rar", ".7z"))]:
        return f"It has {packed[0]}: unpack it. {official} "
    return ""


def _files(folder: str, parents: tuple[tuple[int, int], ...] = ()) -> list[str]:
    """Paths of all files below `folder`, but hidden ones; none where there is no such folder."""
    files = []
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in parents:
            raise TinyclfError(f"{folder} is a link to a folder that it is in: remove the link")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    files.append(entry.path)
                elif entry.is_dir():
                    files += _files(entry.path, (*parents, here))
                else:
                    what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
                    raise TinyclfError(f"{entry.path} is {what}: remove it, or put the file back")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TinyclfError(
            f"{error.filename or folder} cannot be read ({error.strerror}): mend or remove it"
        ) from error
    return files


def _members(path: Path) -> dict[str, _Member]:
    """The files of a zip by name. Nothing is ever unpacked, yet a name that climbs out means a zip to distrust."""
    try:
        with zipfile.ZipFile(path) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except Exception as error:  # zipfile gives up on bytes of others in many ways, MemoryError among them
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        raise TinyclfError(
            f"{path} ({size}) is not a whole zip: {error or type(error).__name__}. Part of it may be missing: "
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
