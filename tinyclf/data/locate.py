"""Finds a data set on disk; makes the synthetic one, and downloads Tiny-ImageNet, where they are missing."""

import os
from os.path import isfile  # which is False, and not an error, where nothing may be read
from pathlib import Path

from tinyclf.data.annotations import SPLITS
from tinyclf.data.archive import looks_like
from tinyclf.data.download import download as download_zip
from tinyclf.data.registry import TINY_IMAGENET, Layout, dataset_info
from tinyclf.data.synthetic import is_made, make_dataset
from tinyclf.utils import paths
from tinyclf.utils.errors import TinyclfError


def locate_dataset(name: str) -> tuple[Path, Layout]:
    """The folder or zip of a data set, or of its whole, and its layout; first made or downloaded where need be.

    Tiny-ImageNet is expected where `TINYCLF_DATA` points, else in `data/`, where it is downloaded if missing.
    """
    info = dataset_info(name)
    layout = info.layout
    if info.synthetic:
        made = (folder for folder in paths.data_dirs() if is_made(layout, folder))
        return make_dataset(layout, next(made, None) or paths.data_dir()), layout
    found = [path for root in paths.tiny_imagenet_sources() if (path := locate(root, layout))]
    if found:
        return found[0], layout
    if root := os.environ.get("TINYCLF_DATA"):
        raise TinyclfError(
            f"TINYCLF_DATA points to {root}, where there is neither {layout.folder} nor {layout.folder}.zip. "
            f"{looks_like(paths.user_path(root))}Correct it, or unset it to have the set downloaded."
        )
    return locate_or_download(paths.data_dir(), layout, download=True), layout


def locate_or_download(root: Path, layout: Layout = TINY_IMAGENET, download: bool = False) -> Path:
    """The folder or zip of the set in `root`; Tiny-ImageNet is downloaded to there if missing and `download` is set."""
    root = paths.user_path(root)
    path = locate(root, layout)
    if path is None and download and layout == TINY_IMAGENET:
        path = download_zip(root)
    if path is None:
        remedy = " or pass download=True" if layout == TINY_IMAGENET else ""
        raise TinyclfError(
            f"{root} holds neither the folder {layout.folder} nor {layout.folder}.zip. {looks_like(root)}"
            f"Put one of them there{remedy}."
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
