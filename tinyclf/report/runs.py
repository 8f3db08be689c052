"""All runs of a data set, a row each, and what was published; tables, figures and pages select from them."""

from __future__ import annotations

import datetime
import json
import math
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from tinyclf.data.registry import dataset_info
from tinyclf.experiments import catalog
from tinyclf.experiments.names import dataset_folder, family, seed_of
from tinyclf.experiments.record import RECIPE, Record, read_records
from tinyclf.experiments.settings import Settings
from tinyclf.report.format import percent

if TYPE_CHECKING:  # not imported to list runs, or to print their table
    import pandas as pd

Row = dict[str, Any]  # values by the names of columns
# What the open project Tiny-ImageNet-Classifier published, by the name of the experiment that reproduces it
PUBLISHED: dict[str, Row] = tomllib.loads(Path(__file__).with_name("published.toml").read_text("utf-8"))
STAND_IN = " (stand-in weights)"  # ends the title of what rests on weights that are not ImageNet's
# Averaged over seeds, with their deviation; `resized` is the accuracy of the same model at another input size
AVERAGED = ("accuracy", "best_accuracy", "top5", "loss", "calibration_error", "flip_tta", "resized")
# Each column and its value in a record. Accuracies lie in 0..1, losses are in nats, compute is in multiply-adds.
COLUMNS: dict[str, Callable[[Record], Any]] = {
    "run": lambda record: record["run"],
    "experiment": lambda record: family(record["run"]),
    "title": lambda record: run_title(record["run"], record["settings"]["dataset"], record),
    "own_code": lambda record: own_code(record),
    "identity": lambda record: record.get("identity", {}),  # the texts of all that decides the numbers
    "is_ablation": lambda record: catalog.ablation(record["run"]) is not None,
    "overrides": lambda record: all_overrides(record),
    "command": lambda record: record["command"],
    "accuracy": lambda record: record["history"][-1]["val_accuracy"],
    "best_accuracy": lambda record: record["result"]["best"]["val_accuracy"],
    "best_epoch": lambda record: record["result"]["best"]["epoch"],
    "epochs": lambda record: len(record["history"]),
    "top5": lambda record: record["evaluation"]["top5"],
    "loss": lambda record: record["evaluation"]["loss"],
    "calibration_error": lambda record: record["evaluation"]["calibration_error"],
    "flip_tta": lambda record: record["flip_tta"]["top1"] if record["flip_tta"] else math.nan,
    "resized": lambda record: next((one["top1"] for one in record["other_sizes"].values()), math.nan),
    "seconds": lambda record: record["seconds"],
    "images_per_second": lambda record: record["images_per_second"],
    "compute_total": lambda record: multiply_adds(record),
    "share": lambda record: multiply_adds(record) / record["compute"]["published_baseline"],
    "start": lambda record: start_of(record),
    "parent": lambda record: (record["weights"].get("parent") or {}).get("run", ""),
    "data_sha256": lambda record: record["data"]["sha256"],
    "val_images": lambda record: record["data"]["val"],
    "commit": lambda record: record["environments"][-1]["commit"],
    "machines": lambda record: [environment["hardware"] for environment in record["environments"]],
    "finished": lambda record: datetime.datetime.fromisoformat(record["finished"]),
}
GROUPED = (*COLUMNS, *(f"{name}_std" for name in AVERAGED), "runs", "commands", "seeds")  # of `group_seeds`


def read_runs(dataset: str) -> list[Row]:
    """The runs on `dataset` that have a record, in the order of the experiments.

    A row has the columns of COLUMNS, `settings.NAME` for each setting that the record knows, and `recipe.NAME` for each
    of RECIPE, empty where the record has none.
    """
    order = {name: number for number, name in enumerate(catalog.read_experiments(dataset))}
    rows = map(run_row, read_records(dataset).values())
    return sorted(rows, key=lambda row: order.get(row["experiment"], len(order)))


