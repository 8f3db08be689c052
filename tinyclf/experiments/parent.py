"""What a run starts from: its own checkpoint to go on from, or the model of another run, its parent."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tinyclf.data.cache import Packed, load_data
from tinyclf.experiments import catalog, names
from tinyclf.experiments.record import RECORD, whole_record
from tinyclf.experiments.settings import BEFORE, Settings
from tinyclf.models.choices import is_file
from tinyclf.models.resnet import head_names
from tinyclf.models.weights import copy_weights, fingerprint, load_weights, weights_file
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import Saved
from tinyclf.training.identity import differences
from tinyclf.utils.errors import TinyclfError

CHECKPOINT = "checkpoint.pt"
MAY_CHANGE = ("epochs", "weights", "adapt", "eval_size", "flip_tta")  # of a run that goes on; weights by their sha256
MODEL = ("input_size", "normalization", "stem")  # the settings that a model is made for, besides the classes


@dataclass(frozen=True)
class Parent:
    """The finished run that another one starts from."""

    run: str
    settings: Settings
    about: dict[str, Any]  # what its checkpoint says of it, with its history: see `Run`
    weights: dict[str, Tensor]  # of its model
    sha256: str  # of these

    @property
    def classes(self) -> list[str]:
        """The wnids that it was trained on, in order."""
        return list(self.about["classes"])


def checkpoint_of(run: str, dataset: str) -> Path:
    """Where a run keeps its checkpoint."""
    return names.run_folder(run, dataset) / CHECKPOINT


def trained(run: str, dataset: str) -> Saved:
    """The checkpoint of a run. Raises TinyclfError, with a command that makes one, unless an epoch is whole."""
    path = checkpoint_of(run, dataset)
    saved = checkpoint.read(path)
    if saved is None or not saved.about["history"]:
        raise TinyclfError(
            f"run {run!r} has no checkpoint under {path.parent.parent} (checkpoints are not committed): train it "
            f"first, an experiment by `{catalog.how_to_run(run, dataset)}`"
        )
    return saved


def is_finished(run: str, dataset: str) -> bool:
    """Whether a run has ended: all of its epochs are trained, and its record is written, under its own name."""
    path = checkpoint_of(run, dataset)
    record = whole_record(path.with_name(RECORD))
    saved = checkpoint.read(path) if record else None
    if record is None or saved is None or epochs_left(saved):
        return False
    return bool((record["run"], record["history"]) == (run, saved.about["history"]))


def epochs_left(saved: Saved) -> int:
    """How many epochs a run has still to train."""
    return int(saved.about["settings"]["epochs"]) - len(saved.about["history"])


def find_parent(settings: Settings, classes: list[str]) -> Parent | None:
    """The finished run that `settings` start from, on the same data set; None where they start from none.

    classes: of the data, in order. Raises TinyclfError for a run that does not exist, that is unfinished, or whose
    model is made for other images or classes than `settings`, unless these allow that by `adapt`.
    """
    if not settings.parent:
        return None
    path = checkpoint_of(settings.parent, settings.dataset)
    parent = read_parent(path, settings.dataset, path.stat().st_mtime_ns if path.exists() else 0)
    if parent.settings.hold_out != settings.hold_out:
        raise TinyclfError(
            f"run {parent.run!r} has hold_out = {parent.settings.hold_out}, and this one hold_out = "
            f"{settings.hold_out}: give both the same, as what one holds out the other must not train on"
        )
    refuse_misfit(parent, settings, classes)
    return parent


@functools.lru_cache(maxsize=1)  # a run, its recipe and its notebook ask for the same one, of some 50 MB
def read_parent(path: Path, dataset: str, changed: int) -> Parent:
    """The run of the checkpoint at `path`, which changed at a time. Raises TinyclfError where it has not finished."""
    run = path.parent.name
    saved = trained(run, dataset)
    if epochs_left(saved) > 0:
        done, planned = len(saved.about["history"]), saved.about["settings"]["epochs"]
        raise TinyclfError(
            f"run {run!r} is unfinished, at epoch {done} of {planned}: let the command that started it go on, for an "
            f"experiment `{catalog.how_to_run(run, dataset)}` with the -p and --imagenet that it had"
        )
    weights = saved.weights
    return Parent(run, Settings(**saved.about["settings"]), saved.about, weights, checkpoint.digest(weights))


def refuse_misfit(parent: Parent, settings: Settings, classes: list[str]) -> None:
    """Raise TinyclfError where a parent's model does not fit `settings`; it says what would make it fit."""
    pairs = {name: (getattr(parent.settings, name), getattr(settings, name)) for name in MODEL}
    others = (pair for pair in zip(parent.classes, classes, strict=False) if pair[0] != pair[1])
    pairs["classes"] = next(others, (len(parent.classes), len(classes)))  # the first that differs tells
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in settings.adapts}
    if different:
        made, wanted = (", ".join(f"{name} = {pair[side]}" for name, pair in different.items()) for side in (0, 1))
        raise TinyclfError(
            f"the model of run {parent.run!r} is made for {made}, and this run is for {wanted}: make them the same, or "
            f"if the difference is meant, allow it by -p adapt={','.join([*settings.adapts, *different])}"
        )


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
    fresh = ("conv1.",) * (parent.settings.stem != settings.stem)
    fresh += head_names(model) if parent.classes != classes else ()
    copy_weights(model, parent.weights, settings.weights, fresh, stem_init=stem_init)


