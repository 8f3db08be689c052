"""Figures, made from records, published numbers and images alone, and shown with a text for who does not see them."""

import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinyclf.dataset import TinyImageNet
from tinyclf.records import Record
from tinyclf.tables import published_row

COLOURS = {"train": "#0072b2", "val": "#d55e00"}  # Okabe and Ito 2008: told apart by colour-blind readers and in print
SPLITS = {"train": "training", "val": "validation"}
PANELS = {"loss": "log loss (nats)", "accuracy": "accuracy (top-1)"}


def curves(records: dict[str, Record]) -> Figure:
    """Log loss and accuracy by epoch, training and validation: a line of two panels for each run, by its name.

    Under the curves of a run that reproduces a published row, the published ones are dotted.
    """
    count = len(records)
    figure, panels = plt.subplots(count, 2, figsize=(9, 3.4 * count), squeeze=False, layout="constrained")
    for (name, record), line in zip(records.items(), panels, strict=True):
        for axes, what in zip(line, PANELS, strict=True):
            curve(axes, name, record, what)
        title = f"{name} on {record['settings']['dataset']}, from {record['weights']['label']}"
        line[0].set_title(title, fontsize="medium", loc="left")
        line[1].legend(fontsize="small")
    plt.close(figure)  # so that a notebook shows it once, by `show`
    return figure


def curve(axes: Axes, name: str, record: Record, what: str) -> None:
    """One panel: `what` is `loss` or `accuracy`."""
    history, published = record["history"], published_row(name)
    for split, label in SPLITS.items():
        style = {"color": COLOURS[split], "markersize": 3}
        key = f"{split}_{what}"
        axes.plot([row["epoch"] for row in history], [row[key] for row in history], "o-", label=label, **style)
        if published:
            axes.plot(published["curve_epochs"], published[key], ":", label=f"{label}, published", **style)
    axes.set(xlabel="epoch", ylabel=PANELS[what])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def describe(name: str, record: Record) -> str:
    """A run's curves in words."""
    first, last = record["history"][0], record["history"][-1]
    dotted = " The published curves on Tiny-ImageNet are dotted beside them." if published_row(name) else ""
    return (
        f"Log loss and accuracy of {name} on {record['settings']['dataset']}, starting from "
        f"{record['weights']['label']}, by epoch: from epoch 1 to "
        f"{last['epoch']}, validation accuracy goes from {first['val_accuracy']:.1%} to {last['val_accuracy']:.1%}, "
        f"validation log loss from {first['val_loss']:.2f} to {last['val_loss']:.2f}.{dotted}"
    )


def samples(split: TinyImageNet, count: int = 12, columns: int = 6) -> tuple[Figure, str]:
    """One image each of `count` classes spread over all, with words and bounding box; and the figure in words."""
    first = {target: index for index, target in reversed(list(enumerate(split.targets)))}
    shown = np.linspace(0, len(split.classes) - 1, min(count, len(split.classes))).round().astype(int)
    lines = -(-len(shown) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(9, 1.8 * lines), squeeze=False, layout="constrained")
    for axes in panels.flat:
        axes.axis("off")
    words = [split.class_names[target].split(",")[0] for target in shown]
    for axes, target, word in zip(panels.flat, shown, words, strict=False):
        left, top, right, bottom = map(int, split.boxes[first[target]])
        axes.imshow(split.load(first[target]), interpolation="none")  # the browser enlarges, not the file
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white"))
        axes.set_title(word, fontsize="small")
    plt.close(figure)
    return figure, f"Sample images with their bounding boxes, one each of these classes: {', '.join(words)}."


def show(figure: Figure, text: str) -> None:
    """Display `figure` in a notebook as SVG; `text` says what is to be seen, and becomes its alternative text."""
    svg = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "tinyclf"}):  # the same figure gives the same file
        figure.savefig(svg, format="svg", metadata={"Date": None})
    bundle = {"image/svg+xml": svg.getvalue(), "text/plain": text}
    display(bundle, raw=True, metadata={"image/svg+xml": {"alt": text}})
