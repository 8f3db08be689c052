"""What a finished run leaves: record.json and its tables. Every table and figure of a page is made from records."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write
from tinyclf.utils.paths import reports_dir

if TYPE_CHECKING:  # not imported to list or draw records: they take seconds
    import pandas as pd

    from tinyclf.training.evaluate import Evaluation
    from tinyclf.training.loop import Epoch

Record = dict[str, Any]
VERSION = 2  # raise it when a key of a record changes
ABOUT = ("command", "overrides", "settings", "recipe", "data", "weights", "compute", "environments")
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
MISTAKES = 100  # kept of a run, the most confident ones


def write_record(
    folder: Path,
    name: str,
    about: dict[str, Any],
    evaluation: Evaluation,
    ended: float,
    *,
    other_sizes: dict[int, Evaluation],
    flip_tta: Evaluation | None,
) -> Record:
    """Write record.json and its tables into `folder`; returns the record.

    about: what the run is, with its history (see identity.py). ended: when, in seconds since 1970. other_sizes:
    evaluations of the same model at other input sizes, in pixels. flip_tta: one with test-time augmentation.
    """
    history: list[Epoch] = about["history"]
    record = {
        "version": VERSION,
        "run": name,
        **{key: about[key] for key in ABOUT},
        "history": history,
        "result": {"last": history[-1], "best": max(history, key=lambda row: row["val_accuracy"])},
        "evaluation": evaluation.summary(),
        "flip_tta": flip_tta and flip_tta.summary(),
        "other_sizes": {str(size): result.summary() for size, result in other_sizes.items()},
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": len(history) / sum(1 / row["images_per_second"] for row in history),
        "finished": datetime.datetime.fromtimestamp(ended, datetime.UTC).isoformat(timespec="seconds"),
    }
    write_tables(folder, about["classes"], history, evaluation)
    atomic_write(folder / "record.json", json.dumps(record, indent=2) + "\n")
    return record


def write_tables(folder: Path, classes: dict[str, str], history: list[Epoch], evaluation: Evaluation) -> None:
    """Write the tables of a record.

    history.csv: the epochs. classes.csv, confusion.csv: accuracy by class, and which class was predicted for which.
    reliability.csv: accuracy by confidence. mistakes.csv: the most confident ones; `image` is the position among the
    validation images, from 0.

    classes: words by wnid, in order.
    """
    wnids, confusion = list(classes), evaluation.confusion.tolist()
    accuracy = evaluation.class_accuracy.tolist()
    # No timing is among the numbers of the history, so that the same run gives the same file.
    write_csv(folder / "history.csv", EPOCH, ([row[key] for key in EPOCH] for row in history))
    write_csv(
        folder / "classes.csv",
        ("wnid", "words", "images", "correct", "accuracy"),
        (
            [*names, sum(row), row[label], accuracy[label]]
            for label, (names, row) in enumerate(zip(classes.items(), confusion, strict=True))
        ),
    )
    write_csv(
        folder / "confusion.csv",
        ("wnid", "predicted", "images"),
        (
            [wnids[label], wnids[predicted], count]
            for label, row in enumerate(confusion)
            for predicted, count in enumerate(row)
            if count and predicted != label
        ),
    )
    write_csv(folder / "reliability.csv", ("from", "to", "images", "confidence", "accuracy"), evaluation.reliability)
    write_csv(
        folder / "mistakes.csv",
        ("image", "wnid", "predicted", "confidence"),
        (
            [image, wnids[label], wnids[predicted], confidence]
            for image, label, predicted, confidence in evaluation.mistakes(MISTAKES)
        ),
    )


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table; floats as their repr, which rounds nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(header), *rows])
    atomic_write(path, text.getvalue())


def table_path(record: Record, name: str) -> Path:
    """Where a table of a record is. Not every record has all of them: a copied one may lie alone."""
    folder: Path = reports_dir() / record["settings"]["dataset"] / record["run"]
    return folder / name


def read_table(record: Record, name: str) -> pd.DataFrame:
    """A table of a record, for example `classes.csv`. Raises TinyclfError where it cannot be read."""
    import pandas as pd

    path = table_path(record, name)
    try:
        return pd.read_csv(path, keep_default_na=False, na_values={"accuracy": ["nan"]})  # "null" may be a word
    except (OSError, ValueError) as error:
        raise TinyclfError(
            f"{path}: not a readable table ({error}); the run's notebook, run again, writes it"
        ) from error


def read_record(path: Path) -> Record:
    """A record. Raises TinyclfError for one that is unreadable or of another version."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
    except (OSError, ValueError) as error:
        raise TinyclfError(f"{path}: not a readable record ({error}); delete it and run again") from error
    return record


def read_records(dataset: str) -> dict[str, Record]:
    """The records under `reports/<dataset>/`, by name of the run. Raises TinyclfError for an unreadable one."""
    paths = sorted((reports_dir() / dataset).glob("*/record.json"))
    return {path.parent.name: read_record(path) for path in paths}
