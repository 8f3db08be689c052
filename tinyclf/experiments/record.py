"""What a finished run leaves: record.json and its tables. Every table and figure of a page is made from records."""

# mypy: disable-error-code="valid-type"
from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Hashable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from tinyclf.experiments.names import check_name, dataset_folder, run_folder
from tinyclf.experiments.settings import BEFORE, Settings, Share, Text
from tinyclf.utils.errors import NewerVersionError, TinyclfError
from tinyclf.utils.files import atomic_write, is_there

if TYPE_CHECKING:  # not imported to list or draw records: they take seconds
    import pandas as pd

    from tinyclf.training.evaluate import Evaluation

Record = dict[str, Any]  # the content of record.json, of the keys of RecordFile
VERSION = 2  # raise it when a key of a record changes
RECIPE = ("model", "criterion", "optimizer", "scheduler", "ema", "before_step", "transform")
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
MISTAKES = 100  # kept of a run, the most confident ones
RECORD, PREDICTIONS, SCRIPT = "record.json", "predictions.csv.gz", "script.py"


def all_settings(settings: dict[str, Any]) -> dict[str, Any]:
    settings = BEFORE | settings  # those that are newer than the run
    if "dataset" not in settings:
        raise ValueError("it has no dataset")
    Settings(**settings)
    return settings


Name = Annotated[str, AfterValidator(lambda name: check_name(name) or name)]
Values = Annotated[dict[str, Any], AfterValidator(all_settings)]
Count = Annotated[int, Field(ge=1, lt=10**18)]
Number = Annotated[float, Field(gt=-1e300, lt=1e300)]  # arithmetic with it stays finite
Positive = Annotated[float, Field(gt=0, lt=1e300)]
Amount = Annotated[float, Field(ge=0, lt=1e300)] | None  # None where it is not known


class Table(BaseModel):
    """A table of a record. What else it holds, of a later tinyclf, is kept."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Ancestor(Table):
    """The run that another one started from."""

    run: Name
    epochs: Count
    settings: Values
    parent: Ancestor | None = None


def table(**types: Any) -> Any:
    """A table of these keys, each with its type, or with its type and default where it may be missing."""
    return pydantic.create_model("Table", __base__=Table, **types)


Epoch = table(  # a row of the history, see `training.loop.fit`
    **{"epoch": Count, "learning_rate": Number, "train_loss": Number, "train_accuracy": Share, "val_loss": Number},
    **{"val_accuracy": Share, "seconds": Number, "images_per_second": Positive},
)
Metrics = table(top1=Share, top5=Share, loss=Number, calibration_error=Share)
Hardware = table(device=Text, name=Text, threads=Count, processes=(Count | None, None))
Environment = table(commit=(Text | None, None), versions=dict[str, Text], hardware=Hardware)
RecordFile = table(
    version=Annotated[int, Field(ge=VERSION, le=VERSION)],
    run=Name,
    command=str,  # that repeats it; empty where there is none
    overrides=dict[str, Any],  # what it has other than its experiment
    settings=Values,
    recipe=(dict[str, Text | None], {}),  # in words, by the names in RECIPE
    identity=(dict[str, Text | None], {}),  # all that decides the numbers, see training/identity.py
    own_code=(bool, False),  # whether it is not the recipe of the settings, on their data
    data=table(name=Text, classes=Count, train=Count, val=Count, sha256=Text),
    weights=table(label=Text, file=(Text | None, None), sha256=(Text | None, None), parent=(Ancestor | None, None)),
    compute=table(own=Amount, total=Amount, published_baseline=Positive),  # multiply-adds
    environments=pydantic.conlist(Environment, min_length=1),
    history=pydantic.conlist(Epoch, min_length=1),
    result=table(last=Epoch, best=Epoch),
    evaluation=Metrics,
    flip_tta=(Metrics | None, None),
    other_sizes=dict[Annotated[str, Field(pattern=r"^[0-9]+$")], Metrics],  # by pixels, as JSON's keys are text
    seconds=Number,
    images_per_second=Positive,
    finished=Annotated[AwareDatetime, PlainSerializer(datetime.isoformat)],
)


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
    """A record. Raises TinyclfError for one that is unreadable, of another version, or changed into no record."""
    is_there(path)
    try:
        record = dict(RecordFile.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True))
        if record["result"] == result_of(record["history"]):
            return record
        problem = "its result is not that of its history"
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("version",) and first["type"] == "less_than_equal":  # not to be taken for a damaged one
            text = f"version {first['input']}, and this tinyclf reads {VERSION}: use the tinyclf that wrote it"
            raise NewerVersionError(f"{path}: {text}") from error
        problem = ": ".join(map(str, (*first["loc"], first["msg"])))
    except (OSError, TypeError, OverflowError, TinyclfError) as error:
        problem = str(error)
    raise TinyclfError(f"{path}: not a readable record ({problem}); delete it and run again")


def whole_record(path: Path) -> Record | None:
    """A record; None where there is none, or a damaged one, as a power cut leaves it. Raises NewerVersionError."""
    try:
        return read_record(path)
    except NewerVersionError:
        raise
    except TinyclfError:
        return None


def read_records(dataset: str) -> dict[str, Record]:
    """The records of a data set by name of the run, in order.

    Left out, and named on stderr once, is what cannot be read, and a folder that was copied or renamed, or its run
    would count twice.
    """
    records: dict[str, Record] = {}
    paths = (folder / RECORD for folder in sorted(dataset_folder(dataset).glob("*")))
    for path in filter(os.path.lexists, paths):
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
