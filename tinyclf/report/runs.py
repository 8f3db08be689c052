"""All runs of a data set in one table, a row a run; tables, figures and pages are selections of it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from tinyclf.experiments import catalog
from tinyclf.experiments.names import family
from tinyclf.experiments.record import Record, read_records
from tinyclf.experiments.settings import Settings
from tinyclf.utils.lazy import pd

RECIPE = ("model", "criterion", "optimizer", "scheduler", "ema")
AVERAGED = ("accuracy", "best_accuracy", "top5", "loss", "calibration_error", "flip_tta")  # over seeds, with deviation
# Each column and its value in a record. Accuracies lie in 0..1, losses are in nats, compute is in multiply-adds.
COLUMNS: dict[str, Callable[[Record], Any]] = {
    "run": lambda record: record["run"],
    "experiment": lambda record: family(record["run"]),
    "is_ablation": lambda record: catalog.ablation(record["run"]) is not None,
    "split": lambda record: "held-out" if record["settings"]["hold_out"] else "val",  # that it was evaluated on
    "seed": lambda record: record["settings"]["seed"],
    "overrides": lambda record: all_overrides(record),
    "command": lambda record: record["command"],
    "accuracy": lambda record: record["result"]["last"]["val_accuracy"],
    "best_accuracy": lambda record: record["result"]["best"]["val_accuracy"],
    "best_epoch": lambda record: record["result"]["best"]["epoch"],
    "epochs": lambda record: len(record["history"]),
    "planned_epochs": lambda record: record["settings"]["epochs"],
    "top5": lambda record: record["evaluation"]["top5"],
    "loss": lambda record: record["evaluation"]["loss"],
    "calibration_error": lambda record: record["evaluation"]["calibration_error"],
    "flip_tta": lambda record: record["flip_tta"]["top1"] if record["flip_tta"] else math.nan,
    "other_sizes": lambda record: {int(size): result["top1"] for size, result in record["other_sizes"].items()},
    "seconds": lambda record: record["seconds"],
    "images_per_second": lambda record: record["images_per_second"],
    "compute_own": lambda record: record["compute"]["own"],
    "compute_total": lambda record: record["compute"]["total"],
    "share": lambda record: record["compute"]["total"] / record["compute"]["published_baseline"],
    "start": lambda record: start_of(record),
    "parent": lambda record: (record["weights"].get("parent") or {}).get("run", ""),
    "weights_file": lambda record: record["weights"]["file"] or "",
    "data_sha256": lambda record: record["data"]["sha256"],
    "train_images": lambda record: record["data"]["train"],
    "val_images": lambda record: record["data"]["val"],
    "commit": lambda record: record["environments"][-1]["commit"],
    "machines": lambda record: [environment["hardware"] for environment in record["environments"]],
    "finished": lambda record: pd.Timestamp(record["finished"]),
}


def load_runs(dataset: str) -> pd.DataFrame:
    """The runs on `dataset` that have a record, in the order of the experiments.

    The columns are those of COLUMNS; `title`, that of the experiment, empty for a run of none; `settings.NAME` for each
    setting; `recipe.NAME` for each of RECIPE, empty for records that are older. Raises TinyclfError for a
    record that cannot be read.
    """
    experiments = catalog.read_experiments(dataset)
    titles = {name: experiment.title for name, experiment in experiments.items()}
    columns = [*COLUMNS, *map("settings.{}".format, Settings.names()), *map("recipe.{}".format, RECIPE)]
    runs = pd.DataFrame(map(run_row, read_records(dataset).values()), columns=columns)
    runs.insert(2, "title", runs["experiment"].map(titles).fillna(""))
    order = {name: number for number, name in enumerate(titles)}
    return runs.sort_values("experiment", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def run_row(record: Record) -> dict[str, Any]:
    """The row of one record."""
    settings = {f"settings.{name}": value for name, value in record["settings"].items()}
    recipe = {f"recipe.{name}": record.get("recipe", {}).get(name) or "" for name in RECIPE}
    return {name: value(record) for name, value in COLUMNS.items()} | settings | recipe


def load_histories(dataset: str) -> pd.DataFrame:
    """The epochs of all runs on `dataset`: see `history_frame`."""
    return pd.concat([history_frame(record) for record in read_records(dataset).values()] or [pd.DataFrame()])


def history_frame(record: Record) -> pd.DataFrame:
    """The epochs of a run, a row each: `dataset`, `run`, `epoch`, `learning_rate`, `train_loss` to `val_accuracy`."""
    return pd.DataFrame(record["history"]).assign(dataset=record["settings"]["dataset"], run=record["run"])


def group_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count for each experiment, as one row by its name; see `group_seeds` for the columns.

    Runs with the experiment's own settings come before those with others; then those of the most epochs.
    """
    groups = group_seeds(runs)
    if groups.empty:
        return groups.set_index("experiment", drop=False)
    groups = groups.assign(changed=groups["overrides"].map(len)).sort_values("epochs", ascending=False, kind="stable")
    groups = groups.sort_values("changed", kind="stable").drop_duplicates("experiment").sort_index()
    return groups.drop(columns="changed").set_index("experiment", drop=False)


