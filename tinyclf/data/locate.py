"""Finds a data set on disk; makes the synthetic one, and downloads Tiny-ImageNet, where they are missing."""

import hashlib
import http.client
import os
import sys
import time
import urllib.request
from os.path import isfile  # which is False, and not an error, where nothing may be read
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from tinyclf.data.annotations import SPLITS
from tinyclf.data.registry import TINY_IMAGENET, URL, Layout, dataset_info
from tinyclf.data.synthetic import find_dataset, make_dataset
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable

SIZE = 248_100_043  # bytes, of the official archive
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CHUNK = 1 << 18  # bytes read at a time
GONE = (401, 403, 404, 410)  # HTTP statuses for which another try does not help


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
        raise _missing(paths.user_path(root), layout, "correct TINYCLF_DATA, or unset it to have the set downloaded")
    return locate_or_download(paths.data_dir(), layout, fetch=True), layout


def locate_or_download(root: Path, layout: Layout = TINY_IMAGENET, fetch: bool = False) -> Path:
    """The folder or zip of the set in `root`; Tiny-ImageNet is downloaded to there if missing and `fetch` is set."""
    root = paths.user_path(root)
    path = locate(root, layout)
    if path is None and fetch and layout == TINY_IMAGENET:
        path = download(root)
    if path is None:
        raise _missing(root, layout, "pass download=True" if layout == TINY_IMAGENET else "choose another folder")
    return path


def _missing(root: Path, layout: Layout, remedy: str) -> TinyclfError:
    return TinyclfError(
        f"{root} holds neither the folder {layout.folder} nor {layout.folder}.zip. Put one of them there, or "
        f"{remedy}. The official zip is {URL}."
    )


def locate(root: Path, layout: Layout) -> Path | None:
    """The data set in `root`: `root` itself, or the layout's folder or zip in it, or in a folder in it.

    A folder wins over a zip. A `root` that is a folder of the set, such as `train`, stands for the whole set.
    """
    if root.is_file():
        return root
    parents = [root, *sorted(root.glob("[!.]*/"))]
    folders = [parent / layout.folder for parent in parents]
    whole = [root.parent] if root.name in SPLITS else []
    found = [folder for folder in (*whole, root, *folders) if isfile(folder / "wnids.txt")]
    found += [path for parent in parents if isfile(path := parent / f"{layout.folder}.zip")]
    found += [folder for folder in folders if folder.is_dir()]  # and what is wrong with it is said when it is read
    return found[0] if found else None


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
                with part.open("ab") as file:
                    _fetch(file, url, size, tries, pause, timeout)
                _verify(part, md5)
                os.replace(part, target)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TinyclfError(f"{url} cannot be fetched: {error}. Start again to go on. {by_hand}") from error
    return target


def _fetch(file: BinaryIO, url: str, size: int, tries: int, pause: float, timeout: float) -> None:
    """Appends to `file` until it has `size` bytes, over as many connections as that takes. Raises the last's error."""
    failures = 0
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=size, unit="B", unit_scale=True, desc=file.name, disable=None) as bar:
        while (start := file.tell()) < size:
            try:
                _append(file, url, size, timeout, bar)
                if file.tell() < size:
                    raise ConnectionError("the server ended it")
            except (OSError, http.client.HTTPException) as error:
                failures = failures + 1 if file.tell() <= start else 0
                if failures == tries or getattr(error, "code", None) in GONE:
                    raise
                tqdm.write(f"connection lost at byte {file.tell():,} ({error}); going on from there", file=sys.stderr)
                time.sleep(pause * 2 ** max(failures - 1, 0))


def _append(file: BinaryIO, url: str, size: int, timeout: float, bar: "tqdm[None]") -> None:
    """Appends what one connection gives. Raises ValueError where the server has another file."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.status != 206:
            start = 0  # a server that ignores Range begins anew
        length = int(response.headers.get("Content-Length", size - start))
        if start + length != size:  # such as the page of a network that wants a login first
            raise ValueError(f"the server's file has {start + length:,} bytes instead of {size:,}")
        file.seek(start)
        file.truncate()
        bar.update(start - bar.n)
        while file.tell() < size and (chunk := response.read(CHUNK)):
            file.write(chunk)
            bar.update(len(chunk))


def _verify(part: Path, md5: str) -> None:
    """Raises ValueError for another file, which is removed, so that the next call starts anew."""
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        found = part.stat().st_size
        part.unlink()
        raise ValueError(f"it is not the file it should be: {found:,} bytes, md5 {actual}. It is removed")
