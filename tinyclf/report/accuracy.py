"""The accuracy of all experiments beside the published one: rows, cells and words. Imports no torch, and no pandas."""

import math
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from tinyclf.data.registry import dataset_info
from tinyclf.experiments import catalog
from tinyclf.report import format as as_text
from tinyclf.report.format import Cell, Column, markdown, percent, pixels
from tinyclf.report.runs import GROUPED, PUBLISHED, STAND_IN, Row, group_runs, published, published_curve, read_runs
from tinyclf.report.verdict import Verdict, difference_interval, interval, judge, order, reproduction, standin, verdict
from tinyclf.utils.paths import NOTEBOOKS

NOTES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("notes.toml").read_text("utf-8"))
TITLES = "From scratch", "From ImageNet weights"
STAND_IN_TITLE = "From stand-ins for ImageNet weights"
# In place of a row of `group_runs`, for an experiment that was not run
NONE: Row = dict.fromkeys(("machines", "runs", "commands"), ()) | {"start": "", "overrides": {}, "own_code": False}
NOT_RUN: Row = dict.fromkeys(GROUPED, math.nan) | NONE


class AccuracyTable(NamedTuple):
    """The experiments on a data set that reproduce a published number or have a goal, run or not, and runs of none.

    Columns: those of `group_runs`, NaN where nothing was run; `table`, one of TITLES; `size`, pixels, in the extra row
    of a model that was evaluated at another size, else 0; `title`, which says that as well; `goals`, in words;
    `published_last`, `published_best`, `published_then`, the published accuracy at the last epoch of the run; `ranked`,
    that of the last, for the order alone, also where numbers do not compare;
    `whole`, whether as many epochs were run as published; `verdict`. Accuracies lie in 0..1.
    """

    dataset: str
    rows: list[Row]

    def parts(self) -> dict[str, list[Row]]:
        """The rows of what started from scratch, and of what started from weights, by the title of each.

        Images of Tiny-ImageNet are ImageNet's own, so that a pretrained model may have seen those that it is evaluated
        on.
        """
        scratch, weights = ([row for row in self.rows if row["table"] == title] for title in TITLES)
        return {TITLES[0]: scratch, STAND_IN_TITLE if any(map(standin, weights)) else TITLES[1]: weights}

    def columns(self) -> list[Column]:
        """The columns that have something to say of any row."""
        return [column for column in COLUMNS if any(str(column.cell(row)) for row in self.rows)]

    def notes(self) -> list[str]:
        """What the numbers do not show: a note each, in Markdown."""
        # A note on synthetic data tells of their weights as well
        told = any(map(standin, self.rows)) and not dataset_info(self.dataset).synthetic
        return [*filter(None, [dataset_note(self.dataset)]), *[NOTES["stand_in"]] * told]


def accuracy_table(dataset: str) -> AccuracyTable:
    """The accuracy table of a data set, from the records of its runs."""
    groups, rows = group_runs(read_runs(dataset)), []
    experiments = dict(catalog.read_experiments(dataset))
    for name, run in groups.items():
        if not catalog.find_experiment(name):  # a run of a person's own, which stands for itself
            parameters = {"dataset": dataset, "epochs": run["settings.epochs"]}
            experiments |= {name: catalog.Experiment(name, name, NOTEBOOKS, parameters)}
    for name, experiment in experiments.items():
        if name in PUBLISHED or experiment.goals or experiment.notebook == NOTEBOOKS:
            rows.append(experiment_row(experiment, groups.get(name, NOT_RUN), dataset))
            rows += [size_row(rows[-1], size, dataset)] if (size := experiment.settings.eval_size) else []
    return AccuracyTable(dataset, rows)


def experiment_row(experiment: catalog.Experiment, run: Row, dataset: str) -> Row:
    """The row of an experiment. run: what `group_runs` has of it, or NOT_RUN."""
    name, planned, epochs = experiment.name, experiment.settings.epochs, run["epochs"]
    row, curve = published(name, dataset) or {}, published_curve(name, dataset, "val_accuracy")
    start = run["start"] or experiment.settings.weights.replace("none", "scratch")
    return run | {
        **{"experiment": name, "title": experiment.title + STAND_IN * standin(run)},
        **{"size": 0, "planned_epochs": planned},
        "table": TITLES[not start.endswith("scratch")],
        "goals": [goal_text(goal, run) for goal in experiment.goals if dataset_info(dataset).comparable],
        **{"published_last": row.get("last", math.nan), "published_best": row.get("best", math.nan)},
        "published_then": curve.get(epochs, math.nan),
        "ranked": PUBLISHED.get(name, {}).get("last", math.nan),
        "whole": epochs == row.get("epochs", planned),
        "verdict": verdict(name, dataset, run["accuracy"], epochs, planned),
    }


def size_row(row: Row, size: int, dataset: str) -> Row:
    """The row of the model of `row`, evaluated at another size, in pixels, than that of its training."""
    known = PUBLISHED.get(row["experiment"], {}).get("other_sizes", {}).get(str(size), {}).get("last", math.nan)
    accuracy, last = row["resized"], known if dataset_info(dataset).comparable else math.nan
    kind = judge(accuracy, last) if row["whole"] else ""
    kept = ("experiment", "table", "planned_epochs", "whole", "start", "val_images", "seeds")  # it was not trained anew
    title = f"{row['title'].removesuffix(STAND_IN)}, evaluated at {pixels(size)}{STAND_IN * standin(row)}"
    told = {"title": title, "size": size, "accuracy": accuracy, "ranked": known}
    told |= dict.fromkeys(("published_last", "published_best", "published_then"), last)
    return NOT_RUN | {name: row[name] for name in kept} | told | {"goals": [], "verdict": Verdict(kind, kind)}


