"""The accuracy of all experiments and the published one: a table of numbers."""

from __future__ import annotations

import math
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.report.format import pixels
from tinyclf.report.published import PUBLISHED, published, published_at
from tinyclf.report.runs import group_runs, load_runs
from tinyclf.report.verdict import Verdict, judge, verdict
from tinyclf.utils.lazy import pd


def accuracy_table(dataset: str) -> pd.DataFrame:
    """The experiments that reproduce a published number or have a goal, a row each, run or not. Numbers.

    Columns: those of `group_runs`, NaN where nothing was run; `title`; `table`, one of TITLES; `size`, pixels, in the
    extra row of a model that was evaluated at another size, else 0; `goals`, pairs of text and status, if they compare;
    `published_last`, `published_best`, `published_epochs`, `published_then`, the published accuracy at the last epoch
    of the run; `difference`, to that; `verdict`, see `tinyclf.report.verdict`. Accuracies lie in 0..1.
    """
    groups, rows = group_runs(load_runs(dataset).query("split == 'val'")), []
    for name, experiment in catalog.read_experiments(dataset).items():
        goals = experiment.goals
        if not (name in PUBLISHED or goals):
            continue
        run: dict[str, Any] = groups.loc[name].to_dict() if name in groups.index else {}
        start = run.get("start") or experiment.settings.weights.replace("none", "scratch")
        about = {
            "experiment": name,
            "title": experiment.title,
            "table": "scratch" if start.endswith("scratch") else "imagenet",
            "planned_epochs": experiment.settings.epochs,
            "runs": run.get("runs", []),
            "overrides": run.get("overrides", {}),
            "machines": run.get("machines", []),
        }
        status = [(goal.text, goal_status(goal, run, dataset)) for goal in goals if DATASETS[dataset].comparable]
        compared = compare_with_published(name, run, dataset)
        compared["verdict"] = row_verdict(name, dataset, run, experiment.settings.epochs)
        rows.append(run | about | {"size": 0, "goals": status} | compared)
        for size, row in PUBLISHED.get(name, {}).get("other_sizes", {}).items():
            rows.append(about | at_other_size(int(size), run, row if published(name, dataset) else {}))
    columns = dict.fromkeys([*groups, *(key for row in rows for key in row)])
    return pd.DataFrame(rows, columns=list(columns))


def compare_with_published(name: str, run: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The published side of a row, and how much more accurate `run`, a row of `group_runs`, is at its last epoch."""
    row = published(name, dataset) or {}
    then = published_at(name, dataset, run["epochs"]) if run else math.nan
    return {
        "published_last": row.get("last", math.nan),
        "published_best": row.get("best", math.nan),
        "published_epochs": row.get("epochs", math.nan),
        "published_then": then,
        "difference": run.get("accuracy", math.nan) - then,
    }


def row_verdict(name: str, dataset: str, run: dict[str, Any], planned: int) -> Verdict:
    """The verdict on a row of `group_runs`, empty where the experiment was not run."""
    return verdict(
        name, dataset, run.get("accuracy", math.nan), run.get("epochs", 0), planned, run.get("val_images", 0)
    )


def at_other_size(size: int, run: dict[str, Any], published_row: dict[str, float]) -> dict[str, Any]:
    """The row of a model that was evaluated at another size than that of its training."""
    accuracy, last = run.get("other_sizes", {}).get(size, math.nan), published_row.get("last", math.nan)
    kind = judge(accuracy, last, run.get("val_images", 0))
    return {
        "title": f"the same model, evaluated at {pixels(size)}",
        "size": size,
        "goals": [],
        "machines": [],  # it was not trained for this row
        "accuracy": accuracy,
        "val_images": run.get("val_images", math.nan),
        "published_last": last,
        "published_then": last,
        "difference": accuracy - last,
        "verdict": Verdict(kind, kind),
    }


def goal_status(goal: catalog.Goal, run: dict[str, Any], dataset: str) -> str:
    """`reached` or `missed` by the mean over seeds; empty where nothing was run or `dataset` does not compare."""
    if not run or not DATASETS[dataset].comparable:
        return ""
    within = (goal.epochs is None or run["epochs"] <= goal.epochs) and (
        goal.compute is None or run["share"] <= goal.compute
    )
    return "reached" if within and run["accuracy"] >= goal.accuracy else "missed"