def describe_initial_weights(settings: Settings, parent: Parent | None) -> dict[str, Any]:
    """The initial weights of a run: in words, as a file, as the run that they come from, which is `parent`."""
    if parent is None:
        file = weights_file(settings.weights, settings.model)
        named = {"none": "scratch", "imagenet": "ImageNet", "mini": "ImageNet (stand-in: other synthetic classes)"}
        label = named.get(settings.weights) or f"ImageNet (stand-in: {Path(settings.weights).name})"
        return {"label": label, "file": file and file.name, "sha256": file and fingerprint(file)}
    about, weights = parent.about, parent.about["weights"]
    before = {"run": parent.run, "epochs": len(about["history"]), "settings": about["settings"]}
    before["parent"] = weights.get("parent")
    label = f"{parent.run}, from {weights['label']}"
    return {"label": label, "file": None, "sha256": parent.sha256, "parent": before}


def identity_of(dataset: str, hold_out: bool) -> str:
    """The identity of a data set as it is."""
    return load_data(dataset, hold_out).identity


def start_of(name: str, settings: Settings, data: Packed, parent: Parent | None) -> dict[str, Any]:
    """What a run is when it starts, as its checkpoint and its record keep it; `Run.fit` adds recipe and compute."""
    weights = first = describe_initial_weights(settings, parent)
    recorded = dataclasses.replace(settings, weights=Path(settings.weights).name)  # without folders of this machine
    while before := first.get("parent"):  # the first of those that it comes from may have had a file as ImageNet's
        first = before
    stand_in = first["settings"]["weights"] if first is not weights else ""
    known = data.identity == identity_of(data.name, data.hold_out)  # else they were changed
    images = {"train": len(data.train.labels), "val": len(data.val.labels)}
    return {
        "command": catalog.command(name, recorded, stand_in if is_file(stand_in) else ""),
        "overrides": catalog.overrides(name, recorded),
        "settings": dataclasses.asdict(recorded),
        "data": {
            "name": data.name,
            "classes": len(data.classes),
            **images,
            "sha256": data.fingerprint if known else data.identity,
        },
        "weights": weights,
        "classes": dict(zip(data.classes, data.class_names, strict=True)),
        "environments": [],
        "history": [],
    }


def changes(before: dict[str, Any], now: dict[str, Any], settings: Settings) -> list[str]:
    """The differences between the run of a checkpoint and this one, `now`, that keep this one from continuing it."""
    done = len(before["history"])
    old = dataclasses.asdict(Settings()) | BEFORE | before["settings"]  # a newer setting than the run had its default
    tables = [{name: each[name] for name in each if name not in MAY_CHANGE} for each in (old, now["settings"])]
    changed = differences(*tables) | differences(origins(before), origins(now))
    if done > settings.epochs or (settings.planned and old["epochs"] != settings.epochs):
        changed["epochs"] = str(old["epochs"] if settings.planned else done), str(settings.epochs)
    texts = "identity" if "identity" in before else "recipe"  # of an older run, its first lines
    now_texts = now.get(texts, {})
    changed = changed or differences({key: before.get(texts, {}).get(key) for key in now_texts}, now_texts)
    return [f"{name}: {then} before, {here} now" for name, (then, here) in changed.items()]


def origins(about: dict[str, Any]) -> dict[str, str]:
    """Data and initial weights in words, to tell them from others."""
    parent = about["weights"].get("parent")
    text = f"{parent['run']} after epoch {parent['epochs']}, " if parent else ""
    return {"data": f"sha256 {about['data']['sha256']}", "weights": f"{text}sha256 {about['weights']['sha256']}"}
