"""A run: settings and data in, a folder with its record out. The record is what every table and figure is made from."""

import csv
import dataclasses
import datetime
import io
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyclf import checkpoint, environment
from tinyclf.augment import Augmentation
from tinyclf.batches import Batches
from tinyclf.errors import TinyclfError
from tinyclf.files import writable, write
from tinyclf.models import fingerprint, weights_file
from tinyclf.packed import Packed
from tinyclf.paths import reports_dir
from tinyclf.settings import Settings
from tinyclf.training import Epoch, fit

Record = dict[str, Any]  # what `Run.finish` writes
STEP = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


class Run:
    """One training run and its folder, `reports/<dataset>/<name>/`.

    The folder holds the checkpoint (git-ignored), and once finished record.json and history.csv. A checkpoint of the
    same settings, data and starting weights is continued, also to more epochs; one that differs is never mixed in.
    Raises TinyclfError when the folder cannot be written or holds another run, naming the differences.
    """

    def __init__(self, settings: Settings, data: Packed, name: str = "", *, force: bool = False) -> None:
        self.settings, self.data = settings, data
        self.name = name or default_name(settings)
        if not re.fullmatch(r"[A-Za-z0-9_][\w.=+-]{0,99}", self.name):
            raise TinyclfError(f"run = {self.name!r}: expected the name of a folder, letters, digits and -_.=+ alone")
        self.folder = writable(reports_dir() / settings.dataset / self.name)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoint = self.folder / "checkpoint.safetensors"
        start = weights_file(settings.weights)
        self.about: dict[str, Any] = {
            "settings": dataclasses.asdict(settings) | {"weights": Path(settings.weights).name},
            "data": {
                "name": data.name,
                "classes": len(data.classes),
                "train": len(data.train.labels),
                "val": len(data.val.labels),
                "sha256": data.fingerprint,
            },
            "weights": {
                "label": weights_label(settings.weights),
                "file": start.name if start else None,
                "sha256": fingerprint(start),
            },
            "environments": [],
            "history": [],
        }
        self.fresh = force  # what is there stays until training starts
        if not force and (saved := checkpoint.newest(self.checkpoint)):
            self.fresh = not saved.about["history"]  # of a run that finished no epoch nothing is lost
            if not self.fresh:
                self._continue(saved.about)

    def _continue(self, before: dict[str, Any]) -> None:
        done = len(before["history"])
        there = dataclasses.asdict(Settings()) | before["settings"]  # a setting newer than the run had its default
        differences = [
            f"{name}: {there[name]!r} there, {value!r} here"
            for name, value in self.about["settings"].items()
            if value != there[name] and name not in ("epochs", "weights")
        ]
        differences += [
            f"{what}: {before[what]['sha256']} there, {self.about[what]['sha256']} here"
            for what in ("data", "weights")
            if before[what]["sha256"] != self.about[what]["sha256"]
        ]
        if done > self.settings.epochs:
            differences.append(f"epochs: {done} there, {self.settings.epochs} here")
        if differences:
            raise TinyclfError(
                f"{self.folder} holds another run ({'; '.join(differences)}): give this one another name, "
                "or start over with --force (in a notebook: force = True)"
            )
        self.about |= {"environments": before["environments"], "history": before["history"]}

    def fit(self, model: nn.Module) -> list[Epoch]:
        """Train `model` by the settings, continuing from the checkpoint if there is one; returns the whole history."""
        data, settings = self.data, self.settings
        common = {"device": self.device, "normalization": settings.normalization}
        train = Batches(
            data.train.images,
            data.train.labels,
            settings.batch_size,
            shuffle=True,
            augmentation=Augmentation.of(settings),
            seed=settings.seed,
            **common,
        )
        val = Batches(data.val.images, data.val.labels, settings.batch_size, **common)
        now = environment.describe(self.device)
        if len(self.about["history"]) < settings.epochs and now not in self.about["environments"]:
            self.about["environments"].append(now)
        if self.fresh:
            checkpoint.delete(self.checkpoint)
            self.fresh = False  # so that this, interrupted and called again, goes on
        return fit(model.to(self.device), train, val, settings, save_to=self.checkpoint, about=self.about)

    def finish(self, history: list[Epoch]) -> Record:
        """Write record.json and history.csv; returns the record."""
        seconds = sum(row["seconds"] for row in history)
        ended = self.checkpoint.stat().st_mtime  # not now: a finished run may be shown again years later
        record = {
            "run": self.name,
            **{key: self.about[key] for key in ("settings", "data", "weights", "environments")},
            "history": history,
            "result": {"last": history[-1], "best": max(history, key=lambda row: row["val_accuracy"])},
            "seconds": seconds,
            "images_per_second": len(history) / sum(1 / row["images_per_second"] for row in history),
            "finished": datetime.datetime.fromtimestamp(ended, datetime.UTC).isoformat(timespec="seconds"),
        }
        table = io.StringIO()
        writer = csv.DictWriter(table, STEP, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)  # repr of each float: nothing is rounded, and no timing stands among the numbers
        write(self.folder / "history.csv", table.getvalue())
        write(self.folder / "record.json", json.dumps(record, indent=2) + "\n")
        return record


def default_name(settings: Settings) -> str:
    """A name from what differs from the published recipe, `weights-imagenet-epochs-3`, or `published-recipe`."""
    recipe = dataclasses.asdict(Settings(dataset=settings.dataset))
    parts = [
        f"{name}-{Path(value).stem if isinstance(value, str) else value}"
        for name, value in dataclasses.asdict(settings).items()
        if value != recipe[name]
    ]
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))[:100] or "published-recipe"


def weights_label(weights: str) -> str:
    """What tables and figures call the starting weights; anything but torchvision's own is called a stand-in."""
    named = {"none": "nothing", "imagenet": "ImageNet", "mini": "ImageNet (stand-in: other drawn classes)"}
    return named.get(weights) or f"ImageNet (stand-in: {Path(weights).name})"


def read_records(dataset: str) -> dict[str, Record]:
    """The records under `reports/<dataset>/`, by name of the run. Raises TinyclfError for an unreadable one."""
    records = {}
    for path in sorted((reports_dir() / dataset).glob("*/record.json")):
        try:
            records[path.parent.name] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TinyclfError(f"{path}: not a readable record ({error}); delete it and run again") from error
    return records