def load_runs(dataset: str) -> pd.DataFrame:
    """All runs on a data set, a row each: its numbers, settings and recipe; NaN where a record is older than a setting.

    Accuracies lie in 0..1, losses are in nats, times in seconds, compute is in multiply-adds. The columns are those of
    COLUMNS, `settings.NAME` and `recipe.NAME`.
    """
    import pandas as pd

    columns = [*COLUMNS, *map("settings.{}".format, Settings.names()), *map("recipe.{}".format, RECIPE)]
    return pd.DataFrame(read_runs(dataset), columns=columns)


def run_row(record: Record) -> Row:
    """The row of one record."""
    settings = {f"settings.{name}": value for name, value in record["settings"].items()}
    recipe = {f"recipe.{name}": record.get("recipe", {}).get(name) or "" for name in RECIPE}
    return {name: value(record) for name, value in COLUMNS.items()} | settings | recipe


def own_code(record: Record) -> bool:
    """Whether a run has a model, loss, optimizer, scheduler or transform that its settings do not make."""
    return bool(record.get("own_code", not record["command"]))


def multiply_adds(record: Record) -> float:
    """Those of the training of a run and its ancestors; NaN where they are unknown."""
    value = record["compute"]["total"]
    return math.nan if value is None else int(value)


def run_title(run: str, dataset: str, record: Record | None = None) -> str:
    """What a person calls a run: the title of its experiment, with its seed; or its name, where it is of none.

    record: of the run, where there is one: it tells whether the run rests on stand-in weights.
    """
    experiment, seed = catalog.read_experiments(dataset).get(family(run)), seed_of(run)
    title = experiment.title + ("" if seed is None else f", seed {seed}") if experiment else run
    return title + STAND_IN * (record is not None and "stand-in" in record["weights"]["label"])


def load_histories(dataset: str) -> pd.DataFrame:
    """The epochs of all runs on `dataset`: see `history_frame`."""
    import pandas as pd

    return pd.concat([history_frame(record) for record in read_records(dataset).values()] or [pd.DataFrame()])


def history_frame(record: Record) -> pd.DataFrame:
    """The epochs of a run, a row each: `dataset`, `run`, `epoch`, `learning_rate`, `train_loss` to `val_accuracy`."""
    import pandas as pd

    return pd.DataFrame(record["history"]).assign(dataset=record["settings"]["dataset"], run=record["run"])


def group_runs(runs: Iterable[Row]) -> dict[str, Row]:
    """The runs evaluated on validation images that count for each experiment, as one row by its name.

    Runs with the experiment's own settings come before those with others; then those of the most epochs. The columns
    are those of `group_seeds`.
    """
    groups: dict[str, Row] = {}
    for row in group_seeds(run for run in runs if not run["settings.hold_out"]):
        rivals = groups.get(row["experiment"], row), row
        groups[row["experiment"]] = min(rivals, key=lambda rival: (len(rival["overrides"]), -rival["epochs"]))
    return groups


def group_seeds(runs: Iterable[Row]) -> list[Row]:
    """One row for all `runs` that differ in nothing but their seed, in the order of `runs`: see `summary_row`."""
    groups: dict[str, list[Row]] = {}
    for run in runs:
        groups.setdefault(all_but_the_seed(run), []).append(run)
    return [summary_row(sorted(group, key=lambda run: run["settings.seed"])) for group in groups.values()]


def all_but_the_seed(run: Row) -> str:
    """Everything that decides a run's numbers but the seed: what the runs of a group have in common."""
    facts = {name: run[name] for name in ("experiment", "overrides", "epochs", "start", "data_sha256", "own_code")}
    # Else settings make the recipe, which records of another age have in other words
    decides = ("settings.", "recipe.", "identity") if run["own_code"] else "settings."
    facts |= {name: value for name, value in run.items() if name.startswith(decides)}
    del facts["settings.seed"], facts["settings.weights"]  # `start` says what the weights are, without seeds
    return json.dumps(facts, sort_keys=True)


