"""Widgets for whoever sits at a notebook with a live kernel. Headless, by papermill or a test, they show nothing."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from IPython import get_ipython
from IPython.display import display
from ipywidgets import Dropdown, IntSlider, SelectMultiple, interact

from tinyclf.experiments.record import Record, read_table
from tinyclf.report import images
from tinyclf.report.figures import run_curves, show
from tinyclf.report.runs import load_histories

if TYPE_CHECKING:  # these import torch
    from tinyclf.data.cache import Packed
    from tinyclf.data.tiny_imagenet import TinyImageNet

AT_ONCE = 12  # images


def live() -> bool:
    """Whether JupyterLab or VS Code started this kernel, so that somebody sits at it."""
    shell = get_ipython()
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in getattr(shell, "user_ns", {})


def widget(draw: Callable[..., None], **controls: Dropdown | IntSlider | SelectMultiple) -> None:
    """Call `draw` whenever a control changes, where there is somebody to change it."""
    if live():
        interact(draw, **controls)


def classes(split: "TinyImageNet") -> None:
    """Pick a class and see images of it."""

    def draw(target: int) -> None:
        display(images.of_class(split, target, AT_ONCE))

    words = sorted((words, target) for target, words in enumerate(split.class_names))
    widget(draw, target=Dropdown(options=words, description="class"))


def mistakes(record: Record, data: "Packed") -> None:
    """Leaf through the most confident mistakes of a run."""

    def draw(first: int) -> None:
        display(images.mistakes(record, data, AT_ONCE, first=first - 1))

    count = max(1, len(read_table(record, "mistakes.csv")))
    widget(draw, first=IntSlider(min=1, max=count, step=AT_ONCE, description="from", continuous_update=False))


def runs(dataset: str) -> None:
    """Pick runs and see their curves in one figure."""
    histories = load_histories(dataset)
    if histories.empty:
        return
    options = histories["run"].unique().tolist()

    def draw(names: tuple[str, ...]) -> None:
        if names:
            show(*run_curves(histories[histories["run"].isin(names)]))

    widget(draw, names=SelectMultiple(options=options, value=options[:2], description="runs"))
