"""Figures, made from records, published numbers and images alone, and shown with a text for who does not see them."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinyclf.dataset import TinyImageNet
from tinyclf.records import Record
from tinyclf.tables import published_row, shown

COLOURS = {"train": "#0072b2", "val": "#d55e00"}  # Okabe and Ito 2008: told apart by colour-blind readers and in print
SPLITS = {"train": "training", "val": "validation"}
VALIDATION = ("val_accuracy", "val_loss")
PANELS = {"loss": "log loss (nats)", "accuracy": "accuracy (top-1)"}


def curves(experiments: dict[str, list[Record]]) -> Figure:
    """Log loss and accuracy by epoch, training and validation: a line of two panels for each experiment, by its name.

    Of several seeds, the mean is drawn in a band of one standard deviation on either side. Under the curves of what
    reproduces a published row, the published ones are dotted.
    """
    count = len(experiments)
    figure, panels = plt.subplots(count, 2, figsize=(9, 3.4 * count), squeeze=False, layout="constrained")
    for (name, runs), line in zip(experiments.items(), panels, strict=True):
        for axes, what in zip(line, PANELS, strict=True):
            curve(axes, name, runs, what)
        title = f"{name} on {runs[0]['settings']['dataset']}, from {runs[0]['weights']['label']}{of_seeds(runs)}"
        line[0].set_title(title, fontsize="medium", loc="left")
        line[1].legend(fontsize="small")
    plt.close(figure)  # so that a notebook shows it once, by `show`
    return figure


def curve(axes: Axes, name: str, runs: list[Record], what: str) -> None:
    """One panel: `what` is `loss` or `accuracy`."""
    epochs, published = [row["epoch"] for row in runs[0]["history"]], published_row(name)
    for split, label in SPLITS.items():
        style = {"color": COLOURS[split], "markersize": 3}
        key = f"{split}_{what}"
        values = np.array([[row[key] for row in run["history"]] for run in runs])
        mean = values.mean(0)
        axes.plot(epochs, mean, "o-", label=label, **style)
        if len(runs) > 1:
            deviation = values.std(0, ddof=1)
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=COLOURS[split], alpha=0.25, linewidth=0)
        if published and key in published:
            axes.plot(published["curve_epochs"], published[key], ":", label=f"{label}, published", **style)
    axes.set(xlabel="epoch", ylabel=PANELS[what])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def of_seeds(runs: list[Record]) -> str:
    """How many seeds, where there are several."""
    return f", {len(runs)} seeds" if len(runs) > 1 else ""


def describe(name: str, runs: list[Record]) -> str:
    """The curves of an experiment in words."""
    first, last = ([run["history"][place] for run in runs] for place in (0, -1))
    accuracy, loss = ([shown(key, *(row[key] for row in rows)) for rows in (first, last)] for key in VALIDATION)
    published = "curve_epochs" in (published_row(name) or {})
    dotted = " The published curves on Tiny-ImageNet are dotted beside them." if published else ""
    return (
        f"Log loss and accuracy of {name} on {runs[0]['settings']['dataset']}, starting from "
        f"{runs[0]['weights']['label']}{of_seeds(runs)}, by epoch: from epoch 1 to {last[0]['epoch']}, validation "
        f"accuracy goes from {accuracy[0]} to {accuracy[1]}, validation log loss from {loss[0]} to {loss[1]}.{dotted}"
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


def bars(ablations: pd.DataFrame) -> tuple[Figure, str]:
    """The accuracies of a recipe's ablations, the best on top; those that others go over in another colour."""
    table = ablations.sort_values("accuracy")
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.3 * len(table)), layout="constrained")
    colours = [COLOURS["val" if name in set(table["over"]) else "train"] for name in table["ablation"]]
    axes.barh(table["ablation"], 100 * table["accuracy"], xerr=100 * table["deviation"].fillna(0), color=colours)
    axes.set(xlabel="accuracy on held-out training images (per cent)", xlim=(0, None))
    axes.grid(alpha=0.3, axis="x")
    plt.close(figure)
    named = ", ".join(f"{row['ablation']} {100 * row['accuracy']:.1f}" for _, row in table[::-1].iterrows())
    return figure, f"Accuracy of the ablations of {table['recipe'].iloc[0]}, per cent: {named}."


def before_and_after(image: np.ndarray, enlarged: np.ndarray) -> tuple[Figure, str]:
    """An image and what resizing made of it, uint8 (H, W, 3), each pixel as large in the one as in the other."""
    sizes = [pixels.shape[0] for pixels in (image, enlarged)]
    figure, panels = plt.subplots(1, 2, figsize=(9, 6), width_ratios=sizes, layout="constrained")
    for axes, pixels, size in zip(panels, (image, enlarged), sizes, strict=True):
        axes.imshow(pixels, interpolation="none")
        axes.set_title(f"{size}x{size}", fontsize="medium")
        axes.set_anchor("N")
        axes.axis("off")
    plt.close(figure)
    text = "An image before and after it was resized from {0}x{0} to {1}x{1} pixels, drawn to scale.".format(*sizes)
    return figure, text


def show(figure: Figure, text: str) -> None:
    """Display `figure` in a notebook as SVG; `text` says what is to be seen, and becomes its alternative text."""
    svg = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "tinyclf"}):  # the same figure gives the same file
        figure.savefig(svg, format="svg", metadata={"Date": None})
    bundle = {"image/svg+xml": svg.getvalue(), "text/plain": text}
    display(bundle, raw=True, metadata={"image/svg+xml": {"alt": text}})
