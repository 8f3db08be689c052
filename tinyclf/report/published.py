"""What the open project Tiny-ImageNet-Classifier published, by the name of the experiment that reproduces it."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.names import family
from tinyclf.utils.lazy import pd

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def published(name: str, dataset: str) -> dict[str, Any] | None:
    """What was published of an experiment or of its run with any seed.

    None where nothing was, and on a data set whose numbers do not compare with the published ones.
    """
    return PUBLISHED.get(family(name)) if DATASETS[dataset].comparable else None


def published_curve(name: str, dataset: str, key: str) -> pd.Series:
    """A published curve by epoch, `train_loss` to `val_accuracy`; empty where none was published."""
    return pd.Series(by_epoch(name, dataset, key), dtype=float, name="published").rename_axis("epoch")


def published_at(name: str, dataset: str, epoch: float) -> float:
    """The published validation accuracy, in 0..1, at an epoch; NaN where it is not known."""
    row = published(name, dataset)
    if row and epoch == row["epochs"]:
        return float(row["last"])
    return by_epoch(name, dataset, "val_accuracy").get(epoch, math.nan)


def by_epoch(name: str, dataset: str, key: str) -> dict[float, float]:
    """The values of a published curve by epoch."""
    row = published(name, dataset) or {}
    return dict(zip(row["curve_epochs"], row[key], strict=True)) if key in row else {}
