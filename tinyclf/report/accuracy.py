"""The accuracy of all experiments and the published one: a table of numbers. Imports no torch, and no pandas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.report.format import pixels
from tinyclf.report.published import PUBLISHED, published, published_at
from tinyclf.report.runs import GROUPED, Row, group_runs, read_runs
from tinyclf.report.verdict import Verdict, judge, verdict

# In place of a row of `group_runs`, for an experiment that was not run
NOT_RUN: Row = dict.fromkeys(GROUPED, math.nan) | {
    **{"start": "", "overrides": {}, "other_sizes": {}, "machines": [], "runs": [], "commands": []}
}


@dataclass(frozen=True)
class AccuracyTable:
    """The experiments on a data set that reproduce a published number or have a goal, a row each, run or not.

    Columns: those of `group_runs`, NaN where nothing was run; `title`; `table`, `scratch` or `imagenet`, what it
    started from; `size`, pixels, in the extra row of a model that was evaluated at another size, else 0; `goals`, pairs
    of text and status, if they compare; `published_last`, `published_best`, `published_epochs`, `published_then`, the
    published accuracy at the last epoch of the run; `difference`, to that; `verdict`, see `tinyclf.report.verdict`.
    Accuracies lie in 0..1.
    """

    dataset: str
    rows: list[Row]
    starts: list[str]  # what the runs on the data set started from, all of them


def accuracy_table(dataset: str) -> AccuracyTable:
    """The accuracy table of a data set, from the records of its runs. Raises TinyclfError as `read_runs` does."""
    runs = read_runs(dataset)
    groups, rows = group_runs(runs), []
    for name, experiment in catalog.read_experiments(dataset).items():
        if name in PUBLISHED or experiment.goals:
            run, size = groups.get(name, NOT_RUN), experiment.settings.eval_size
            rows.append(experiment_row(experiment, run, dataset))
            rows += [size_row(experiment, run, dataset, size)] if size else []
    return AccuracyTable(dataset, rows, [run["start"] for run in runs])


def experiment_row(experiment: catalog.Experiment, run: Row, dataset: str) -> Row:
    """The row of an experiment. run: what `group_runs` has of it, or NOT_RUN."""
    name, planned, row = experiment.name, experiment.settings.epochs, published(experiment.name, dataset) or {}
    goals = experiment.goals if DATASETS[dataset].comparable else ()
    return {
        **run,
        **about(experiment, run),
        "size": 0,
        "goals": [(goal.text, goal_status(goal, run)) for goal in goals],
        **compared(run["accuracy"], row, published_at(name, dataset, run["epochs"])),
        "verdict": verdict(name, dataset, run["accuracy"], run["epochs"], planned, run["val_images"]),
    }


def size_row(experiment: catalog.Experiment, run: Row, dataset: str, size: int) -> Row:
    """The row of an experiment's model, evaluated at another size, in pixels, than that of its training."""
    row = (published(experiment.name, dataset) or {}).get("other_sizes", {}).get(str(size), {})
    accuracy, last = run["other_sizes"].get(size, math.nan), row.get("last", math.nan)
    kind = judge(accuracy, last, run["val_images"])
    return {
        **NOT_RUN,  # it was not trained for this row
        **about(experiment, run),
        "title": f"the same model, evaluated at {pixels(size)}",
        "size": size,
        "goals": [],
        "accuracy": accuracy,
        "val_images": run["val_images"],
        **compared(accuracy, {"last": last}, last),
        "verdict": Verdict(kind, kind),
    }


def about(experiment: catalog.Experiment, run: Row) -> Row:
    """What the rows of an experiment say of it, at any size."""
    start = run["start"] or experiment.settings.weights.replace("none", "scratch")
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "table": "scratch" if start.endswith("scratch") else "imagenet",
        "planned_epochs": experiment.settings.epochs,
    }


def compared(accuracy: float, row: dict[str, Any], then: float) -> Row:
    """The published side of a row, and how much more accurate ours is. then: what was published at its last epoch."""
    return {
        "published_last": row.get("last", math.nan),
        "published_best": row.get("best", math.nan),
        "published_epochs": row.get("epochs", math.nan),
        "published_then": then,
        "difference": accuracy - then,
    }


def goal_status(goal: catalog.Goal, run: Row) -> str:
    """`reached` or `missed` by the mean over seeds; empty where nothing was run."""
    if math.isnan(run["accuracy"]):
        return ""
    within = (goal.epochs is None or run["epochs"] <= goal.epochs) and (
        goal.compute is None or run["share"] <= goal.compute
    )
    return "reached" if within and run["accuracy"] >= goal.accuracy else "missed"
