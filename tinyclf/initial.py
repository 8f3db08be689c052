"""The run that another one starts from: its model, and whether that is made for what the other one does with it."""

import json
from pathlib import Path

import torch
from torch import nn

from tinyclf import checkpoint
from tinyclf import names as naming
from tinyclf.checkpoint import Saved
from tinyclf.errors import TinyclfError
from tinyclf.paths import reports_dir
from tinyclf.resnet import build_model, head_names
from tinyclf.settings import Settings
from tinyclf.small_map_conv import use_small_map_conv
from tinyclf.weights import copy_weights, load_weights

CHECKPOINT = "checkpoint.safetensors"


def network(settings: Settings, classes: int) -> nn.Module:
    """The model of `settings`, for a state dict to be loaded into it: its weights are random."""
    model = build_model(settings.model, classes, stem=settings.stem)
    use_small_map_conv(model)
    return model


def starting_model(settings: Settings, classes: list[str]) -> nn.Module:
    """The model that a run of `settings` starts from, its random weights drawn from their seed.

    classes: of the data, in order. A parent (weights = run:NAME) gives all of its weights but those of a stem and a
    head that `settings.adapt` lets differ. Raises TinyclfError as `build_model`, `load_weights` and `parent` do.
    """
    torch.manual_seed(settings.seed)
    saved = parent(settings, classes)
    if saved is None:
        model = build_model(settings.model, len(classes), stem=settings.stem, zero_init=settings.zero_init)
        load_weights(model, settings.weights, model_name=settings.model, stem_init=settings.stem_init)
    else:
        model = build_model(settings.model, len(classes), stem=settings.stem)
        other_stem = Settings(**saved.about["settings"]).stem != settings.stem
        other_classes = list(saved.about["classes"]) != classes
        fresh = ("conv1.",) * other_stem + head_names(model) * other_classes
        copy_weights(model, saved.weights, settings.weights, fresh, stem_init=settings.stem_init)
    use_small_map_conv(model)
    return model


def checkpoint_of(run: str, dataset: str) -> Path:
    """Where a run keeps its checkpoint."""
    return reports_dir() / dataset / run / CHECKPOINT


def trained(run: str, dataset: str) -> Saved:
    """The newest checkpoint of a run. Raises TinyclfError where it has none of a whole epoch, naming what makes one."""
    path = checkpoint_of(run, dataset)
    saved = checkpoint.newest(path)
    if saved is None or not saved.about["history"]:
        raise TinyclfError(
            f"run {run!r} has no checkpoint under {path.parent.parent} (checkpoints are not committed): train it "
            f"first, an experiment by `{command(run, dataset)}`"
        )
    return saved


def unfinished(saved: Saved) -> str:
    """How far a run is that has not finished, in words; empty for one that has."""
    done, wanted = len(saved.about["history"]), saved.about["settings"]["epochs"]
    return f"epoch {done} of {wanted}" if done < wanted else ""


def is_finished(run: str, dataset: str) -> bool:
    """Whether a run came to its end: all of its epochs are trained, and its record is written."""
    path = checkpoint_of(run, dataset)
    record = path.with_name("record.json")
    if not (record.is_file() and (saved := checkpoint.newest(path))) or unfinished(saved):
        return False
    return bool(saved.about["history"]) and json.loads(record.read_text())["history"] == saved.about["history"]


def parent(settings: Settings, classes: list[str]) -> Saved | None:
    """The finished run that `settings` start from, on the same data set; None where they start from none.

    classes: of the data, in order. Raises TinyclfError for a run that is not there, that is unfinished, or whose model
    is made for other images or classes than `settings`, unless these say that it is to be adapted.
    """
    if not settings.parent:
        return None
    saved, name = trained(settings.parent, settings.dataset), settings.parent
    if how_far := unfinished(saved):
        raise TinyclfError(
            f"run {name!r} is unfinished, at {how_far}: let the command that started it go on, for an experiment "
            f"`{command(name, settings.dataset)}` with the -p and --imagenet that it had"
        )
    if (before := Settings(**saved.about["settings"])).hold_out != settings.hold_out:
        raise TinyclfError(
            f"run {name!r} has hold_out = {before.hold_out}, and this one hold_out = {settings.hold_out}: a run and "
            "the one that it starts from must hold out the same images, or be trained on all"
        )
    if faults := misfits(saved, settings, classes):
        made, wanted = ({what: pair[place] for what, *pair in faults} for place in (0, 1))
        same = " ".join(f"-p {what}={there}" for what, there in made.items())
        if "classes" in made:
            same = f"`{command(name, settings.dataset)} --force`, which trains that one on these classes"
        raise TinyclfError(
            f"the model of run {name!r} is made for {listed(made)}, and this run is for {listed(wanted)}. "
            f"Make them the same by {same}, or if the difference is meant, say so by "
            f"-p adapt={','.join([*settings.adapts, *made])}"
        )
    return saved


def misfits(saved: Saved, settings: Settings, classes: list[str]) -> list[tuple[str, object, object]]:
    """In what a model is made for something else than `settings` want and do not adapt: what, there, here."""
    before, there = Settings(**saved.about["settings"]), list(saved.about["classes"])
    found: list[tuple[str, object, object]] = [
        (name, getattr(before, name), getattr(settings, name)) for name in ("input_size", "normalization", "stem")
    ]
    found.append(("classes", len(there), len(classes)))
    if len(there) == len(classes):  # then the first that is another tells
        found += [("classes", *pair) for pair in zip(there, classes, strict=True) if pair[0] != pair[1]][:1]
    return [each for each in found if each[1] != each[2] and each[0] not in settings.adapts]


def listed(values: dict[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def command(run: str, dataset: str) -> str:
    """What trains an experiment's run to its end."""
    seed = naming.seed_of(run)
    return f"tinyclf run {naming.family(run)} --dataset {dataset}" + ("" if seed is None else f" --seeds {seed}")
