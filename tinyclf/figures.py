"""Tables and figures, made from records and published numbers alone."""

import math
import tomllib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinyclf.runs import Record

COLOURS = {"train": "#0072b2", "val": "#d55e00"}  # Okabe and Ito 2008: told apart by colour-blind readers and in print
SPLITS = {"train": "training", "val": "validation"}
PANELS = {"loss": "log loss (nats)", "accuracy": "accuracy (top-1)"}
ROWS = {"baseline-scratch": "row-1", "baseline-imagenet": "row-2"}
PUBLISHED = tomllib.loads((Path(__file__).parent / "published.toml").read_text())  # rows by name, see the file


def curves(records: dict[str, Record]) -> Figure:
    """Log loss and accuracy by epoch, training and validation: a line of two panels for each run, by its name.

    Under the curve of a run that belongs to a published row, the published one is dotted.
    """
    figure, panels = plt.subplots(
        len(records), 2, figsize=(9, 3.4 * len(records)), squeeze=False, layout="constrained"
    )
    for (name, record), line in zip(records.items(), panels, strict=True):
        for axes, what in zip(line, PANELS, strict=True):
            curve(axes, record["history"], PUBLISHED.get(ROWS.get(name, "")), what)
            axes.set_title(f"{name} on {record['settings']['dataset']}", fontsize="medium")
        line[1].legend(fontsize="small")
    plt.close(figure)  # so that a notebook shows it once, by `show`
    return figure


def curve(axes: Axes, history: list[dict[str, float]], published: dict[str, Any] | None, what: str) -> None:
    """One panel: `what` is `loss` or `accuracy`."""
    epochs = [row["epoch"] for row in history]
    for split, label in SPLITS.items():
        key = f"{split}_{what}"
        if published:
            axes.plot(
                *(published["curve_epochs"], published[key], ":"),
                color=COLOURS[split],
                label=f"{label}, published (Tiny-ImageNet)",
            )
        axes.plot(epochs, [row[key] for row in history], "o-", color=COLOURS[split], markersize=3, label=label)
    axes.set(xlabel="epoch", ylabel=PANELS[what])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def result_table(record: Record) -> pd.DataFrame:
    """The last and the best epoch of one run."""
    rows = {f"{which} epoch": record["result"][which] for which in ("last", "best")}
    table = pd.DataFrame.from_dict(rows, orient="index")[["epoch", "val_accuracy", "val_loss", "train_accuracy"]]
    return table


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook, as SVG with a text for those who do not see it."""
    import io

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    display({"image/svg+xml": text.getvalue(), "text/plain": alt}, raw=True, metadata={"image/svg+xml": {"alt": alt}})


def describe(record: Record) -> str:
    """A record's curves in one sentence, as a figure's text for those who do not see it."""
    first, last = record["history"][0], record["history"][-1]
    return (
        f"Log loss and accuracy of {record['run']} over {len(record['history'])} epochs: validation accuracy goes from "
        f"{first['val_accuracy']:.1%} to {last['val_accuracy']:.1%}, validation log loss from {first['val_loss']:.2f} "
        f"to {last['val_loss']:.2f}; training log loss ends at {last['train_loss']:.2f}."
    )
