"""What several runs on one data set differ in: their settings, and their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.catalog import Experiment
from tinyclf.report.format import Column, duration, format_metric, hardware, points, share, short_commit
from tinyclf.report.html import Table, small_lines, table
from tinyclf.report.runs import load_runs
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.lazy import pd
from tinyclf.utils.paths import NOTEBOOKS

ACCURACIES = {"accuracy, last epoch": "accuracy", "accuracy, best epoch": "best_accuracy", "top-5 accuracy": "top5"}
ROWS: dict[str, Callable[[Any], str]] = {  # after the accuracies: what a run's column has as text
    "loss": lambda run: format_metric("loss", run["loss"]),
    "expected calibration error": lambda run: format_metric("calibration_error", run["calibration_error"]),
    "accuracy, flip TTA": lambda run: format_metric("flip_tta", run["flip_tta"]),
    "starts from": lambda run: str(run["start"]),
    "training compute": lambda run: share(run["share"]),
    "time": lambda run: duration(run["seconds"]),
    "images a second": lambda run: f"{run['images_per_second']:.0f}",
    "hardware": lambda run: hardware(run["machines"]),
    "commit": lambda run: short_commit(run["commit"]),
}


def comparison(names: list[str], dataset: str) -> Experiment:
    """The page that compares runs. Raises TinyclfError for one that has no record, and for fewer than two."""
    names = chosen_runs(names, dataset)["run"].tolist()
    parameters = {"dataset": dataset, "runs": " ".join(names)}
    title = f"Comparison of {', '.join(names[:-1])} and {names[-1]}"
    return Experiment(f"compare-{'-'.join(names)}"[:100], title, NOTEBOOKS / "8_compare.ipynb", parameters)


def chosen_runs(names: list[str], dataset: str) -> pd.DataFrame:
    """The rows of `load_runs` for runs by their names, in that order and each once; see `comparison` for errors."""
    one_of("dataset", dataset, DATASETS)
    runs = load_runs(dataset).set_index("run", drop=False)
    if len(set(names)) < 2:
        raise TinyclfError(
            f"nothing to compare: name two runs on {dataset} or more of {', '.join(runs.index) or 'none'}"
        )
    for name in names:
        one_of(f"run on {dataset}", name, tuple(runs.index))
    chosen: pd.DataFrame = runs.loc[list(dict.fromkeys(names))]
    return chosen


def settings_that_differ(runs: pd.DataFrame) -> Table:
    """The settings that are not the same in all `runs`, a column for each run."""
    settings = runs.filter(like="settings.").rename(columns=lambda name: name.removeprefix("settings."))
    settings = settings.map(repr).T.rename_axis(index="setting", columns=None)
    return table(settings[settings.nunique(axis=1) > 1])


def result_table(runs: pd.DataFrame) -> Table:
    """The results on the validation images, a column for each run; under accuracies the difference to the first."""
    first = runs.iloc[0]

    def column(run: Any) -> Column:
        return Column(run["run"], lambda row: result_cell(row["result"], run, first))

    names = Column("result", lambda row: row["result"], number=False)
    return table(
        pd.DataFrame({"result": [*ACCURACIES, *ROWS]}), [names, *(column(run) for _, run in runs.iterrows())], "wrap"
    )


def result_cell(result: str, run: Any, first: Any) -> str:
    """One result of a run as text."""
    if key := ACCURACIES.get(result):
        difference = points(run[key] - first[key]) if run["run"] != first["run"] else ""
        return small_lines(format_metric(key, run[key]), difference)
    return ROWS[result](run)
