"""Figures, made from records and published numbers alone, and shown with a text for who does not see them."""

import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinyclf.accuracy import percent, published_row, shown
from tinyclf.record import Record, read_table

Described = tuple[Figure, str, pd.DataFrame]  # what `show` takes: a figure, the same in words, the numbers in it

STYLE = Path(__file__).with_name("tinyclf.mplstyle")
styled = plt.style.context(STYLE)  # around whatever draws
# Okabe and Ito 2008: told apart by colour-blind readers; where colours are gone, by their marks. Of several runs in
# one figure each has one of these, in this order; of one run, training has the first and validation the second.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b")
MARKS = ("^", "o", "s", "D", "v")
LINES = ("-", "--", "-.")  # of the first five, the next five and so on
# What a dark page has in place of ink and paper, and of colours too dark for it. The paper is drawn, as a notebook may
# be dark where its reader's pages are light.
DARK = {"#24292f": "#e6e8eb", "#ffffff": "#14181d", "#0072b2": "#56b4e9", "#d55e00": "#ff9142"}
SPLITS = {"train": "training", "val": "validation"}
PANELS = {"loss": "log loss (nats)", "accuracy": "accuracy (top-1)"}


def show(figure: Figure, text: str, data: pd.DataFrame | None = None) -> None:
    """Display `figure` in a notebook as SVG. Its page has `text` for who does not see it, and offers `data` as CSV."""
    bundle = {"image/svg+xml": svg(figure), "text/plain": text}
    if data is not None:
        bundle["text/csv"] = data.to_csv(index=False)
    display(bundle, raw=True, metadata={"image/svg+xml": {"alt": text}})


@styled
def svg(figure: Figure) -> str:
    """A figure as SVG that turns dark with the page around it; the same figure gives the same text."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    rules = "".join(
        f'[style*="{use}: {light}"] {{ {use}: {dark} !important }}'
        for light, dark in DARK.items()
        for use in ("fill", "stroke")
    )
    head, opening, body = file.getvalue().partition("<defs>")  # the first thing within the drawing
    return f"{head}<style>@media (prefers-color-scheme: dark) {{ {rules} }}</style>\n {opening}{body}"


def look(place: int, label: str) -> dict[str, Any]:
    """How the line at a place among the lines of a figure is drawn."""
    turn, place = divmod(place, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKS[place], "linestyle": LINES[turn % len(LINES)], "label": label}


def curves(name: str, runs: list[Record]) -> list[Described]:
    """Log loss and accuracy of an experiment by epoch, training and validation: a figure of each.

    Of several seeds, the mean is drawn in a band of one standard deviation on either side. Under the curves of what
    reproduces a published row, the published ones are dotted.
    """
    lines = [(name, runs, split, look(place, SPLITS[split])) for place, split in enumerate(SPLITS)]
    return [by_epoch(lines, what, f"{name} on {runs[0]['settings']['dataset']}{of_seeds(runs)}") for what in PANELS]


def compared(runs: list[Record]) -> list[Described]:
    """Validation log loss and accuracy of several runs by epoch, laid over each other: a figure of each."""
    lines = [(run["run"], [run], "val", look(place, run["run"])) for place, run in enumerate(runs)]
    return [by_epoch(lines, what, "validation") for what in PANELS]


@styled
def by_epoch(lines: list[tuple[str, list[Record], str, dict[str, Any]]], what: str, title: str) -> Described:
    """`loss` or `accuracy` by epoch. lines: of each the experiment, its runs, `train` or `val`, and how it is drawn."""
    figure, axes = plt.subplots()
    texts, data = [], []
    for name, runs, split, style in lines:
        table = history_of(name, runs, f"{split}_{what}")
        draw(axes, table, style, dataset=runs[0]["settings"]["dataset"])
        ours = table.dropna(subset=what)[what]
        texts.append(f"{style['label']} from {shown(what, ours.iloc[0])} to {shown(what, ours.iloc[-1])}")
        data.append(table.assign(run=name, split=split))
    axes.set(xlabel="epoch", ylabel=PANELS[what], title=title)
    axes.locator_params("x", integer=True)
    labels = axes.get_legend_handles_labels()[1]
    columns = 1 if max(map(len, labels)) > 26 else 2  # as many as the figure is wide enough for
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(labels) // columns))  # inches, a line of the legend
    figure.legend(loc="outside lower center", ncols=columns)  # where no curve runs
    plt.close(figure)  # so that a notebook shows it once, by `show`
    together = pd.concat(data)
    dotted = " The published curves on Tiny-ImageNet are dotted." if together["published"].notna().any() else ""
    return figure, f"{PANELS[what]} by epoch, {title}: {'; '.join(texts)}.{dotted}", together


def history_of(name: str, runs: list[Record], key: str) -> pd.DataFrame:
    """A key of the history by epoch, `train_loss` to `val_accuracy`: of runs alike but for their seeds, and published.

    Columns: `epoch`, `loss` or `accuracy`, its `deviation` between seeds, and `published`; NaN where there is none.
    """
    values = pd.DataFrame({run["run"]: {row["epoch"]: row[key] for row in run["history"]} for run in runs})
    row = published_row(name) or {}
    published = dict(zip(row["curve_epochs"], row[key], strict=True)) if key in row else {}
    what = key.partition("_")[2]
    known = pd.Series(published, dtype=float)
    table = pd.DataFrame({what: values.mean(axis=1), "deviation": values.std(axis=1), "published": known})
    return table.rename_axis("epoch").reset_index()


def draw(axes: Axes, table: pd.DataFrame, style: dict[str, Any], dataset: str = "tiny-imagenet") -> None:
    """One line on `dataset`, its band and its published one, from what `history_of` gives."""
    what = table.columns[1]
    ours, published = table.dropna(subset=what), table.dropna(subset="published")
    axes.plot(ours["epoch"], ours[what], **style)
    if ours["deviation"].notna().any():
        ends = (ours[what] - ours["deviation"], ours[what] + ours["deviation"])
        axes.fill_between(ours["epoch"], *ends, color=style["color"], alpha=0.25, linewidth=0)
    if len(published):
        where = "" if dataset == "tiny-imagenet" else " on Tiny-ImageNet"
        more = {"color": style["color"], "label": f"{style['label']}, published{where}"}
        axes.plot(published["epoch"], published["published"], ":", **more)


@styled
def thumbnail(name: str, runs: list[Record]) -> Described:
    """The curve of the validation accuracy alone, small, without axes."""
    table = history_of(name, runs, "val_accuracy")
    figure, axes = plt.subplots(figsize=(1.5, 0.6))
    draw(axes, table, look(1, "validation") | {"markersize": 2})
    axes.axis("off")
    axes.margins(0.05, 0.1)
    plt.close(figure)
    ours = table.dropna(subset="accuracy")["accuracy"]
    ends = f"from {shown('accuracy', ours.iloc[0])} to {shown('accuracy', ours.iloc[-1])}"
    return figure, f"validation accuracy of {name} by epoch, {ends}", table


def of_seeds(runs: list[Record]) -> str:
    """How many seeds, where there are several."""
    return f", {len(runs)} seeds" if len(runs) > 1 else ""


@styled
def bars(ablations: pd.DataFrame) -> Described:
    """The accuracies of a recipe's ablations, the best on top; those that others go over in another colour and mark."""
    table = ablations.sort_values("accuracy")
    figure, axes = plt.subplots(figsize=(6.5, 0.8 + 0.25 * len(table)))
    for name, accuracy, deviation in zip(
        table["ablation"], table["accuracy"], table["deviation"].fillna(0), strict=True
    ):
        under = name in set(table["over"])
        axes.errorbar(100 * accuracy, name, xerr=100 * deviation, color=COLOURS[under], marker=MARKS[under])
    axes.set(xlabel="accuracy on held-out training images (per cent)")
    plt.close(figure)
    named = ", ".join(f"{row['ablation']} {100 * row['accuracy']:.1f}" for _, row in table[::-1].iterrows())
    text = f"Accuracy of the ablations of {table['recipe'].iloc[0]}, per cent: {named}."
    return figure, text, table[["ablation", "over", "accuracy", "deviation"]]


