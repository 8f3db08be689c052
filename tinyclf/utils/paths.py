"""Where files are. Every path of the project is resolved here, so that a notebook works from any folder.

In a checkout they are the checkout's own folders. An installed package carries the notebooks within itself (see
`package-dir` in pyproject.toml), and has `data/` and `reports/` in the working folder.
"""

import os
from pathlib import Path

import tinyclf

PACKAGE = Path(tinyclf.__file__).resolve().parent
PROJECT = None if (PACKAGE / "notebooks").is_dir() else PACKAGE.parent  # the checkout; None for an installed package
NOTEBOOKS = (PROJECT or PACKAGE) / "notebooks"


def data_dir() -> Path:
    """Folder for synthetic, downloaded and packed data: `data/` of the checkout, else of the working folder."""
    return (PROJECT or Path.cwd()) / "data"


def tiny_imagenet_source() -> Path:
    """Where Tiny-ImageNet is expected: `TINYCLF_DATA` (a folder or a zip), else `data/`."""
    return Path(os.environ.get("TINYCLF_DATA") or data_dir()).expanduser().absolute()


def reports_dir() -> Path:
    """Where runs leave records and pages: `TINYCLF_REPORTS`, else `reports/` of the checkout or the working folder."""
    return Path(os.environ.get("TINYCLF_REPORTS") or (PROJECT or Path.cwd()) / "reports").expanduser().absolute()
