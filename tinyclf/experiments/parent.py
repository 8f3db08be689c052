"""What a run starts from: its own checkpoint to go on from, or the model of another run, its parent."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from torch import nn

from tinyclf.data.cache import Packed
from tinyclf.experiments import catalog
from tinyclf.experiments.names import run_folder
from tinyclf.experiments.record import RECORD, whole_record
from tinyclf.experiments.settings import BEFORE, Settings
from tinyclf.models.resnet import head_names
from tinyclf.models.weights import copy_weights, fingerprint, load_weights, weights_file
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import Saved
from tinyclf.training.identity import differences
from tinyclf.utils.errors import TinyclfError

CHECKPOINT = "checkpoint.pt"  # in a run's folder
MAY_CHANGE = ("epochs", "weights", "adapt", "eval_size", "flip_tta")  # of a run that goes on; weights by their sha256
MODEL = ("input_size", "normalization", "stem")  # the settings that a model is made for, besides the classes


@functools.lru_cache(maxsize=1)  # a run, its recipe and its notebook ask for the same parent, of some 50 MB
def read_once(path: Path, changed: int) -> Saved | None:
    """The checkpoint at `path`, which changed at that time."""
    return checkpoint.read(path)


def trained(run: str, dataset: str) -> Saved:
    """The checkpoint of a run. Raises TinyclfError, with a command that makes one, unless an epoch is whole."""
    path = run_folder(run, dataset) / CHECKPOINT
    saved = read_once(path, path.stat().st_mtime_ns if path.exists() else 0)
    if saved is None or not saved.about["history"]:
        fault = f"run {run!r} has no checkpoint under {path.parent.parent} (checkpoints are not committed)"
        raise TinyclfError(f"{fault}: train it first, an experiment by `{catalog.how_to_run(run, dataset)}`")
    return saved


def is_finished(run: str, dataset: str) -> bool:
    """Whether a run has ended: all of its epochs are trained, and its record is written, under its own name."""
    path = run_folder(run, dataset) / CHECKPOINT
    record = whole_record(path.with_name(RECORD))
    saved = checkpoint.read(path) if record else None
    if record is None or saved is None or len(record["history"]) < saved.about["settings"]["epochs"]:
        return False
    return bool((record["run"], record["history"]) == (run, saved.about["history"]))


def find_parent(settings: Settings, classes: list[str]) -> Saved | None:
    """The checkpoint of the run that `settings` start from, on the same data set; None where they start from none.

    classes: of the data, in order. Raises TinyclfError for a run that does not exist, that is unfinished, or whose
    model is made for other images or classes than `settings`, unless these allow that by `adapt`.
    """
    run, dataset = settings.parent, settings.dataset
    if not run:
        return None
    parent = trained(run, dataset)
    done, before = len(parent.about["history"]), Settings(**parent.about["settings"])
    if done < before.epochs:
        fault = f"run {run!r} is unfinished, at epoch {done} of {before.epochs}"
        command = f"`{catalog.how_to_run(run, dataset)}` with the -p and --imagenet that it had"
        raise TinyclfError(f"{fault}: let the command that started it go on, for an experiment {command}")
    if before.hold_out != settings.hold_out:
        fault = f"run {run!r} has hold_out = {before.hold_out}, and this one hold_out = {settings.hold_out}"
        raise TinyclfError(f"{fault}: give both the same, as what one holds out the other must not train on")
    refuse_misfit(before, list(parent.about["classes"]), settings, classes)
    return parent


def refuse_misfit(before: Settings, before_classes: list[str], settings: Settings, classes: list[str]) -> None:
    """Raise TinyclfError where a model of settings and classes does not fit others; it says what would make it fit."""
    pairs = {name: (getattr(before, name), getattr(settings, name)) for name in MODEL}
    others = (pair for pair in zip(before_classes, classes, strict=False) if pair[0] != pair[1])
    pairs["classes"] = next(others, (len(before_classes), len(classes)))  # the first that differs tells
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in settings.adapts}
    if different:
        made, wanted = (", ".join(f"{name} = {pair[side]}" for name, pair in different.items()) for side in (0, 1))
        fault = f"the model of run {settings.parent!r} is made for {made}, and this run is for {wanted}"
        adapt = ",".join([*settings.adapts, *different])
        raise TinyclfError(f"{fault}: make them the same, or if the difference is meant, allow it by -p adapt={adapt}")


def load_initial_weights(model: nn.Module, settings: Settings, classes: list[str]) -> None:
    """Load the weights that a run of `settings` starts from into `model`, which has fresh ones.

    classes: of the data, in order. A parent's model (weights = run:NAME) gives all of its tensors, but for a stem and
    a head that `settings.adapt` allows to differ; with `classes` there, the head of a file is left out. Raises
    TinyclfError as `load_weights` and `find_parent` do.
    """
    parent, stem_init = find_parent(settings, classes), settings.stem_init
    if parent is None:
        fresh_head = "classes" in settings.adapts
        load_weights(model, settings.weights, model_name=settings.model, stem_init=stem_init, fresh_head=fresh_head)
        return
    fresh = ("conv1.",) * (parent.about["settings"]["stem"] != settings.stem)
    fresh += head_names(model) * (list(parent.about["classes"]) != classes)
    copy_weights(model, parent.weights, settings.weights, fresh, stem_init=stem_init)


def describe_initial_weights(settings: Settings, parent: Saved | None) -> dict[str, Any]:
    """The initial weights of a run: in words, as a file, as the run that they come from, which is `parent`."""
    if parent is None:
        file = weights_file(settings.weights, settings.model)
        named = {"none": "scratch", "imagenet": "ImageNet", "mini": "ImageNet (stand-in: other synthetic classes)"}
        label = named.get(settings.weights) or f"ImageNet (stand-in: {Path(settings.weights).name})"
        return {"label": label, "file": file and file.name, "sha256": file and fingerprint(file)}
    about, weights = parent.about, parent.about["weights"]
    before = {"run": settings.parent, "epochs": len(about["history"]), "settings": about["settings"]}
    before["parent"] = weights.get("parent")
    label, sha256 = f"{settings.parent}, from {weights['label']}", checkpoint.digest(parent.weights)
    return {"label": label, "file": None, "sha256": sha256, "parent": before}


def start_of(name: str, settings: Settings, data: Packed, parent: Saved | None) -> dict[str, Any]:
    """What a run is when it starts, as its checkpoint and its record keep it; `Run.fit` adds recipe and compute."""
    weights = describe_initial_weights(settings, parent)
    recorded = dataclasses.replace(settings, weights=Path(settings.weights).name)  # without folders of this machine
    images = {"train": len(data.train.labels), "val": len(data.val.labels)}
    return {
        "command": catalog.command(name, recorded, weights.get("parent")),
        "overrides": catalog.overrides(name, recorded),
        "settings": dataclasses.asdict(recorded),
        "data": {"name": data.name, "classes": len(data.classes), **images, "sha256": data.sha256},
        "weights": weights,
        "classes": dict(zip(data.classes, data.class_names, strict=True)),
        "environments": [],
        "history": [],
    }


def changes(before: dict[str, Any], now: dict[str, Any], settings: Settings) -> list[str]:
    """The differences between the run of a checkpoint and this one, `now`, that keep this one from continuing it."""
    old = dataclasses.asdict(Settings()) | BEFORE | before["settings"]  # a newer setting than the run had its default
    changed = differences(decisive(before, old), decisive(now, now["settings"]))
    done = old["epochs"] if settings.planned else len(before["history"])
    if done > settings.epochs or (settings.planned and done != settings.epochs):
        changed["epochs"] = str(done), str(settings.epochs)
    texts = "identity" if "identity" in before else "recipe"  # of an older run, its first lines
    if not changed and texts in now:
        changed = differences(before[texts], now[texts])
    return [f"{name}: {then} before, {here} now" for name, (then, here) in changed.items()]


def decisive(about: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's numbers, besides its recipe: settings, data, and initial weights in words."""
    parent, kept = about["weights"].get("parent"), {key: settings[key] for key in settings if key not in MAY_CHANGE}
    text = f"{parent['run']} after epoch {parent['epochs']}, " if parent else ""
    origins = {"data": about["data"]["sha256"], "weights": about["weights"]["sha256"]}
    return kept | {"data": f"sha256 {origins['data']}", "weights": f"{text}sha256 {origins['weights']}"}
