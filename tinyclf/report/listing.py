"""The experiments on a data set and what of them has run, as lines of text. Imports no torch, and no pandas."""

from collections.abc import Iterable
from statistics import mean

from tinyclf.data.registry import dataset_info
from tinyclf.experiments.catalog import Experiment, read_experiments
from tinyclf.experiments.names import family
from tinyclf.experiments.record import Record, copies, read_records
from tinyclf.report.format import percent
from tinyclf.utils.paths import reports_dir

HEADER = ("experiment", "epochs", "last", "best", "title")
NOT_RUN = "not run yet"


def listing(dataset: str) -> str:
    """A table of the experiments on `dataset`, with the validation accuracy of what has run.

    The accuracy is the mean where an experiment ran with several seeds. Ablations are counted, not listed. Runs that
    belong to no experiment come last.
    """
    experiments, runs = read_experiments(dataset), runs_by_experiment(dataset)
    rows = [HEADER]
    for name, experiment in experiments.items():
        if experiment.ablation:
            continue
        rows.append((name, *results(experiment, runs.get(name, [])), title(experiment, runs.get(name, []))))
        ablations = [each.name for each in experiments.values() if each.ablation and each.ablation.recipe == name]
        if ablations:
            ran = sum(ablation in runs for ablation in ablations)
            rows.append((f"  {len(ablations)} ablations", f"{ran} run", "", "", ""))
    others = {name: records for name, records in runs.items() if name not in experiments}
    rows += [(name, *accuracies(records, records[0]["settings"]["epochs"]), "") for name, records in others.items()]
    heading = f"{dataset}: {dataset_info(dataset).help}. Records are in {reports_dir() / dataset}"
    notes = [f"not counted: {folder} is a copy of run {run}, or was renamed" for folder, run in copies(dataset).items()]
    return "\n".join([heading, "", *aligned(rows), *notes])


def runs_by_experiment(dataset: str) -> dict[str, list[Record]]:
    """The records on a data set by the experiments that they are runs of, a record for each seed."""
    runs: dict[str, list[Record]] = {}
    for name, record in read_records(dataset).items():
        runs.setdefault(family(name), []).append(record)
    return runs


def results(experiment: Experiment, records: list[Record]) -> tuple[str, str, str]:
    """Epochs, last and best accuracy of an experiment; of one that does not train, whether its page was made."""
    if records:
        return accuracies(records, experiment.settings.epochs)
    has_page = not experiment.trains and (experiment.page_folder / "index.html").is_file()
    return ("page made" if has_page else NOT_RUN), "", ""


def accuracies(records: list[Record], epochs: int) -> tuple[str, str, str]:
    """The epochs trained, of those that the experiment has, and the accuracy at the last and at the best of them."""
    trained = min(len(record["history"]) for record in records)
    last, best = (mean(record["result"][key]["val_accuracy"] for record in records) for key in ("last", "best"))
    return f"{trained} of {epochs}", percent(last), percent(best)


def title(experiment: Experiment, records: list[Record]) -> str:
    """The title, with the number of seeds where there are several."""
    return experiment.title + (f" (mean of {len(records)} seeds)" if len(records) > 1 else "")


def aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows of text in columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
