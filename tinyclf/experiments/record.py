"""What a finished run leaves: record.json and its tables. Every table and figure of a page is made from records."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import sys
import zlib
from collections.abc import Hashable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclf.experiments.names import check_name, dataset_folder, run_folder
from tinyclf.experiments.settings import BEFORE, Settings
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write

if TYPE_CHECKING:  # not imported to list or draw records: they take seconds
    import pandas as pd

    from tinyclf.training.evaluate import Evaluation

Record = dict[str, Any]  # the content of record.json, see NEEDED
VERSION = 2  # raise it when a key of a record changes
RECIPE = ("model", "criterion", "optimizer", "scheduler", "ema", "before_step", "transform")
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
MISTAKES = 100  # kept of a run, the most confident ones
RECORD, PREDICTIONS, SCRIPT = "record.json", "predictions.csv.gz", "script.py"
# What tables and pages read of a record, and of the tables in it
NEEDED = {
    "": "command overrides environments seconds images_per_second finished flip_tta other_sizes",
    "settings": "dataset",
    "data": "name val sha256",
    "weights": "label file sha256",
    "compute": "total published_baseline",
    "evaluation": "top1 top5 loss calibration_error",
}


def write_record(folder: Path, about: Record, evaluation: Evaluation, ended: float, also: Record) -> Record:
    """Write record.json and its tables, and the script of own code, into the folder of a run; returns the record.

    about: what the run is, with its history (see `Run`). ended: when, in seconds since 1970. also: `flip_tta` and
    `other_sizes`, the metrics of further evaluations of the same model.
    """
    history = about["history"]
    record = {
        "version": VERSION,
        "run": folder.name,
        **{key: value for key, value in about.items() if key not in ("classes", "script", "own_weights")},
        "result": result_of(history),
        "evaluation": evaluation.summary(),
        **also,
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": len(history) / sum(1 / row["images_per_second"] for row in history),
        "finished": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
    }
    for file, header, rows in tables(about, evaluation):
        csv.writer(text := io.StringIO(), lineterminator="\n").writerows([header.split(), *rows])
        data = text.getvalue().encode()
        atomic_write(folder / file, gzip.compress(data, mtime=0) if file.endswith(".gz") else data)
    if "script" in about:
        atomic_write(folder / SCRIPT, about["script"])
    atomic_write(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return record


def result_of(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The last epoch, and the best."""
    return {"last": history[-1], "best": max(history, key=lambda row: row["val_accuracy"])}


def tables(about: dict[str, Any], evaluation: Evaluation) -> Iterator[tuple[str, str, list[list[Any]]]]:
    """The tables of a record: file, columns and rows, of floats that are not rounded, but for `probability`.

    history.csv: the epochs, without timing, so that the same run gives the same file. classes.csv, confusion.csv:
    accuracy by class, and which class was predicted for which. reliability.csv: accuracy by confidence. mistakes.csv:
    the most confident ones. predictions.csv.gz: all validation images; `image` is the position among them, from 0.
    """
    words, confusion, accuracy = about["classes"], evaluation.confusion.tolist(), evaluation.class_accuracy.tolist()
    wnids = list(words)
    yield "history.csv", " ".join(EPOCH), [[row[key] for key in EPOCH] for row in about["history"]]
    classes = zip(wnids, confusion, accuracy, strict=True)
    rows = [[wnid, words[wnid], sum(row), row[i], share] for i, (wnid, row, share) in enumerate(classes)]
    yield "classes.csv", "wnid words images correct accuracy", rows
    cells = [(i, j, count) for i, row in enumerate(confusion) for j, count in enumerate(row) if count and i != j]
    yield "confusion.csv", "wnid predicted images", [[wnids[i], wnids[j], count] for i, j, count in cells]
    yield "reliability.csv", "from to images confidence accuracy", [list(row) for row in evaluation.reliability]
    mistakes = evaluation.mistakes(MISTAKES)
    rows = [[image, wnids[label], wnids[guess], share] for image, label, guess, share in mistakes]
    yield "mistakes.csv", "image wnid predicted confidence", rows
    confidence, predicted = (values.tolist() for values in evaluation.predictions)
    images = zip(evaluation.labels.tolist(), predicted, confidence, strict=True)
    rows = [[i, wnids[label], wnids[guess], f"{share:.4f}"] for i, (label, guess, share) in enumerate(images)]
    yield PREDICTIONS, "image wnid predicted probability", rows


def table_path(record: Record, name: str) -> Path:
    """Where a table of a record is. Not every record has all of them: a copied one may lie alone."""
    return run_folder(record["run"], record["settings"]["dataset"]) / name


def read_table(record: Record, name: str) -> pd.DataFrame:
    """A table of a record, for example `classes.csv`. Raises TinyclfError where it cannot be read."""
    import pandas as pd

    path = table_path(record, name)
    try:
        texts: dict[Hashable, type[str]] = dict.fromkeys(("wnid", "words", "predicted"), str)  # a class may be called 7
        return pd.read_csv(path, keep_default_na=False, na_values={"accuracy": ["nan"]}, dtype=texts)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        remedy = "the run's notebook, run again, writes it"
        raise TinyclfError(f"{path}: not a readable table ({error}); {remedy}") from error


def read_record(path: Path) -> Record:
    """A record. Raises TinyclfError for one that is unreadable, of another version, or lacks what tables need."""
    try:
        record: Record = json.loads(path.read_bytes())
        for table, keys in NEEDED.items():
            itemgetter(*keys.split())(record[table] if table else record)
        itemgetter("commit", "versions", "hardware")(record["environments"][-1])
        if (record["version"], record["result"]) != (VERSION, result_of(record["history"])):
            raise ValueError(f"its version is not {VERSION}, or its result is not that of its history")
        run = record
        while run:  # it, and those that it started from
            check_name(run["run"])
            run["settings"] = BEFORE | run["settings"]
            Settings(**run["settings"])
            run = run.get("weights", run).get("parent")
        datetime.fromisoformat(record["finished"])
        return record
    except Exception as error:  # of what others wrote
        raise TinyclfError(f"{path}: not a readable record ({error}); delete it and run again") from error


def whole_record(path: Path) -> Record | None:
    """A record; None where there is none, or a damaged one, as a power cut leaves it."""
    with suppress(TinyclfError):
        return read_record(path)
    return None


def read_records(dataset: str) -> dict[str, Record]:
    """The records of a data set by name of the run, in order.

    Left out, and named on stderr once, is what cannot be read, and a folder that was copied or renamed, or its run
    would count twice.
    """
    records: dict[str, Record] = {}
    for path in sorted(dataset_folder(dataset).glob(f"*/{RECORD}")):
        try:
            record, name = read_record(path), path.parent.name
            if (record["settings"]["dataset"], record["run"]) != (dataset, name):
                where = f"run {record['run']} on {record['settings']['dataset']}"
                raise TinyclfError(f"{name} is a copy of {where}, or was renamed")
            records[name] = record
        except TinyclfError as error:
            warn(f"left out: {error}")
    return records


@functools.cache
def warn(text: str) -> None:
    """Say something on stderr, once."""
    print(text, file=sys.stderr)
