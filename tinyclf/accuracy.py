"""The accuracy tables of all experiments, made from records and published numbers alone."""

import re
import statistics
import tomllib
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tinyclf import catalog as experiments
from tinyclf.checks import one_of
from tinyclf.commands import changes, lineage
from tinyclf.flops import training_cost
from tinyclf.names import family
from tinyclf.paths import PROJECT, reports_dir
from tinyclf.record import Record, read_records, settings_of
from tinyclf.settings import Settings

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "published.toml").read_text())
PUBLISHED_COLUMNS = ("README", "published last", "published best")
OURS = (
    *("published, same epoch", "ours last", "difference", "ours best", "mirrored too", "input", "epochs", "arithmetic"),
    *("seeds", "starts from", "seconds", "hardware"),
)
SCRATCH, PRETRAINED = "From nothing", "From ImageNet weights"
READING_ERROR = 0.4  # points, of an accuracy that was read off a published figure
NOT_RUN = dict.fromkeys(OURS, "") | {"ours last": "not run"}


class Row(NamedTuple):
    """One row of the accuracy tables."""

    table: str  # SCRATCH or PRETRAINED
    title: str  # name of the experiment, or what else of the one before
    changed: str  # what its runs have other than the experiment
    goals: list[str]  # to reach, and whether that was; none for what reproduces a published row
    runs: list[Record]  # that it is made of, alike but for their seeds; none where it was not run
    cells: dict[str, str]  # the rest, as text by column


def published_row(name: str) -> dict[str, Any] | None:
    """The published row that an experiment, or its run of whatever seed, reproduces; None where there is none."""
    row: str = experiments.entries().get(family(name), {}).get("row", "")
    if row:
        one_of(f"row of {name}", row, tuple(PUBLISHED))
    return PUBLISHED.get(row)


def published_at(row: dict[str, Any], curve: str, epoch: int) -> float | None:
    """A published curve's value at an epoch; None where none could be read off a figure, or none was published."""
    return dict(zip(row.get("curve_epochs", ()), row.get(curve, ()), strict=True)).get(epoch)


def by_experiment(records: dict[str, Record]) -> dict[str, list[Record]]:
    """The records of each experiment that was run on all images, in order: one for each seed, alike otherwise.

    Of runs that are not alike, those with the experiment's own settings count; then, those of the most epochs.
    """
    found: dict[str, list[Record]] = {}
    for name in experiments.entries():
        alike: dict[tuple[str, ...], list[Record]] = {}
        for run, record in records.items():
            if family(run) == name and not settings_of(record).hold_out:
                kind = (changes(name, record), start_of(record), record["data"]["sha256"])
                alike.setdefault(kind, []).append(record)
        if alike:
            runs = alike[min(alike)]  # nothing changed, an empty text, comes first
            longest = max(len(record["history"]) for record in runs)
            whole = [record for record in runs if len(record["history"]) == longest]
            found[name] = sorted(whole, key=lambda record: record["settings"]["seed"])
    return found


def start_of(record: Record) -> str:
    """What a run started from, in words, without the seed of that."""
    *parents, origin = record["weights"]["label"].split(", from ")
    return ", from ".join([*map(family, parents), origin])


def accuracy_rows(dataset: str) -> list[Row]:
    """Validation accuracy, top-1: published beside ours, for each experiment that reproduces a row or has a goal.

    Every number of ours comes from a record under `reports/<dataset>/`; what was not run says so. Several seeds make a
    mean and the standard deviation between them.
    """
    ours = by_experiment(read_records(dataset))
    rows = []
    for name, experiment in experiments.read(dataset).items():
        published, runs = published_row(name), ours.get(name, [])
        goals = [judged(goal, runs) for goal in experiments.entries()[name].get("goals", [])]
        if not (published or goals):
            continue
        planned = Settings.from_notebook(experiment.parameters)
        start = runs[0]["weights"]["label"] if runs else planned.weights.replace("none", "nothing")
        table = SCRATCH if start.endswith("nothing") else PRETRAINED
        changed = changes(name, runs[0]) if runs else ""
        cells = published_cells(published) | our_cells(runs, published["epochs"] if published else planned.epochs)
        if published and runs:
            cells |= beside(published, runs)
        rows.append(Row(table, name, changed, goals, runs, cells))
        for size, there in (published or {}).get("other_sizes", {}).items():
            cells = published_cells(there) | cells_at(size, runs, there)
            rows.append(Row(table, f"the same model, evaluated at {pixels(size)}", "", [], [], cells))
    return rows


def accuracy_tables(dataset: str) -> dict[str, pd.DataFrame]:
    """The accuracy rows as text, by title of the table.

    One table for what started from nothing and one for what started from ImageNet weights: images of Tiny-ImageNet are
    ImageNet's own, so that a pretrained model may have seen those that it is evaluated on.
    """
    rows = accuracy_rows(dataset)
    return {
        title: pd.DataFrame([{"experiment": described(row)} | row.cells for row in rows if row.table == title])
        for title in (SCRATCH, PRETRAINED)
    }


