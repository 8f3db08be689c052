"""Widgets for whoever sits at a notebook with a live kernel. Headless, by papermill or a test, they show nothing."""

import os
from collections.abc import Callable

from IPython import get_ipython
from IPython.display import display
from ipywidgets import Dropdown, IntSlider, SelectMultiple, interact

from tinyclf import images as pictures
from tinyclf.cache import Packed
from tinyclf.figures import compared, show
from tinyclf.record import Record, read_records, read_table
from tinyclf.tiny_imagenet import TinyImageNet

AT_ONCE = 12  # images


def live() -> bool:
    """Whether a front end with somebody before it, JupyterLab or VS Code, started this kernel."""
    shell = get_ipython()
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in getattr(shell, "user_ns", {})


def widget(draw: Callable[..., None], **controls: Dropdown | IntSlider | SelectMultiple) -> None:
    """`draw`, called anew whenever a control changes, if anybody can."""
    if live():
        interact(draw, **controls)


def classes(split: TinyImageNet) -> None:
    """Pick a class and see images of it."""

    def draw(target: int) -> None:
        display(pictures.of_class(split, target, AT_ONCE))

    words = sorted((words, target) for target, words in enumerate(split.class_names))
    widget(draw, target=Dropdown(options=words, description="class"))


def mistakes(record: Record, data: Packed) -> None:
    """Leaf through the most confident mistakes of a run."""

    def draw(first: int) -> None:
        display(pictures.mistakes(record, data, AT_ONCE, first=first - 1))

    count = max(1, len(read_table(record, "mistakes.csv")))
    widget(draw, first=IntSlider(min=1, max=count, step=AT_ONCE, description="from", continuous_update=False))


def runs(dataset: str) -> None:
    """Pick runs and see their curves over each other."""
    records = read_records(dataset)

    def draw(names: tuple[str, ...]) -> None:
        for each in compared([records[name] for name in names]) if names else ():
            show(*each)

    if records:
        widget(draw, names=SelectMultiple(options=list(records), value=list(records)[:2], description="runs"))
