"""What several runs on one data set differ in: their settings, and what came out."""

import dataclasses

import pandas as pd

from tinyclf.accuracy import duration, hardware_of, percent, relative_cost, start_of
from tinyclf.catalog import Experiment
from tinyclf.checks import one_of
from tinyclf.errors import TinyclfError
from tinyclf.html import two_lines
from tinyclf.paths import NOTEBOOKS
from tinyclf.record import Record, read_records, settings_of
from tinyclf.registry import DATASETS

ACCURACIES = ("accuracy, last epoch", "accuracy, best epoch", "top-5 accuracy")


def comparison(names: list[str], dataset: str) -> Experiment:
    """The page that compares runs. Raises TinyclfError for one that has no record, and for fewer than two."""
    names = [each["run"] for each in chosen(names, dataset)]
    parameters = {"dataset": dataset, "runs": " ".join(names)}
    title = f"Comparison of {', '.join(names[:-1])} and {names[-1]}"
    return Experiment(f"compare-{'-'.join(names)}"[:100], title, NOTEBOOKS / "8_compare.ipynb", parameters)


def chosen(names: list[str], dataset: str) -> list[Record]:
    """The records of runs by their names, in that order and each once; see `comparison` for errors."""
    one_of("dataset", dataset, DATASETS)
    records = read_records(dataset)
    for name in names:
        one_of(f"run on {dataset}", name, tuple(records))
        if "evaluation" not in records[name]:
            raise TinyclfError(f"the record of {name} is of an older version, without evaluation: run it again")
    if len(set(names)) < 2:
        raise TinyclfError(f"nothing to compare: name two runs on {dataset} or more of {', '.join(records) or 'none'}")
    return [records[name] for name in dict.fromkeys(names)]


def differing(records: list[Record]) -> pd.DataFrame:
    """The settings that are not the same in all runs: a column for each run."""
    settings = pd.DataFrame({each["run"]: dataclasses.asdict(settings_of(each)) for each in records}, dtype=object)
    settings = settings.map(repr)
    others: pd.DataFrame = settings[settings.nunique(axis=1) > 1]
    return others.rename_axis("setting")


def accuracies(record: Record) -> tuple[float, float, float]:
    """Those of ACCURACIES, in 0..1."""
    last, best = (record["result"][which]["val_accuracy"] for which in ("last", "best"))
    return last, best, record["evaluation"]["top5"]


def results(records: list[Record]) -> pd.DataFrame:
    """What came out on the validation images, a column for each run; under accuracies the difference to the first."""
    columns = {}
    for each in records:
        rows: dict[str, str] = {}
        for what, value, first in zip(ACCURACIES, accuracies(each), accuracies(records[0]), strict=True):
            rows[what] = two_lines(percent(value), "" if each is records[0] else f"{100 * (value - first):+.2f}")
        rows["loss"] = f"{each['evaluation']['loss']:.3f}"
        rows["expected calibration error"] = percent(each["evaluation"]["calibration_error"])
        rows["mirrored too"] = percent(each["mirrored"]["top1"]) if each.get("mirrored") else ""
        rows["starts from"] = start_of(each)
        rows["arithmetic, of row 1"] = relative_cost(each)
        rows["time"] = duration(each["seconds"])
        rows["images a second"] = f"{each['images_per_second']:.0f}"
        rows["hardware"] = hardware_of([each])
        rows["commit"] = (each["environments"][-1]["commit"] or "not a git checkout")[:10]
        columns[each["run"]] = rows
    return pd.DataFrame(columns).rename_axis("result")