def described(row: Row) -> str:
    """The first cell of a row in Markdown."""
    changed = f", changed: {row.changed}" if row.changed else ""
    return f"**{row.title}**{changed}; to reach: {'; '.join(row.goals)}" if row.goals else row.title + changed


def beside(published: dict[str, Any], runs: list[Record]) -> dict[str, str]:
    """The cells that set `runs` beside a published row at the epoch that they ended with, if it is known for that."""
    epoch = runs[0]["result"]["last"]["epoch"]
    curve = published_at(published, "val_accuracy", epoch)
    then = published["last"] if curve is None and epoch == published["epochs"] else curve
    ours = [run["result"]["last"]["val_accuracy"] for run in runs]
    return {
        "published, same epoch": "" if curve is None else percent(curve),
        "difference": "" if then is None else difference(runs, ours, then),
    }


def difference(runs: list[Record], ours: list[float], published: float) -> str:
    """The mean of accuracies of ours less a published one, in points; empty for another data set than the published."""
    if runs[0]["settings"]["dataset"] != "tiny-imagenet":
        return ""
    return f"{100 * (statistics.mean(ours) - published):+.2f}"


def judged(goal: dict[str, Any], runs: list[Record]) -> str:
    """A goal in words, and whether the mean of `runs` reached it, at no more epochs and arithmetic than it allows.

    Goals are of Tiny-ImageNet: no word of it for runs on another data set.
    """
    text: str = goal["text"]
    if not runs or runs[0]["settings"]["dataset"] != "tiny-imagenet":
        return text
    accuracy = statistics.mean(run["result"]["last"]["val_accuracy"] for run in runs)
    limits = [(len(runs[0]["history"]), "epochs"), (share(runs[0]), "arithmetic")]
    within = all(value <= goal.get(limit, value) for value, limit in limits)
    return f"{text}: {'reached' if within and accuracy >= goal['accuracy'] else 'missed'}"


def published_cells(published: dict[str, Any] | None) -> dict[str, str]:
    """The published side of a row; empty for one that is ours alone."""
    if not published:
        return dict.fromkeys(PUBLISHED_COLUMNS, "")
    best = percent(published["best"]) if "best" in published else ""
    cells = (percent(published["readme"], 1), percent(published["last"]), best)
    return dict(zip(PUBLISHED_COLUMNS, cells, strict=True))


def our_cells(runs: list[Record], epochs: int) -> dict[str, str]:
    """Our side of a row, that is planned for so many epochs."""
    if not runs:
        return NOT_RUN
    mirrored = [run["mirrored"]["top1"] for run in runs if run.get("mirrored")]
    cells = (
        "",
        shown("accuracy", *(run["result"]["last"]["val_accuracy"] for run in runs)),
        "",
        shown("accuracy", *(run["result"]["best"]["val_accuracy"] for run in runs)),
        shown("accuracy", *mirrored) if mirrored else "",
        pixels(settings_of(runs[0]).input_size),
        f"{runs[0]['result']['last']['epoch']} of {epochs}",
        relative_cost(runs[0]),
        str(len(runs)),
        runs[0]["weights"]["label"],
        f"{seconds_of(runs):,.0f}",
        hardware_of(runs),
    )
    return dict(zip(OURS, cells, strict=True))


def cost(record: Record) -> int:
    """The multiply-adds, forward and backward, that the training behind a record took: its own and its parents'."""
    classes, images = record["data"]["classes"], record["data"]["train"]
    return sum(training_cost(settings_of(each), classes, images) for each in (record, *lineage(record)))


def seconds_of(runs: list[Record]) -> float:
    """The mean of the time that training took, with its validation."""
    mean: float = statistics.mean(run["seconds"] for run in runs)
    return mean


def share(record: Record) -> float:
    """The multiply-adds of `cost`, in parts of what row 1 takes on as many images."""
    return cost(record) / training_cost(Settings(), record["data"]["classes"], record["data"]["train"])


def relative_cost(record: Record) -> str:
    """The same as text: `1 / 7.5`, or `5.7` where it is more."""
    ours = share(record)
    return f"1 / {1 / ours:.1f}" if ours < 1 else f"{ours:.1f}"


def hardware_of(runs: list[Record]) -> str:
    """Every machine that any of `runs` was trained on."""
    names = []
    for hardware in (environment["hardware"] for run in runs for environment in run["environments"]):
        processes = f" in {hardware['processes']} processes" if hardware.get("processes", 1) > 1 else ""
        names.append(hardware["name"] + f", {hardware['threads']} threads" * (hardware["device"] == "cpu") + processes)
    return "; ".join(dict.fromkeys(names))