def goal_text(goal: catalog.Goal, run: Row) -> str:
    """A goal, and whether the mean over seeds reached or missed it."""
    if math.isnan(run["accuracy"]):
        return f"goal: {goal.text}"
    limits = ((goal.epochs, run["epochs"]), (goal.compute, run["share"]))
    reached = run["accuracy"] >= goal.accuracy and all(limit is None or value <= limit for limit, value in limits)
    return f"goal: {goal.text}: {'reached' if reached else 'missed'}"


def title_cell(row: Row) -> Cell:
    """The title, and what the runs have other than it says."""
    same = f"the same model, evaluated at {pixels(row['size'])}{STAND_IN * standin(row)}"
    own = "own code" * bool(row["own_code"])
    return Cell(same if row["size"] else row["title"], (own, as_text.assignments(row["overrides"])), runs=row["runs"])


def ours_cell(row: Row) -> Cell:
    """Our accuracy after the last epoch, its interval, the seeds that it is the mean of, and with flip TTA."""
    if math.isnan(row["accuracy"]):
        return Cell("")
    text = as_text.format_metric("accuracy", row["accuracy"], row["accuracy_std"])
    extent = as_text.percent_range(*interval(row["accuracy"], row["val_images"]))
    seeds = f"{row['seeds']:.0f} seed" + "s" * (row["seeds"] > 1)
    tta = as_text.format_metric("flip_tta", row["flip_tta"], row["flip_tta_std"])
    return Cell(text, (extent, seeds, best_note(row, row["best_accuracy"]), f"flip TTA {tta}" * bool(tta)))


def best_note(row: Row, accuracy: float) -> str:
    """An accuracy of the best epoch, in a row of which the published README quotes that one."""
    return f"best {percent(accuracy)}" if row["published_best"] > row["published_last"] and accuracy > 0 else ""


def verdict_cell(row: Row) -> Cell:
    """The verdict, the difference to the published accuracy with its interval, and the goals."""
    (kind, text), then, told = row["verdict"], row["published_then"], ""
    if difference := as_text.points(row["accuracy"] - then):
        low, high = map(as_text.points, difference_interval(row["accuracy"], then, row["val_images"]))
        told = f"{difference} points, 95% interval {low} to {high}"
    text, _, command = text.partition(": ")
    return Cell(text, (command, told, *row["goals"]), kind)


def epochs_cell(row: Row) -> Cell:
    """How many epochs were trained, and out of how many if not all."""
    epochs, planned = row["epochs"], row["planned_epochs"]
    return Cell("" if math.isnan(epochs) else f"{epochs:.0f}" + f" of {planned}" * (epochs < planned))


COLUMNS = (
    Column("experiment", title_cell, number=False),
    Column("published", lambda row: Cell(percent(row["published_last"]), (best_note(row, row["published_best"]),))),
    Column("ours", ours_cell),
    Column("verdict", verdict_cell, number=False),
    Column("epochs", epochs_cell),
    Column("compute", lambda row: Cell(as_text.share(row["share"]))),
    Column("time", lambda row: Cell(as_text.duration(row["seconds"]), (as_text.hardware(row["machines"]),))),
)


def answer(table: AccuracyTable) -> list[str]:
    """What was reproduced and how well, from the records: sentences of text, the answer first."""
    ran = [row for row in table.rows if row["runs"]]
    if not ran:
        return ["No experiment has run yet.", f"`tinyclf report --dataset {table.dataset}` runs all of them."]
    if dataset_info(table.dataset).comparable:
        return reproduction([row for row in table.rows if not math.isnan(row["published_last"])])
    best, experiments = max(ran, key=lambda row: row["accuracy"]), sum(not row["size"] for row in table.rows)
    highest = f"The highest validation accuracy is {percent(best['accuracy'])}, of “{best['title']}”."
    return [f"{len(ran)} of {experiments} experiments have run.", highest]


def answer_in_markdown(table: AccuracyTable) -> str:
    """The sentences of `answer`, the first one bold."""
    first, *others = (sentence.replace("<", "&lt;") for sentence in answer(table))
    return " ".join([f"**{first}**", *others])


def markdown_report(table: AccuracyTable) -> str:
    """The accuracy tables with what a reader must know of them, in Markdown."""
    ranked = [row for row in table.rows if row["table"] == TITLES[1] and not dataset_info(table.dataset).synthetic]
    return "\n\n".join([markdown_tables(table), *order(ranked), *reading_notes(table.dataset), *table.notes()])


def markdown_tables(table: AccuracyTable) -> str:
    """The accuracy tables in Markdown, each under its title."""
    columns = table.columns()
    return "\n\n".join(f"### {title}\n\n{markdown(rows, columns)}" for title, rows in table.parts().items())


def dataset_note(dataset: str) -> str:
    """What a reader of the results on a data set must know, in Markdown; empty where there is nothing."""
    return str(NOTES["datasets"].get(dataset, ""))


def reading_notes(dataset: str) -> list[str]:
    """What the words and numbers of the accuracy tables mean, in Markdown."""
    return [NOTES["accuracy"], *[NOTES["reproduced"]] * dataset_info(dataset).comparable, NOTES["compute"]]
