"""Downloads the official zip: goes on where a connection broke, and uses the file only if size and md5 are right."""

import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from tinyclf.data.registry import URL
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable

SIZE = 248_100_043  # bytes, of the official archive
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

CHUNK = 1 << 18  # bytes read at a time


class _Broken(Exception):
    """The connection failed or broke; another try may help."""


class _Absent(_Broken):
    """The server does not give the file; another try does not help."""


class _Wrong(Exception):
    """The server has another file; what was downloaded of it is of no use."""


def download(
    folder: Path,
    url: str = URL,
    size: int = SIZE,
    md5: str = MD5,
    *,
    tries: int = 4,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Fetches `url` into `folder` and returns the file's path; does nothing where that file is already there.

    `<name>.tinyclf-part` holds what was downloaded until the file is whole, and the next try, or the next call, goes
    on from there. After a try without a byte it waits `pause` seconds, then twice as long and so on; `timeout`
    seconds of silence end a connection. Raises TinyclfError after `tries` tries in a row without a byte, and for a
    wrong file, which is removed, so that the next call starts from the beginning.
    """
    target = Path(folder) / url.rpartition("/")[2]
    part = target.with_name(f"{target.name}.tinyclf-part")  # browsers name theirs `.part`
    by_hand = f"Or get it by hand: {url} ({size:,} bytes, md5 {md5}), to be put at {target}."
    if target.exists():
        return target
    writable(target.parent, f"work in another folder. {by_hand}")
    with locked(target.with_name(f"{target.name}.lock"), f"Another process is downloading {target}: wait for it"):
        try:
            if not target.exists():  # else another process finished just now
                with part.open("ab") as file:
                    _fetch(file, url, size, tries, pause, timeout)
                _verify(part, size, md5)
                os.replace(part, target)
        except _Broken as error:
            raise TinyclfError(f"{url} cannot be fetched: {error}. Start again to go on. {by_hand}") from error
        except _Wrong as error:
            part.unlink()
            raise TinyclfError(f"{url} is not the file it should be: {error}. It is removed. {by_hand}") from error
        except OSError as error:
            needs = f"{size:,} bytes are needed in {target.parent}"
            raise TinyclfError(f"{part} cannot be written ({error.strerror}); {needs}. {by_hand}") from error
        finally:  # only here, where no other process is writing it
            if part.is_file() and part.stat().st_size == 0:
                part.unlink()
    return target


def _fetch(file: BinaryIO, url: str, size: int, tries: int, pause: float, timeout: float) -> None:
    """Appends to `file` until it has `size` bytes. Raises _Broken or _Wrong."""
    if file.tell() > size:
        file.seek(0)
        file.truncate()  # it is not the beginning of the right file
    if not sys.stderr.isatty():
        print(f"downloading {url} ({size:,} bytes)", file=sys.stderr, flush=True)
    failures = 0
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=size, initial=file.tell(), unit="B", unit_scale=True, desc="downloading", disable=None) as bar:
        while (start := file.tell()) < size:
            try:
                for chunk in _chunks(url, start, size, timeout):
                    file.write(chunk)
                    bar.update(len(chunk))
            except _Broken as error:
                failures = failures + 1 if file.tell() == start else 0
                if failures == tries or isinstance(error, _Absent):
                    raise
                tqdm.write(f"connection lost at byte {file.tell():,} ({error}); going on from there", file=sys.stderr)
                time.sleep(pause * 2 ** max(failures - 1, 0))
    file.flush()


def _chunks(url: str, start: int, size: int, timeout: float) -> Iterator[bytes]:
    """The bytes of `url` from `start` on, from one connection. Raises _Broken or _Wrong."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            position = start if response.status == 206 else 0  # a server that ignores Range begins at 0 again
            announced = response.headers.get("Content-Length")
            if announced is not None and position + int(announced) != size:
                raise _Wrong(f"it has {position + int(announced):,} bytes instead of {size:,}")
            while chunk := response.read(CHUNK):
                fresh = chunk[max(start - position, 0) :]
                position += len(chunk)
                if position > size:
                    raise _Wrong(f"it has more than {size:,} bytes")
                if fresh:
                    yield fresh
            if position < size:
                raise _Broken(f"it ended after {position:,} of {size:,} bytes")
    except urllib.error.HTTPError as error:
        raise _refusal(error, start, size) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(getattr(error, "reason", None) or error) from error


def _refusal(error: urllib.error.HTTPError, start: int, size: int) -> Exception:
    """What the status of an HTTP answer means for a request from byte `start` on."""
    if error.code == 416:  # range not satisfiable
        return _Wrong(f"it ends before byte {start:,} of {size:,}")
    passing = error.code >= 500 or error.code in (408, 429)  # an overloaded or broken server
    return (_Broken if passing else _Absent)(f"HTTP status {error.code}, {error.reason}")


def _verify(part: Path, size: int, md5: str) -> None:
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        raise _Wrong(f"it has {size:,} bytes as it should, but md5 {actual} instead of {md5}")
