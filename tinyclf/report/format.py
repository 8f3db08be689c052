"""Numbers and tables as text, for pages, the README and a terminal: the last step before a reader sees them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tinyclf.data.registry import dataset_info

SHARES = ("accuracy", "top1", "top5", "calibration_error", "flip_tta")  # ends of keys whose values lie in 0..1


class Cell(NamedTuple):
    """What a table says of a row in one place; as `str`, in Markdown."""

    text: str
    notes: Sequence[str] = ()  # said in small letters, or in brackets; code is between backticks
    kind: str = ""  # of a verdict: above or below
    runs: Sequence[str] = ()  # whose pages a page links to

    def __str__(self) -> str:
        notes = "; ".join(filter(None, self.notes))
        return f"{self.text} ({notes})" if self.text and notes else self.text or notes


class Column(NamedTuple):
    """One column of a table for a reader."""

    name: str
    cell: Callable[[Any], Any]  # from a row to text, to Markup that is HTML already, or to a Cell
    number: bool = True  # aligned to the right


def markdown(rows: Iterable[Any], columns: Sequence[Column]) -> str:
    """A table of `rows` in Markdown. A cell may have Markdown in it, but no HTML, and no end of a cell."""
    cells = [[str(column.cell(row)).replace("|", "\\|").replace("<", "&lt;") for column in columns] for row in rows]
    rule = ["--:" if column.number else "---" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[column.name for column in columns], rule, *cells])


def format_metric(key: str, mean: float, std: float = math.nan) -> str:
    """A metric with the standard deviation between seeds: what ends with one of SHARES in per cent, a loss in nats."""
    if math.isnan(mean):
        return ""
    if key.endswith(SHARES):
        return percent(mean, std=std)
    return f"{mean:.3f}" + ("" if math.isnan(std) else f" ± {std:.3f}")


def percent(value: float, digits: int = 2, std: float = math.nan) -> str:
    """A value in 0..1 in per cent, `25.94%`, with a standard deviation if there is one; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"{100 * value:.{digits}f}" + ("" if math.isnan(std) else f" ± {100 * std:.{digits}f}") + "%"


def percent_range(low: float, high: float) -> str:
    """Two ends in 0..1 in per cent: `25.1 to 26.8%`."""
    return f"{100 * low:.1f} to {percent(high, 1)}"


def points(difference: float) -> str:
    """A difference of two accuracies in percentage points, with its sign; empty for NaN."""
    return "" if math.isnan(difference) else f"{100 * difference:+.2f}"


def share(value: float) -> str:
    """A part of something: `1/20.2`, or `5.7` where it is more than all of it, or nothing; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"1/{1 / value:.1f}" if 0 < value < 1 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever suits; empty for NaN."""
    if math.isnan(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def pixels(size: float | str) -> str:
    """The size of a square image."""
    return f"{int(size)}x{int(size)}"


def assignments(values: Mapping[str, Any]) -> str:
    """Settings and their values: `epochs = 3, flip = False`."""
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def hardware(machines: Iterable[Mapping[str, Any]]) -> str:
    """Every machine in words, once. machines: `hardware` of the environments in a record."""
    names = []
    for machine in machines:
        threads = f", {machine['threads']} thread{'s' * (machine['threads'] > 1)}" if machine["device"] == "cpu" else ""
        processes = f" in {machine['processes']} processes" if machine.get("processes", 1) > 1 else ""
        others = f", shared with {machine['others']} other processes" if machine.get("others") else ""
        names.append(f"{machine['name']}{threads}{processes}{others}")
    return "; ".join(dict.fromkeys(names))


def heading(dataset: str) -> str:
    """Of a data set's front page: the project and the data set in words."""
    return f"tinyclf: ResNet18 on {dataset_info(dataset).title}"


def short_commit(commit: str | None) -> str:
    """The first ten digits of a commit, and whether files differed from it."""
    return commit[:10] + "-dirty" * commit.endswith("-dirty") if commit else "not a git checkout"
