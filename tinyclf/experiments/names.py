"""The names of runs, which are those of their folders. A name ends in the seed unless it is the experiment's own.

Whatever a name comes from, a command, a TOML file or a record, `check_name` decides whether it can be one.
"""

import re
from pathlib import Path
from typing import Any

from tinyclf.data.registry import folder_name
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import reports_dir

NAME = re.compile(r"[A-Za-z0-9][\w.=+-]{0,99}", re.ASCII)
SEED = re.compile(r"-seed-(\d+)$")
RESERVED = re.compile(r"(?i)data|ablations|comparisons|summary|.*\.(html|md|svg|csv|json|ipynb|partial|lock|)")


def check_name(name: Any, what: str = "run") -> None:
    """Raise TinyclfError unless `name` can be a run's folder, next to the pages and tables of the data set."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or RESERVED.fullmatch(name):
        expected = "expected the name of a folder, up to 100 letters, digits and -_.=+, not that of a page or table"
        raise TinyclfError(f"{what} = {name!r}: {expected}")


def dataset_folder(dataset: str) -> Path:
    """Where the runs on a data set leave their files."""
    return reports_dir() / folder_name(dataset)


def run_folder(run: str, dataset: str) -> Path:
    """Where a run leaves its files. Raises TinyclfError for a name that would be another place."""
    check_name(run)
    return dataset_folder(dataset) / run


def with_seed(name: str, seed: int) -> str:
    """The name of a run of the experiment `name` with a seed other than the experiment's own."""
    return f"{name}-seed-{seed}"


def family(name: str) -> str:
    """The name of the experiment that a run belongs to, whatever its seed."""
    return SEED.sub("", name)


def seed_of(name: str) -> int | None:
    """The seed in a run's name; None for the experiment's own."""
    match = SEED.search(name)
    return int(match[1]) if match else None