def summary_row(runs: list[Row]) -> Row:
    """The row of runs that differ in nothing but their seed: the first one's, with means over all of them.

    `NAME_std` is the standard deviation of a column in AVERAGED, NaN for one seed; `runs` and `commands` list all, and
    `seeds` says how many they are.
    """
    row = dict(runs[0])
    for name in AVERAGED:
        values = [run[name] for run in runs if not math.isnan(run[name])]
        row[name] = mean(values) if values else math.nan
        row[f"{name}_std"] = stdev(values) if len(values) > 1 else math.nan
    row["seconds"] = mean(run["seconds"] for run in runs)
    row["machines"] = [machine for run in runs for machine in run["machines"]]
    row["runs"], row["commands"] = [run["run"] for run in runs], [run["command"] for run in runs]
    return row | {"seeds": len(runs)}


def start_of(record: Record) -> str:
    """What a run started from, in words, without the seeds of its ancestors."""
    *ancestors, origin = record["weights"]["label"].split(", from ")
    return ", from ".join([*map(family, ancestors), origin])


def all_overrides(record: Record) -> dict[str, Any]:
    """The settings that a run and its ancestors have other than their experiments have today, but for the seed.

    The number of epochs counts only where every epoch depends on it: another run can go on to more.
    """
    settings = Settings(**record["settings"])
    overrides = catalog.overrides(record["run"], settings)
    if not settings.planned:
        overrides.pop("epochs", None)
    ancestor = record["weights"].get("parent")
    while ancestor:
        changed = catalog.overrides(ancestor["run"], Settings(**ancestor["settings"]))
        overrides |= {f"{key} in {family(ancestor['run'])}": value for key, value in changed.items()}
        ancestor = ancestor["parent"]
    return overrides


def published(name: str, dataset: str) -> Row | None:
    """What was published of an experiment or of its run with any seed.

    None where nothing was, and on a data set whose numbers do not compare with the published ones.
    """
    return PUBLISHED.get(family(name)) if dataset_info(dataset).comparable else None


def published_curve(name: str, dataset: str, key: str) -> dict[float, float]:
    """The values of a published curve, `train_loss` to `val_accuracy`, by epoch; empty where none was published."""
    row = published(name, dataset) or {}
    return dict(zip(row.get("curve_epochs", []), row.get(key, []), strict=True))


def listing(dataset: str) -> str:
    """What `tinyclf list` prints: the experiments on `dataset`, with the accuracy of those that have run, over seeds.

    Ablations are counted, not listed. Runs that belong to no experiment come last.
    """
    experiments, runs = catalog.read_experiments(dataset), read_runs(dataset)
    lines = [("experiment", "epochs", "last", "best", "title")]
    plain = [name for name, experiment in experiments.items() if not experiment.ablation]
    for name in dict.fromkeys([*plain, *(run["experiment"] for run in runs if not run["is_ablation"])]):
        own, known = [run for run in runs if run["experiment"] == name], experiments.get(name)
        title = known.title if known else "own code" * own[0]["own_code"]
        if own:
            planned = known.settings.epochs if known else own[0]["settings.epochs"]
            last, best = (percent(mean(run[key] for run in own)) for key in ("accuracy", "best_accuracy"))
            title += f" (mean of {len(own)} seeds)" * (len(own) > 1)
            lines.append((name, f"{min(run['epochs'] for run in own)} of {planned}", last, best, title))
        else:
            made = known and not known.trains and (known.page_folder / "index.html").is_file()
            lines.append((name, "page made" if made else "not run yet", "", "", title))
        if parts := {each.name for each in experiments.values() if each.ablation and each.ablation.recipe == name}:
            ran = len(parts & {run["experiment"] for run in runs})
            lines.append((f"  {len(parts)} ablations", f"{ran} run", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    where = f"{dataset}: {dataset_info(dataset).help}. Records are in {dataset_folder(dataset)}"
    return "\n".join([where, "", *aligned])