def cells_at(size: str, runs: list[Record], published: dict[str, Any]) -> dict[str, str]:
    """Ours for the models of `runs` at another input size than the one that they were trained for."""
    there = at_size(size, runs)
    if not there:
        return NOT_RUN
    return NOT_RUN | {
        "ours last": shown("accuracy", *there),
        "difference": difference(runs, there, published["last"]),
        "input": pixels(size),
        "epochs": "0",
    }


def at_size(size: str, runs: list[Record]) -> list[float]:
    """The accuracies of those `runs` whose models were evaluated at another size, at that size."""
    return [run["other_sizes"][size]["top1"] for run in runs if size in run.get("other_sizes", {})]


def pixels(size: int | str) -> str:
    """An input size in words."""
    return f"{size}x{size}"


def shown(key: str, *values: float) -> str:
    """A value of a history as text, or mean and deviation of several: accuracies in per cent, losses in nats."""
    mean = statistics.mean(values)
    if "accuracy" not in key:
        return f"{mean:.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
    return percent(mean, more=f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else "")


def accuracy(dataset: str) -> str:
    """The accuracy tables in Markdown, each under its title, and what they say of the order of their rows."""
    tables = [f"### {title}\n\n{markdown(table)}" for title, table in accuracy_tables(dataset).items()]
    return "\n\n".join([*tables, *order(dataset)])


def order(dataset: str) -> list[str]:
    """Whether our pretrained rows, by their last epoch, stand in the published order: a sentence, if there are two."""
    rows = {}
    for name, runs in by_experiment(read_records(dataset)).items():
        published = published_row(name)
        if published and published["starts_from"] != "nothing":
            ours = statistics.mean(run["result"]["last"]["val_accuracy"] for run in runs)
            rows[name] = (published["last"], ours)
            for size, there in published.get("other_sizes", {}).items():
                if ours := at_size(size, runs):
                    rows[f"{name} at {pixels(size)}"] = (there["last"], statistics.mean(ours))
    if len(rows) < 2:
        return []
    by_published, by_ours = (sorted(rows, key=lambda name: -rows[name][which]) for which in (0, 1))
    text = f"Order by the last epoch, published: {' > '.join(by_published)}."
    return [f"{text} Ours: {'the same' if by_ours == by_published else ' > '.join(by_ours)}."]


def report(dataset: str) -> str:
    """The accuracy tables with what a reader must know of them, in Markdown."""
    return "\n\n".join([accuracy(dataset), *notes(dataset)])


def notes(dataset: str) -> list[str]:
    """What a reader must know of the accuracy tables, in Markdown, a sentence or two each."""
    return [
        "Validation accuracy, top-1. The best epoch is chosen on the split that it is reported on; the last is not.",
        "Published, same epoch, is the published curve at our last epoch, read off a figure if that is not its last. "
        "The difference is to that, in points, or without one to the published last epoch if ours has as many.",
        "Of several seeds the table gives mean and standard deviation, and the mean of the seconds.",
        "Arithmetic: multiply-adds of training, forward and backward, with those of the runs that it started from, in "
        "parts of row 1's 15 epochs; what ImageNet weights took is counted for nobody.",
        *stand_ins(dataset, read_records(dataset), "../.."),
    ]


def stand_ins(dataset: str, records: dict[str, Record], project: str) -> list[str]:
    """What stands in for what in these records, a sentence each; `project` leads from the page to the README."""
    if dataset == "mini":
        return [
            "`mini` is a stand-in for both: a small drawn data set instead of Tiny-ImageNet, and weights trained on "
            "other drawn classes instead of ImageNet's. Its numbers show that the path works, and compare with no "
            "published one."
        ]
    origins = (re.search(r"ImageNet \(.*\)$", each["weights"]["label"]) for each in records.values())
    labels = {re.sub(r"([\\`*_\[\]])", r"\\\1", escape(found[0])) for found in origins if found}
    here = PROJECT is not None and reports_dir() == PROJECT / "reports"  # else no README lies where the link leads
    readme = (
        f"[README.md]({project}/README.md#stand-in-weights)" if here else "tinyclf's README, under stand-in weights"
    )
    part = [
        "`tiny-imagenet-20` is every tenth class of Tiny-ImageNet, with all of its images, in batches of 20: what a "
        "small machine carries. To tell 20 classes apart is easier than 200, so of the published numbers only the "
        "order compares."
    ]
    return part * (dataset == "tiny-imagenet-20") + [
        f"{label}: these are not torchvision's ImageNet weights; what they are says {readme}."
        for label in sorted(labels)
    ]


def markdown(table: pd.DataFrame) -> str:
    """A table of text in Markdown. The text may have Markdown in it, but no HTML, and no end of a cell."""
    rows = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in table.astype(str).to_numpy()]
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def duration(seconds: float) -> str:
    """Seconds as text, in minutes or hours where they are many."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def percent(value: float, digits: int = 2, more: str = "") -> str:
    return f"{100 * value:.{digits}f}{more}\u00a0%"  # a space that does not break
