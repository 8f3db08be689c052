"""What a finished run leaves: record.json and its tables. Every table and figure of a page is made from records."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinyclf.errors import TinyclfError
from tinyclf.files import atomic_write
from tinyclf.paths import reports_dir
from tinyclf.settings import Settings

if TYPE_CHECKING:  # not imported to draw a table: accelerate and torchmetrics take seconds
    from tinyclf.evaluate import Evaluation
    from tinyclf.loop import Epoch

Record = dict[str, Any]
STEP = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
MISTAKES = 100  # kept of a run, the most confident ones


def write_record(
    folder: Path,
    name: str,
    about: dict[str, Any],
    history: list[Epoch],
    evaluation: Evaluation,
    ended: float,
    other_sizes: dict[int, Evaluation],
    mirrored: Evaluation | None,
) -> Record:
    """Write record.json and the tables beside it into `folder`; returns the record.

    history.csv: the epochs. classes.csv and confusion.csv: accuracy by class, and what was taken for what.
    reliability.csv: accuracy by confidence. mistakes.csv: the most confident ones; `image` is the place among the
    validation images, from 0.

    about: the run's settings, data, weights, environments and classes; ended: when, in seconds since 1970;
    other_sizes: evaluations of the same model at other input sizes, in pixels; mirrored: one with each image and its
    mirror image.
    """
    record = {
        "run": name,
        **{key: about[key] for key in ("settings", "data", "weights", "environments")},
        "history": history,
        "result": {"last": history[-1], "best": max(history, key=lambda row: row["val_accuracy"])},
        "evaluation": evaluation.summary(),
        "mirrored": mirrored and mirrored.summary(),
        "other_sizes": {str(size): each.summary() for size, each in other_sizes.items()},
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": len(history) / sum(1 / row["images_per_second"] for row in history),
        "finished": datetime.datetime.fromtimestamp(ended, datetime.UTC).isoformat(timespec="seconds"),
    }
    # No timing stands among the numbers of the history, so that the same run gives the same file.
    write_csv(folder / "history.csv", STEP, ([row[key] for key in STEP] for row in history))
    wnids, confusion = list(about["classes"]), evaluation.confusion.tolist()
    accuracy = evaluation.class_accuracy.tolist()
    by_class = zip(about["classes"].items(), confusion, strict=True)
    write_csv(
        folder / "classes.csv",
        ("wnid", "words", "images", "correct", "accuracy"),
        ([*names, sum(row), row[place], accuracy[place]] for place, (names, row) in enumerate(by_class)),
    )
    write_csv(
        folder / "confusion.csv",
        ("wnid", "taken for", "images"),
        (
            [wnids[true], wnids[taken], count]
            for true, row in enumerate(confusion)
            for taken, count in enumerate(row)
            if count and taken != true
        ),
    )
    write_csv(folder / "reliability.csv", ("from", "to", "images", "confidence", "accuracy"), evaluation.reliability)
    write_csv(
        folder / "mistakes.csv",
        ("image", "wnid", "taken for", "confidence"),
        ([image, wnids[true], wnids[taken], sure] for image, true, taken, sure in evaluation.mistakes(MISTAKES)),
    )
    atomic_write(folder / "record.json", json.dumps(record, indent=2) + "\n")
    return record


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table; floats as their repr, which rounds nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(header), *rows])
    atomic_write(path, text.getvalue())


def settings_of(record: Record) -> Settings:
    """The settings of a run, or of a parent in a record; those that are newer than the record had their default."""
    return Settings(**record["settings"])


def read_table(record: Record, name: str) -> pd.DataFrame:
    """A table beside a record, `classes.csv` say. Raises TinyclfError where the run left none, or an older version."""
    path = reports_dir() / record["settings"]["dataset"] / record["run"] / name
    try:
        return pd.read_csv(path, keep_default_na=False, na_values={"accuracy": ["nan"]})  # "null" may be a word
    except (OSError, ValueError) as error:
        raise TinyclfError(
            f"{path}: not a readable table ({error}); the run's notebook, run again, writes it"
        ) from error


def read_records(dataset: str) -> dict[str, Record]:
    """The records under `reports/<dataset>/`, by name of the run. Raises TinyclfError for an unreadable one."""
    records = {}
    for path in sorted((reports_dir() / dataset).glob("*/record.json")):
        try:
            records[path.parent.name] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TinyclfError(f"{path}: not a readable record ({error}); delete it and run again") from error
    return records
