"""Figures, made from tables of runs and published numbers, each with the same in words for who does not see it."""

import io
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinyclf.report.format import format_metric
from tinyclf.report.runs import published_curve


class Described(NamedTuple):
    """A figure, the same in words, and the numbers in it."""

    figure: Figure
    text: str
    data: pd.DataFrame | None = None


class Line(NamedTuple):
    """One line of a figure of curves: what it is called, whose published curve belongs to it, and its epochs."""

    label: str
    experiment: str
    histories: pd.DataFrame  # see `tinyclf.report.runs.history_frame`; the line is the mean over its runs
    split: str  # train or val


# Okabe and Ito 2008: colour-blind readers can tell them apart; without colours, the marks do. Several runs in one
# figure have these in this order. In a figure of one run, training has the first and validation the second.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b")
MARKS = ("^", "o", "s", "D", "v")
LINES = ("-", "--", "-.")  # of the first five, the next five and so on
# What a dark page has for ink, for paper, and for colours that are too dark on it. The paper is part of the figure, as
# a notebook may be dark where the browser's pages are light.
DARK = {"#24292f": "#e6e8eb", "#ffffff": "#14181d", "#0072b2": "#56b4e9", "#d55e00": "#ff9142"}
# What draws in it has the style of the pages, and nothing of the user's own style
style = partial(plt.style.context, Path(__file__).with_name("tinyclf.mplstyle"), after_reset=True)
styled = style()  # around a function that draws
SPLITS = {"train": "training", "val": "validation"}
METRICS = {"loss": "log loss (nats)", "accuracy": "accuracy (top-1)"}


def percent_label(share: float, position: float) -> str:
    """The label of an axis of shares: 30% where tables say 30%."""
    return f"{100 * share:.10g}%"


def show(*described: Described, display_id: str | None = None) -> None:
    """Display figures in a notebook as SVG. Their page has the text as well, and offers the numbers as CSV.

    display_id: of an earlier output, in whose place the figure comes.
    """
    for figure, text, data in described:
        bundle = {"image/svg+xml": svg(figure), "text/plain": text}
        if data is not None:
            bundle["text/csv"] = data.to_csv(index=False)
        metadata = {"image/svg+xml": {"alt": text}}
        display(bundle, raw=True, metadata=metadata, display_id=display_id, update=display_id is not None)


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


def line_style(number: int) -> dict[str, Any]:
    """Colour, mark and dashes of a figure's line by its number, from 0."""
    turn, number = divmod(number, len(COLOURS))
    return {"color": COLOURS[number], "marker": MARKS[number], "linestyle": LINES[turn % len(LINES)]}


@styled
def curves(lines: list[Line], metric: str, title: str, width: float = 4.5) -> Described:
    """`loss` or `accuracy` by epoch. width: of the figure, in inches."""
    figure, axes = plt.subplots(figsize=(width, 3.2 if width < 5 else 4.2))
    letters = int(12.4 * width)  # in a line
    texts, tables = [], []
    for number, line in enumerate(lines):
        table = curve_table(line, metric)
        draw(axes, table, line_style(number), textwrap.fill(line.label, letters))
        values = [format_metric(metric, value) for value in table[metric].dropna()]
        texts.append(f"{line.label} from {values[0]} to {values[-1]}")
        tables.append(table.assign(run=line.experiment, split=line.split))
    axes.set(xlabel="epoch", ylabel=METRICS[metric], title=textwrap.fill(title, letters))
    lines_of_text = "\n".join(axes.get_legend_handles_labels()[1]).count("\n") + 1
    figure.set_figheight(figure.get_figheight() + 0.17 * lines_of_text)  # inches
    figure.legend(loc="outside lower center")  # where no curve runs
    plt.close(figure)  # so that a notebook shows it once, by `show`
    data = pd.concat(tables)
    dotted = " The published curves are dotted." if data["published"].notna().any() else ""
    return Described(figure, f"{METRICS[metric]} by epoch, {title}: {'; '.join(texts)}.{dotted}", data)


def curve_table(line: Line, metric: str) -> pd.DataFrame:
    """A metric of a line by epoch: `epoch`, the metric, its `deviation` between seeds, `published`; NaN if unknown."""
    key, dataset = f"{line.split}_{metric}", line.histories["dataset"].iloc[0]
    values = line.histories.groupby("epoch")[key]
    published = pd.Series(published_curve(line.experiment, dataset, key), dtype=float)
    table = pd.DataFrame({metric: values.mean(), "deviation": values.std(), "published": published})
    return table.rename_axis("epoch").reset_index()


def draw(axes: Axes, table: pd.DataFrame, style: dict[str, Any], label: str) -> None:
    """One line, its band and its published one, from what `curve_table` gives; whole epochs, accuracies in per cent."""
    metric = table.columns[1]
    known, published = table.dropna(subset=metric), table.dropna(subset="published")
    axes.plot(known["epoch"], known[metric], label=label, **style)
    if known["deviation"].notna().any():
        ends = (known[metric] - known["deviation"], known[metric] + known["deviation"])
        axes.fill_between(known["epoch"], *ends, color=style["color"], alpha=0.25, linewidth=0)
    axes.locator_params("x", integer=True, min_n_ticks=1)
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(percent_label)
    if len(published):
        label = f"{label}, published"
        axes.plot(published["epoch"], published["published"], ":", color=style["color"], label=label)