def group_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for all `runs` that differ in nothing but their seed, in the order of `runs`: see `summary_row`."""
    columns = [*runs, *(f"{name}_std" for name in AVERAGED), "runs", "commands", "seeds"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    groups = runs.groupby(runs.apply(identity, axis=1), sort=False)
    return pd.DataFrame([summary_row(group.sort_values("seed")) for _, group in groups], columns=columns)


def identity(run: pd.Series) -> str:
    """Everything that decides a run's numbers but the seed: what the runs of a group have in common."""
    settings = {name: value for name, value in run.items() if str(name).startswith(("settings.", "recipe."))}
    for name in ("settings.seed", "settings.weights"):  # `start` says what the weights are, without seeds
        del settings[name]
    facts = [run["experiment"], run["overrides"], run["epochs"], run["start"], run["data_sha256"], settings]
    return json.dumps(facts, sort_keys=True, default=str)


def summary_row(runs: pd.DataFrame) -> dict[str, Any]:
    """The row of runs that differ in nothing but their seed: the first one's, with means over all of them.

    `NAME_std` is the standard deviation of a column in AVERAGED, NaN for one seed; `runs` and `commands` list all.
    """
    row: dict[str, Any] = runs.iloc[0].to_dict()
    for name in AVERAGED:
        values = runs[name].dropna().tolist()
        row[name] = statistics.mean(values) if values else math.nan
        row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else math.nan
    sizes = dict.fromkeys(size for evaluated in runs["other_sizes"] for size in evaluated)
    row["other_sizes"] = {
        size: statistics.mean(evaluated[size] for evaluated in runs["other_sizes"] if size in evaluated)
        for size in sizes
    }
    row["seconds"] = statistics.mean(runs["seconds"])
    row["machines"] = [machine for machines in runs["machines"] for machine in machines]
    return row | {"runs": runs["run"].tolist(), "commands": runs["command"].tolist(), "seeds": len(runs)}


def start_of(record: Record) -> str:
    """What a run started from, in words, without the seeds of its ancestors."""
    *ancestors, origin = record["weights"]["label"].split(", from ")
    return ", from ".join([*map(family, ancestors), origin])


def all_overrides(record: Record) -> dict[str, Any]:
    """The settings that a run and its ancestors have other than their experiments, but for the seed.

    The number of epochs counts only where every epoch depends on it: another run can go on to more.
    """
    overrides = {name: value for name, value in record["overrides"].items() if name != "seed"}
    if not Settings(**record["settings"]).planned:
        overrides.pop("epochs", None)
    for ancestor in ancestors(record):
        name = family(ancestor["run"])
        changed = catalog.overrides(ancestor["run"], Settings(**ancestor["settings"]))
        overrides |= {f"{key} in {name}": value for key, value in changed.items() if key != "seed"}
    return overrides


def ancestors(record: Record) -> Iterator[dict[str, Any]]:
    """The runs that a run started from, the nearest first: `run`, `settings`, `epochs` of each."""
    parent = record["weights"].get("parent")
    while parent:
        yield parent
        parent = parent["parent"]
