"""Finds a data set on disk; makes the synthetic one, and downloads Tiny-ImageNet, where they are missing."""

import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from os.path import isfile  # which is False, and not an error, where nothing may be read
from pathlib import Path

from tqdm import tqdm

from tinyclf.data.annotations import SPLITS
from tinyclf.data.archive import looks_like
from tinyclf.data.registry import TINY_IMAGENET, URL, Layout, dataset_info
from tinyclf.data.synthetic import find_dataset, make_dataset
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable

SIZE = 248_100_043  # bytes, of the official archive
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CHUNK = 1 << 18  # bytes read at a time


def locate_dataset(name: str) -> tuple[Path, Layout]:
    """The folder or zip of a data set, or of its whole, and its layout; first made or downloaded where need be.

    Tiny-ImageNet is expected where `TINYCLF_DATA` points, else in `data/`, where it is downloaded if missing.
    """
    info = dataset_info(name)
    layout = info.layout
    if info.synthetic:
        made = (folder for parent in paths.data_dirs() if (folder := find_dataset(layout, parent)))
        return next(made, None) or make_dataset(layout, paths.data_dir()), layout
    found = [path for root in paths.tiny_imagenet_sources() if (path := locate(root, layout))]
    if found:
        return found[0], layout
    if root := os.environ.get("TINYCLF_DATA"):
        raise TinyclfError(
            f"TINYCLF_DATA points to {root}, where there is neither {layout.folder} nor {layout.folder}.zip. "
            f"{looks_like(paths.user_path(root))}Correct it, or unset it to have the set downloaded."
        )
    return locate_or_download(paths.data_dir(), layout, fetch=True), layout


def locate_or_download(root: Path, layout: Layout = TINY_IMAGENET, fetch: bool = False) -> Path:
    """The folder or zip of the set in `root`; Tiny-ImageNet is downloaded to there if missing and `fetch` is set."""
    root = paths.user_path(root)
    path = locate(root, layout)
    if path is None and fetch and layout == TINY_IMAGENET:
        path = download(root)
    if path is None:
        remedy = " or pass download=True" if layout == TINY_IMAGENET else ""
        raise TinyclfError(
            f"{root} holds neither the folder {layout.folder} nor {layout.folder}.zip. {looks_like(root)}"
            f"Put one of them there{remedy}. The official zip is {URL}."
        )
    return path


def locate(root: Path, layout: Layout) -> Path | None:
    """The data set in `root`: `root` itself, or the layout's folder or zip in it, or in a folder in it.

    A folder wins over a zip. A `root` that is a folder of the set, such as `train`, stands for the whole set.
    """
    if root.is_file():
        return root
    if root.name in SPLITS and isfile(root.parent / "wnids.txt"):
        return root.parent
    try:
        inside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        inside = []
    folders = [root, root / layout.folder, *(path / layout.folder for path in inside)]
    found = [folder for folder in folders if isfile(folder / "wnids.txt")]
    found += [path for parent in (root, *inside) if isfile(path := parent / f"{layout.folder}.zip")]
    found += [folder for folder in folders[1:] if folder.is_dir()]  # and what is wrong with it is said when it is read
    return found[0] if found else None


class _BrokenError(Exception):
    """The connection failed or broke; another try may help."""


def download(
    folder: Path,
    url: str = URL,
    size: int = SIZE,
    md5: str = MD5,
    tries: int = 4,
    pause: float = 1,
    timeout: float = 30,
) -> Path:
    """Fetches `url` into `folder` and returns the file's path; does nothing where that file is already there.

    `<name>.tinyclf-part` keeps what came, and the next try, or the next call, goes on from there. After a try without
    a byte it waits `pause` seconds, then twice as long and so on; `timeout` seconds of silence end a connection.
    Raises TinyclfError after `tries` tries in a row without a byte, and for a file of another size or md5.
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
                print(f"downloading {url} ({size:,} bytes) to {target}", file=sys.stderr, flush=True)
                _fetch(part, url, size, tries, pause, timeout)
                _verify(part, size, md5)
                os.replace(part, target)
        except (_BrokenError, ValueError) as error:
            raise TinyclfError(f"{url} cannot be fetched: {error}. Start again to go on. {by_hand}") from error
        except OSError as error:
            raise TinyclfError(f"{part} cannot be written ({error.strerror}): free some space. {by_hand}") from error
    return target


def _fetch(part: Path, url: str, size: int, tries: int, pause: float, timeout: float) -> None:
    """Appends to `part` until it has `size` bytes. Raises _BrokenError, or ValueError where no other try helps."""
    failures = 0
    # disable=None: no bar where stderr is not a terminal.
    with part.open("ab") as file, tqdm(total=size, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar:
        while (start := file.tell()) < size:
            bar.update(start - bar.n)
            try:
                for chunk in _chunks(url, start, size, timeout):
                    file.write(chunk)
                    bar.update(len(chunk))
            except _BrokenError as error:
                failures = failures + 1 if file.tell() == start else 0
                if failures == tries:
                    raise
                tqdm.write(f"connection lost at byte {file.tell():,} ({error}); going on from there", file=sys.stderr)
                time.sleep(pause * 2 ** max(failures - 1, 0))


def _chunks(url: str, start: int, size: int, timeout: float) -> Iterator[bytes]:
    """The bytes of `url` from `start` on, from one connection. Raises as `_fetch` does."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            position = start if response.status == 206 else 0  # a server that ignores Range begins at 0 again
            length = int(response.headers.get("Content-Length", size - position))
            if position + length != size:  # such as the page of a network that wants a login first
                raise ValueError(f"the server's file has {position + length:,} bytes instead of {size:,}")
            while chunk := response.read(CHUNK):
                fresh = chunk[max(start - position, 0) :]
                position += len(chunk)
                if position > size:
                    raise ValueError(f"the server's file has more than {size:,} bytes")
                if fresh:
                    yield fresh
            if position < size:
                raise _BrokenError(f"it ended after {position:,} of {size:,} bytes")
    except urllib.error.HTTPError as error:
        passing = error.code >= 500 or error.code in (408, 429)  # an overloaded or broken server
        raise (_BrokenError if passing else ValueError)(f"HTTP status {error.code}, {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(getattr(error, "reason", None) or error) from error


def _verify(part: Path, size: int, md5: str) -> None:
    """Raises ValueError for another file, which is removed, so that the next call starts anew."""
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        found = part.stat().st_size
        part.unlink()
        raise ValueError(f"it is not the file it should be: {found:,} bytes, md5 {actual}. It is removed")
