"""A run: settings and data in, a folder with its record out. The record is what every table and figure is made from."""

import dataclasses
import json
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyclf import checkpoint, environment, names as naming, initial as parents, worker
from tinyclf.recipe import train_loader, val_loader
from tinyclf.distributed import this_process
from tinyclf.errors import TinyclfError
from tinyclf.evaluate import Evaluation, evaluate
from tinyclf.files import locked, writable
from tinyclf.guards import enough_memory
from tinyclf.resnet import fingerprint, starting_model, weights_file
from tinyclf.precision import possible
from tinyclf.cache import Packed, load_data
from tinyclf.initial import checkpoint_of
from tinyclf.record import Record, write_record
from tinyclf.settings import Settings
from tinyclf.loop import Epoch, fit, silent


class Run:
    """One training run and its folder, `reports/<dataset>/<name>/`.

    The folder holds the checkpoints (git-ignored), and once finished the record (see records.py). A checkpoint of the
    same settings, data and starting weights is continued, also to more epochs; one that differs is never mixed in.
    Raises TinyclfError when the folder cannot be written or holds another run, naming the differences.
    """

    def __init__(self, settings: Settings, data: Packed, name: str = "", *, force: bool = False) -> None:
        self.settings, self.data = settings, data
        self.name = name or default_name(settings)
        naming.check(self.name)
        refuse_single_image(settings, len(data.train.labels))
        if settings.parent == self.name:
            raise TinyclfError(f"run {self.name!r} cannot start from itself: give it another name, or other weights")
        self.process = this_process()
        self.device = self.process.device
        self.checkpoint = checkpoint_of(self.name, settings.dataset)
        with self.process.main_process_first():
            weights = starts_from(settings, data)  # made or downloaded by the first, found by the others
        self.folder = writable(self.checkpoint.parent)
        self.about: dict[str, Any] = {
            "settings": dataclasses.asdict(settings) | {"weights": Path(settings.weights).name},
            "data": {
                "name": data.name,
                "classes": len(data.classes),
                "train": len(data.train.labels),
                "val": len(data.val.labels),
                "sha256": data.fingerprint,
            },
            "weights": weights,
            "classes": dict(zip(data.classes, data.class_names, strict=True)),
            "environments": [],
            "history": [],
        }
        self.force, self.started = force, False
        self._look()

    def _look(self) -> None:
        """Take over what a checkpoint says of the run so far. What is to be dropped stays until training starts."""
        saved = None if self.force else checkpoint.newest(self.checkpoint, report=silent)
        # Of a run that finished no epoch nothing is lost. But within this process its model is no longer what it was at
        # the start, which the checkpoint still knows.
        self.fresh = saved is None or not (saved.about["history"] or self.started)
        if saved and not self.fresh:
            self._continue(saved.about)

    def _continue(self, before: dict[str, Any]) -> None:
        done = len(before["history"])
        there = dataclasses.asdict(Settings()) | before["settings"]  # a setting newer than the run had its default
        differences = [
            f"{name}: {there[name]!r} there, {value!r} here"
            for name, value in self.about["settings"].items()
            if value != there[name] and name not in ("epochs", "weights", "adapt", "eval_size", "flip_tta")
        ]
        differences += [
            f"{what}: {described(before[what])} there, {described(self.about[what])} here"
            for what in ("data", "weights")
            if before[what]["sha256"] != self.about[what]["sha256"]
        ]
        planned = self.settings.planned
        if done > self.settings.epochs or (planned and there["epochs"] != self.settings.epochs):
            differences.append(f"epochs: {there['epochs'] if planned else done} there, {self.settings.epochs} here")
        if differences:
            raise TinyclfError(
                f"{self.folder} holds another run ({'; '.join(differences)}): give this one another name, "
                "or start over with --force (in a notebook: force = True)"
            )
        self.about |= {"environments": before["environments"], "history": before["history"]}

    def fit(self, model: nn.Module, processes: int = 1) -> list[Epoch]:
        """Train `model` by the settings, continuing from the checkpoint if there is one; returns the whole history.

        processes: how many to train in; more than one are started for it, each with a GPU of its own or its share of
        the cores. Raises TinyclfError when there are not so many, when this run is under way in another process, and
        when another one took its folder since this one was made.
        """
        self._check(processes)
        busy = f"run {self.name} on {self.data.name} is under way already; wait for it, or give this one another name"
        with locked(self.folder / ".lock", busy) if self.process.is_main_process else nullcontext() as lock:
            self._look()  # again, as nobody else changes it now
            if self.fresh and self.process.is_main_process:
                checkpoint.delete(self.checkpoint)
            self.process.wait_for_everyone()
            self.force, self.started = False, True  # so that this, interrupted and called again, goes on
            missing = len(self.about["history"]) < self.settings.epochs
            now = environment.describe(self.device, max(processes, self.process.num_processes))
            if missing and now not in self.about["environments"]:
                self.about["environments"].append(now)
            if processes > 1 and missing:
                if checkpoint.newest(self.checkpoint, report=silent) is None:
                    checkpoint.save(self.checkpoint, model, None, self.about)
                assert lock is not None  # as `_check` saw that this process is the only one
                worker.launch(self.checkpoint, self.about, processes, lock)
                saved = checkpoint.newest(self.checkpoint)
                assert saved is not None
                checkpoint.restore(saved, model.to(self.device), None)
                history: list[Epoch] = saved.about["history"]
                return history
            with enough_memory(self.settings.batch_size):
                kind = (self.data, self.settings, self.process)
                train, val = train_loader(*kind), val_loader(*kind)
                return fit(model, train, val, self.settings, save_to=self.checkpoint, about=self.about)

    def is_recorded(self) -> bool:
        """Whether the folder holds the record of this very run, at its end, and it is not to start over."""
        path = self.folder / "record.json"
        if self.force or len(self.about["history"]) < self.settings.epochs or not path.is_file():
            return False
        record = json.loads(path.read_text())  # of this run, and not of one before it that was dropped
        return all(record[key] == self.about[key] for key in ("settings", "history"))

    def _check(self, processes: int) -> None:
        """Raise TinyclfError unless this machine has a GPU or a core for each of so many processes."""
        most = torch.cuda.device_count() if self.device.type == "cuda" else os.cpu_count() or 1
        if processes > 1 and self.process.num_processes > 1:
            raise TinyclfError(f"processes = {processes}: this is one of several processes already, let them be 1")
        if not 1 <= processes <= most:
            raise TinyclfError(f"processes = {processes}: expected 1 to {most}, as many as there are GPUs, else cores")

    def evaluate(self, model: nn.Module, input_size: int = 0, *, mirrored: bool = False) -> Evaluation:
        """What `model`, after `fit`, is worth on the validation images, in this process alone.

        input_size: pixels to show them at instead of those that it was trained for. mirrored: with each image, show its
        mirror image, and take the mean of the two answers (test-time averaging).
        """
        shown = dataclasses.replace(self.settings, input_size=input_size or self.settings.input_size, start_size=0)
        with enough_memory(self.settings.batch_size):
            val = val_loader(self.data, shown, self.process, alone=True)
            precision = possible(self.settings.precision, self.device)
            return evaluate(model.to(self.device), val, self.settings.epochs, precision=precision, mirrored=mirrored)

    def finish(self, history: list[Epoch], model: nn.Module) -> Record:
        """Evaluate `model` after `fit`, write the record and its tables into the folder; returns the record."""
        evaluation, other = self.evaluate(model), self.settings.eval_size
        other_sizes = {other: self.evaluate(model, other)} if other else {}
        mirrored = self.evaluate(model, mirrored=True) if self.settings.flip_tta else None
        ended = self.checkpoint.stat().st_mtime  # not now: a finished run may be shown again years later
        return write_record(self.folder, self.name, self.about, history, evaluation, ended, other_sizes, mirrored)