@styled
def reliability(record: Record) -> Described:
    """Accuracy by confidence of a run's model on the validation images, and how many images have each confidence."""
    table = read_table(record, "reliability.csv")
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(4.5, 3.8), sharex=True, height_ratios=(3, 1))
    place = {"x": table["from"], "width": table["to"] - table["from"], "align": "edge", "edgecolor": "#24292f"}
    top.bar(height=table["accuracy"], color=COLOURS[1], alpha=0.6, linewidth=0.6, **place)
    top.plot([0, 1], [0, 1], "--", color="#24292f", linewidth=1, label="confidence = accuracy")
    top.plot(table["confidence"], table["accuracy"], "o", color=COLOURS[1], label="mean of each bin")
    error = f"expected calibration error {percent(record['evaluation']['calibration_error'])}"
    top.set(ylabel="accuracy", ylim=(0, 1), title=error)
    bottom.bar(height=table["images"] / table["images"].sum(), color="#888888", linewidth=0.6, **place)
    bottom.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2)
    plt.close(figure)
    pairs = ", ".join(f"{100 * row['confidence']:.0f} to {100 * row['accuracy']:.0f}" for _, row in table.iterrows())
    return figure, f"Reliability diagram, {error}: confidence to accuracy by bin, per cent: {pairs}.", table


@styled
def extremes(record: Record, count: int = 10) -> Described:
    """Accuracy by class: the `count` best and the `count` worst, with their words."""
    table = read_table(record, "classes.csv").sort_values("accuracy", ascending=False, kind="stable")
    groups = [table] if len(table) <= 2 * count else [table[:count], table[-count:]]
    figure, axes = plt.subplots(figsize=(4.5, 0.7 + 0.19 * (sum(map(len, groups)) + len(groups) - 1)))
    heights = np.concatenate([np.arange(len(group)) + place * (count + 1.0) for place, group in enumerate(groups)])
    drawn = pd.concat(groups)
    axes.barh(heights, drawn["accuracy"], color=COLOURS[1], height=0.75)
    axes.set_yticks(heights, [first_word(words) for words in drawn["words"]], fontsize=8)
    axes.invert_yaxis()
    axes.set(
        xlabel="accuracy",
        xlim=(0, 1),
        title="by class" if len(groups) == 1 else f"the {count} best and the {count} worst classes",
    )
    axes.grid(visible=False, axis="y")
    plt.close(figure)
    named = [
        ", ".join(f"{first_word(row['words'])} {percent(row['accuracy'], 0)}" for _, row in group.iterrows())
        for group in groups
    ]
    return figure, f"Accuracy by class, {'; the worst: '.join(named)}.", drawn


def first_word(words: str) -> str:
    """The first of a class's words, which are many, cut to what fits beside a figure."""
    word = words.split(",")[0]
    return word if len(word) <= 24 else word[:23] + "…"
