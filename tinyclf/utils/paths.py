"""Where files are. Every path of the project is resolved here, so that a notebook works from any folder.

In a checkout they are the checkout's own folders. An installed package carries the notebooks within itself (see
`package-dir` in pyproject.toml), and has `data/` and `reports/` in the working folder.
"""

import os
from pathlib import Path

import tinyclf
from tinyclf.utils.errors import TinyclfError

PACKAGE = Path(tinyclf.__file__).resolve().parent
PROJECT = None if (PACKAGE / "notebooks").is_dir() else PACKAGE.parent  # the checkout; None for an installed package
NOTEBOOKS = (PROJECT or PACKAGE) / "notebooks"


def user_path(path: str | Path) -> Path:
    """An absolute path, with `~` and `~user` replaced, where that user's folder is known."""
    return Path(os.path.expanduser(path)).absolute()


def user_file(path: str | Path, what: str) -> Path:
    """The `user_path` of an existing file. Raises TinyclfError where there is none, or nothing may be read.

    what: what it is for, as the message begins.
    """
    file = user_path(path)
    if not os.path.isfile(file):  # False too, and no error, for a pipe, or a name that is too long
        raise TinyclfError(f"{what}: no file {str(file)[:300]}")
    return file


def data_dirs() -> list[Path]:
    """Folders where synthetic, downloaded and packed data may be, the first choice first.

    They are `data/` of the checkout, else of the working folder; and for where that cannot be written, the user's
    folder for caches, `XDG_CACHE_HOME` or `~/.cache`.
    """
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    known = [Path(cache, "tinyclf", "data")] if os.path.isabs(cache) else []  # not every user has a home
    return [(PROJECT or Path.cwd()) / "data", *known]


def data_dir(*first: Path) -> Path:
    """The first of these and of `data_dirs` where data can be written. Raises TinyclfError if there is none."""
    folders = [*first, *data_dirs()]
    if found := next((folder for folder in folders if can_be_written(folder)), None):
        return found
    listed = ", ".join(map(str, folders))
    raise TinyclfError(f"no data can be written to {listed}: make it writable, or set XDG_CACHE_HOME to one that is")


def can_be_written(folder: Path) -> bool:
    """Whether a file could be made in `folder`, which may have to be made first."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def tiny_imagenet_sources() -> list[Path]:
    """Where Tiny-ImageNet may be: where `TINYCLF_DATA` points (a folder or a zip), else in one of `data_dirs`."""
    chosen = os.environ.get("TINYCLF_DATA")
    return [user_path(chosen)] if chosen else data_dirs()


def reports_dir() -> Path:
    """Where runs leave records and pages: `TINYCLF_REPORTS`, else `reports/` of the checkout or the working folder."""
    return user_path(os.environ.get("TINYCLF_REPORTS") or (PROJECT or Path.cwd()) / "reports")
