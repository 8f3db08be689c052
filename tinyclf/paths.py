"""Where things are. Every path of the project is resolved here, so that a notebook works from any folder."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOKS = PROJECT / "notebooks"


def data_dir() -> Path:
    """Folder for what is drawn, downloaded or cached: the project's `data/`."""
    return PROJECT / "data"


def tiny_imagenet_source() -> Path:
    """Where Tiny-ImageNet is looked for: `TINYCLF_DATA` (a folder or a zip), else `data/`."""
    return Path(os.environ.get("TINYCLF_DATA") or data_dir()).expanduser().absolute()


def reports_dir() -> Path:
    """Where runs leave their records and pages: `TINYCLF_REPORTS`, else the project's `reports/`."""
    return Path(os.environ.get("TINYCLF_REPORTS") or PROJECT / "reports").expanduser().absolute()