def train_experiment(name: str, parameters: dict[str, Any]) -> None:
    """Train as an experiment's notebook does, in this process or as one of several, to the record but no page."""
    if "run" not in parameters:
        raise TinyclfError(f"{name}: there is nothing to train; `tinyclf run {name}` makes its page")
    settings = Settings.from_notebook(parameters)
    data = load_data(settings.dataset, settings.hold_out)
    run = Run(settings, data, parameters["run"], force=parameters.get("force", False))
    if run.is_recorded():
        return
    model = starting_model(settings, data.classes)
    history = run.fit(model, parameters.get("processes", 1))
    if run.process.is_main_process:
        run.finish(history, model)
    run.process.wait_for_everyone()


def default_name(settings: Settings) -> str:
    """A name from what differs from the published recipe, `weights-imagenet-epochs-3`, or `published-recipe`."""
    recipe = dataclasses.asdict(Settings(dataset=settings.dataset))
    parts = [
        f"{name}-{Path(value).stem if isinstance(value, str) else value}"
        for name, value in dataclasses.asdict(settings).items()
        if value != recipe[name]
    ]
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))[:100] or "published-recipe"


def refuse_single_image(settings: Settings, images: int) -> None:
    """Raise TinyclfError where batch norm would see a single pixel of a single image: it has no variance."""
    stride = 32 if settings.stem == "imagenet" else 8
    if images % settings.batch_size == 1 and settings.size_in(1) <= stride:
        raise TinyclfError(
            f"batch_size = {settings.batch_size}: the last batch of {images:,} images has a single one, too few for "
            f"batch norm at {settings.size_in(1)} pixels; give another batch_size, or more than {stride} pixels"
        )


def starts_from(settings: Settings, data: Packed) -> dict[str, Any]:
    """What a run's weights are before its first epoch: in words, as a file, as the run that they come from."""
    if saved := parents.parent(settings, data.classes):
        return {
            "label": f"{settings.parent}, from {saved.about['weights']['label']}",
            "file": None,
            "sha256": checkpoint.digest("", saved.weights),
            "parent": {
                "run": settings.parent,
                "epochs": len(saved.about["history"]),
                "settings": saved.about["settings"],
                "parent": saved.about["weights"].get("parent"),
            },
        }
    file = weights_file(settings.weights)
    return {
        "label": weights_label(settings.weights),
        "file": file.name if file else None,
        "sha256": fingerprint(file),
    }


def described(part: dict[str, Any]) -> str:
    """Data or weights in words, to tell them from others."""
    parent = part.get("parent")
    origin = f"{parent['run']} after epoch {parent['epochs']}, " if parent else ""
    return f"{origin}sha256 {part['sha256']}"


def weights_label(weights: str) -> str:
    """What tables and figures call the starting weights; anything but torchvision's own is called a stand-in."""
    named = {"none": "nothing", "imagenet": "ImageNet", "mini": "ImageNet (stand-in: other drawn classes)"}
    return named.get(weights) or f"ImageNet (stand-in: {Path(weights).name})"
