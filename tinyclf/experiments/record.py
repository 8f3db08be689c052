"""What a finished run leaves: record.json and its tables. Every table and figure of a page is made from records."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclf.experiments.names import check_name, run_folder
from tinyclf.experiments.settings import BEFORE, Settings
from tinyclf.utils import schema
from tinyclf.utils.errors import NewerVersionError, TinyclfError, one_of
from tinyclf.utils.files import atomic_write
from tinyclf.utils.paths import reports_dir

if TYPE_CHECKING:  # not imported to list or draw records: they take seconds
    import pandas as pd

    from tinyclf.training.evaluate import Evaluation
    from tinyclf.training.loop import Epoch

Record = dict[str, Any]
VERSION = 2  # raise it when a key of a record changes
ABOUT = ("command", "overrides", "settings", "recipe", "data", "weights", "compute", "environments")
RECIPE = ("model", "criterion", "optimizer", "scheduler", "ema", "before_step")
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
MISTAKES = 100  # kept of a run, the most confident ones
RECORD = "record.json"


def check_settings(where: str, settings: Any) -> None:
    """Raise TinyclfError for what are no settings of a run; those that are newer than the run may be missing."""
    schema.check_rule(where, settings, schema.TABLE)
    for name in settings:
        one_of(f"{where}: setting", name, Settings.names())
    try:
        Settings(**settings)
    except TinyclfError as error:
        raise TinyclfError(f"{where}: {error}") from error


def check_run(where: str, name: Any) -> None:
    """Raise TinyclfError for what is no name of a run."""
    check_name(name, where)


HISTORY = {"epoch": schema.COUNT, "learning_rate": schema.NUMBER, "train_loss": schema.NUMBER} | {
    **{"train_accuracy": schema.SHARE, "val_loss": schema.NUMBER, "val_accuracy": schema.SHARE},
    **{"seconds": schema.NUMBER, "images_per_second": schema.POSITIVE},
}
EVALUATION = {"top1": schema.SHARE, "top5": schema.SHARE, "loss": schema.NUMBER, "calibration_error": schema.SHARE}
MACHINE = {"device": schema.TEXT, "name": schema.TEXT, "threads": schema.COUNT, "processes?": schema.COUNT}
PARENT: dict[str, schema.Shape] = {"run": check_run, "epochs": schema.COUNT, "settings": check_settings}
PARENT["parent?"] = PARENT
SHAPE: dict[str, schema.Shape] = {
    "run": check_run,
    "command": schema.LINE,
    "overrides": schema.TABLE,
    "settings": check_settings,
    "recipe?": {f"{name}?": schema.TEXT for name in RECIPE},
    "data": {"name": schema.TEXT, "classes": schema.COUNT, "train": schema.COUNT, "val": schema.COUNT}
    | {"sha256": schema.TEXT},
    "weights": {"label": schema.TEXT, "file?": schema.TEXT, "sha256?": schema.TEXT, "parent?": PARENT},
    "compute": dict.fromkeys(("own", "total", "published_baseline"), schema.POSITIVE),
    "environments": [{"commit?": schema.TEXT, "versions": {schema.ANY: schema.TEXT}, "hardware": MACHINE}],
    "history": [HISTORY],
    "result": {"last": HISTORY, "best": HISTORY},
    "evaluation": EVALUATION,
    "flip_tta?": EVALUATION,
    "other_sizes": {schema.ANY: EVALUATION},
    "seconds": schema.NUMBER,
    "images_per_second": schema.POSITIVE,
    "finished": schema.TIME,
}


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
    atomic_write(folder / RECORD, json.dumps(record, indent=2) + "\n")
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
    return run_folder(record["run"], record["settings"]["dataset"]) / name


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
    """A record. Raises TinyclfError for one that is unreadable, of another version, or changed into no record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema.check_rule("", record, schema.TABLE)
        version = record.get("version")
        if type(version) is int and version > VERSION:
            raise NewerVersionError(
                f"{path}: a record of version {version}, and this tinyclf reads {VERSION}: use the tinyclf that wrote "
                "it, or a newer one"
            )
        if version != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        schema.check_shape("", record, SHAPE)
        if not (record["history"] and record["environments"]):
            raise ValueError("it has no epoch, or no environment")
        if not all(size.isascii() and size.isdigit() for size in record["other_sizes"]):
            raise ValueError("other_sizes has a key that is no size")
    except NewerVersionError:
        raise
    except (OSError, ValueError, RecursionError, TinyclfError) as error:
        raise TinyclfError(f"{path}: not a readable record ({error}); delete it and run again") from error
    before: dict[str, Any] | None = record
    while before:  # it, and the runs that it started from
        before["settings"] = BEFORE | before["settings"]
        before = before["weights"].get("parent") if before is record else before.get("parent")
    return dict(record)


def read_records(dataset: str) -> dict[str, Record]:
    """The records under `reports/<dataset>/`, by name of the run. Raises TinyclfError for an unreadable one.

    One in a folder of another name is none of them: see `copies`.
    """
    return {path.parent.name: record for path, record in all_records(dataset) if is_in_place(path, record)}


def copies(dataset: str) -> dict[str, str]:
    """The folders under `reports/<dataset>/` that were copied or renamed, each with the name of the run in its record.

    They are no runs, or one would count twice. Raises TinyclfError as `read_records` does.
    """
    return {path.parent.name: record["run"] for path, record in all_records(dataset) if not is_in_place(path, record)}


def all_records(dataset: str) -> list[tuple[Path, Record]]:
    """Every record under `reports/<dataset>/` with its path, in the order of the folders' names."""
    return [(path, read_record(path)) for path in sorted((reports_dir() / dataset).glob(f"*/{RECORD}"))]


def is_in_place(path: Path, record: Record) -> bool:
    """Whether a record lies where its run left it."""
    return bool((record["settings"]["dataset"], record["run"]) == path.parts[-3:-1])
