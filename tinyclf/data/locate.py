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
from tinyclf.data.synthetic import dataset_folder, make_dataset
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked

DIGEST = "md5:90528d7ca1a48142e341f4ef8d21d0de"  # of the official archive, 248,100,043 bytes
CHUNK = 1 << 18  # bytes read at a time
GONE = (401, 403, 404, 410)  # HTTP statuses for which another try does not help
NOTHING_LEFT = 416  # the one that says that a file has no more bytes


def locate_dataset(name: str) -> tuple[Path, Layout]:
    """The folder or zip of a data set, or of its whole, and its layout; first made or downloaded where need be.

    name: one of registry.DATASETS, or the path of own images. Tiny-ImageNet is expected where `TINYCLF_DATA` points,
    else in `data/`, where it is downloaded if missing.
    """
    info = dataset_info(name)
    layout = info.layout
    if info.own:
        if not os.path.isdir(info.name):
            raise TinyclfError(f"dataset: no folder {info.name}, which should hold train/CLASS/* and val/CLASS/*")
        return Path(info.name), layout
    if info.synthetic:
        made = (folder for parent in paths.data_dirs() if (folder := dataset_folder(layout, parent)).is_dir())
        return next(made, None) or make_dataset(layout, paths.data_dir()), layout
    found = [path for root in paths.tiny_imagenet_sources() if (path := locate(root, layout))]
    chosen = os.environ.get("TINYCLF_DATA")
    return found[0] if found else locate_or_download(Path(chosen or paths.data_dir()), layout, not chosen), layout


def locate_or_download(root: Path, layout: Layout = TINY_IMAGENET, fetch: bool = False) -> Path:
    """The folder or zip of the set in `root`; Tiny-ImageNet is downloaded to there if missing and `fetch` is set."""
    root = paths.user_path(root)
    path = locate(root, layout)
    if path is None and fetch and layout == TINY_IMAGENET:
        return download(root, URL, DIGEST)
    if path is None:
        fault = f"{root} holds neither the folder {layout.folder} nor {layout.folder}.zip. Put one of them there"
        remedy = "correct the path, or have it downloaded (unset TINYCLF_DATA; in Python, download=True)"
        raise TinyclfError(f"{fault}, {remedy}: {URL}")
    return path


def locate(root: Path, layout: Layout) -> Path | None:
    """The data set in `root`: `root` itself, or the layout's folder or zip in it, or in a folder in it.

    A folder wins over a zip. A `root` that is a folder of the set, such as `train`, stands for the whole set.
    """
    if root.is_file() or not layout.classes:
        return root
    parents = [root, *sorted(root.glob("[!.]*/"))]
    folders = [parent / layout.folder for parent in parents]
    whole = [root.parent] if root.name in SPLITS else []
    found = [folder for folder in (*whole, root, *folders) if isfile(folder / "wnids.txt")]
    found += [path for parent in parents if isfile(path := parent / f"{layout.folder}.zip")]
    found += [folder for folder in folders if folder.is_dir()]  # and what is wrong with it is said when it is read
    return found[0] if found else None


def download(folder: Path, url: str, digest: str, *, tries: int = 4, pause: float = 1, timeout: float = 30) -> Path:
    """Fetches `url` into `folder` and returns the file's path; does nothing where that file is already there.

    digest: how its hash has to start, as `md5:90528d7c`. `<name>.tinyclf-part` keeps what came, and the next try, or
    call, goes on from there. After a try without a byte it waits `pause` seconds, then twice as long and so on;
    `timeout` seconds of silence end a connection.
    Raises TinyclfError after `tries` tries in a row without a byte, and for another file, of which nothing is kept.
    """
    target = Path(folder) / url.rpartition("/")[2]
    part = target.with_name(f"{target.name}.tinyclf-part")  # browsers name theirs `.part`
    by_hand = f"Or get it by hand: {url} ({digest}), to be put at {target}."
    if target.exists():
        return target
    with locked(target.with_name(f"{target.name}.lock"), f"Another process is downloading {target}: wait for it"):
        try:
            tqdm.write(f"downloading {target}: waiting {timeout:.0f} seconds for an answer. {by_hand}", sys.stderr)
            with part.open("ab") as file:
                _fetch(file, url, tries, pause, timeout)
            _verify(part, digest)
            os.replace(part, target)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TinyclfError(f"{url} cannot be fetched: {error}. Start again to go on. {by_hand}") from error
    return target


def _fetch(file: BinaryIO, url: str, tries: int, pause: float, timeout: float) -> None:
    """Appends to `file` until it is whole, over as many connections as that takes. Raises the last's error."""
    failures = 0
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(unit="B", unit_scale=True, desc=file.name, disable=None) as bar:
        while True:
            start = file.tell()
            try:
                return _append(file, url, timeout, bar)
            except (OSError, http.client.HTTPException) as error:
                status = getattr(error, "code", None)
                if status == NOTHING_LEFT:
                    return
                failures = failures + 1 if file.tell() <= start else 0
                if failures == tries or status in GONE:
                    raise
                tqdm.write(f"connection lost at byte {file.tell():,} ({error}); going on from there", file=sys.stderr)
                time.sleep(pause * 2 ** max(failures - 1, 0))


def _append(file: BinaryIO, url: str, timeout: float, bar: "tqdm[None]") -> None:
    """Appends what one connection gives. Raises an OSError or HTTPException where that is not all."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.status != 206:  # a server that ignores Range begins anew
            start = file.seek(0)
            file.truncate()
        length = response.length or 0  # None where Content-Length is missing or no number
        bar.total = start + min(length, sys.maxsize)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(file.tell() - bar.n)
        if file.tell() < bar.total:
            raise ConnectionError("the server ended it")


def _verify(part: Path, digest: str) -> None:
    """Raises ValueError for another file, which is removed, so that the next call starts anew."""
    kind, _, expected = digest.partition(":")
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, kind).hexdigest()
    if not actual.startswith(expected):
        found = part.stat().st_size
        part.unlink()
        raise ValueError(f"it is not the file it should be: {found:,} bytes, {kind}:{actual}. It is removed")
