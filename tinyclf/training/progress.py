"""How far a long loop has come, for whoever waits."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from tinyclf.training.distributed import this_process

Item = TypeVar("Item")
PATIENCE = 30  # seconds


def progress(items: Iterable[Item], name: str, total: int) -> Iterator[Item]:
    """`items`, `total` of them, with a bar on a terminal that disappears when the loop ends.

    Elsewhere (in a notebook, by papermill, in a log) it prints a line every half minute, which overwrites the one
    before and leaves nothing in the end. Where there are several processes, the first alone reports.
    """
    if sys.stderr.isatty():
        options = {"file": sys.stderr}
    else:
        times = {"mininterval": PATIENCE, "maxinterval": 2 * PATIENCE, "delay": PATIENCE}
        options = {"file": sys.stdout, "bar_format": "{desc}: {percentage:.0f}%, {remaining} left", **times}
    return iter(tqdm(items, name, total, leave=False, disable=not this_process().is_main_process, **options))
