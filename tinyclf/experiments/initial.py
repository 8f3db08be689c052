"""The initial weights of a run: random, from a file, or the model of another run, and whether that model fits."""

from pathlib import Path
from typing import Any

from torch import nn

from tinyclf.experiments import names
from tinyclf.experiments.record import RECORD, read_record
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import head_names
from tinyclf.models.weights import copy_weights, fingerprint, load_weights, weights_file
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import Saved
from tinyclf.utils.errors import NewerVersionError, TinyclfError

CHECKPOINT = "checkpoint.pt"


def checkpoint_of(run: str, dataset: str) -> Path:
    """Where a run keeps its checkpoint."""
    return names.run_folder(run, dataset) / CHECKPOINT


def load_initial_weights(model: nn.Module, settings: Settings, classes: list[str]) -> None:
    """Load the weights that a run of `settings` starts from into `model`, which has fresh ones.

    classes: of the data, in order. A parent's model (weights = run:NAME) gives all of its tensors, but for a stem and
    a head that `settings.adapt` allows to differ; with `classes` there,
    the head of a file is left out. Raises TinyclfError as `load_weights` and `find_parent` do.
    """
    parent = find_parent(settings, classes)
    if parent is None:
        load_weights(
            model,
            settings.weights,
            model_name=settings.model,
            stem_init=settings.stem_init,
            fresh_head="classes" in settings.adapts,
        )
        return
    fresh = ("conv1.",) * (parent.about["settings"]["stem"] != settings.stem)
    if list(parent.about["classes"]) != classes:
        fresh += head_names(model)
    copy_weights(model, parent.weights, settings.weights, fresh, stem_init=settings.stem_init)


def describe_initial_weights(settings: Settings, classes: list[str]) -> dict[str, Any]:
    """The initial weights of a run: in words, as a file, as the run that they come from."""
    if parent := find_parent(settings, classes):
        weights = parent.about["weights"]
        return {
            "label": f"{settings.parent}, from {weights['label']}",
            "file": None,
            "sha256": checkpoint.digest(parent.weights),
            "parent": {
                "run": settings.parent,
                "epochs": len(parent.about["history"]),
                "settings": parent.about["settings"],
                "parent": weights.get("parent"),
            },
        }
    file = weights_file(settings.weights, settings.model)
    return {
        "label": weights_label(settings.weights),
        "file": file.name if file else None,
        "sha256": fingerprint(file) if file else None,
    }


def weights_label(weights: str) -> str:
    """What tables and figures call the initial weights; anything but torchvision's own is called a stand-in."""
    named = {"none": "scratch", "imagenet": "ImageNet", "mini": "ImageNet (stand-in: other synthetic classes)"}
    return named.get(weights) or f"ImageNet (stand-in: {Path(weights).name})"


def trained(run: str, dataset: str) -> Saved:
    """The newest checkpoint of a run. Raises TinyclfError, with a command that makes one, unless an epoch is whole."""
    path = checkpoint_of(run, dataset)
    saved = checkpoint.newest(path)
    if saved is None or not saved.about["history"]:
        raise TinyclfError(
            f"run {run!r} has no checkpoint under {path.parent.parent} (checkpoints are not committed): train it "
            f"first, an experiment by `{command(run, dataset)}`"
        )
    return saved


def progress_of(saved: Saved) -> str:
    """How far an unfinished run is, in words; empty for a finished one."""
    done, planned = len(saved.about["history"]), saved.about["settings"]["epochs"]
    return f"epoch {done} of {planned}" if done < planned else ""


def is_finished(run: str, dataset: str) -> bool:
    """Whether a run has ended: all of its epochs are trained, and its record is written, under its own name."""
    path = checkpoint_of(run, dataset)
    if not (path.with_name(RECORD).is_file() and (saved := checkpoint.newest(path))) or progress_of(saved):
        return False
    try:
        record = read_record(path.with_name(RECORD))
    except NewerVersionError:
        raise
    except TinyclfError:
        return False  # a power cut may have left it empty; the checkpoint has all that is needed to write it again
    return bool((record["run"], record["history"]) == (run, saved.about["history"]))


def find_parent(settings: Settings, classes: list[str]) -> Saved | None:
    """The finished run that `settings` start from, on the same data set; None where they start from none.

    classes: of the data, in order. Raises TinyclfError for a run that does not exist, that is unfinished, or whose
    model is made for other images or classes than `settings`, unless these allow that by `adapt`.
    """
    if not settings.parent:
        return None
    saved, name = trained(settings.parent, settings.dataset), settings.parent
    if progress := progress_of(saved):
        raise TinyclfError(
            f"run {name!r} is unfinished, at {progress}: let the command that started it go on, for an experiment "
            f"`{command(name, settings.dataset)}` with the -p and --imagenet that it had"
        )
    if (before := Settings(**saved.about["settings"])).hold_out != settings.hold_out:
        raise TinyclfError(
            f"run {name!r} has hold_out = {before.hold_out}, and this one hold_out = {settings.hold_out}: a run and "
            "the one that it starts from must hold out the same images, or be trained on all"
        )
    refuse_mismatches(saved, settings, classes)
    return saved


def refuse_mismatches(saved: Saved, settings: Settings, classes: list[str]) -> None:
    """Raise TinyclfError where a parent's model does not fit `settings`; it says what would make it fit."""
    name, different = settings.parent, mismatches(saved, settings, classes)
    if not different:
        return
    made, wanted = ({what: values[index] for what, *values in different} for index in (0, 1))
    remedy = " ".join(f"-p {what}={value}" for what, value in made.items())
    if "classes" in made:
        remedy = f"`{command(name, settings.dataset)} --force`, which trains that one on these classes"
    raise TinyclfError(
        f"the model of run {name!r} is made for {listed(made)}, and this run is for {listed(wanted)}. "
        f"Make them the same by {remedy}, or if the difference is meant, allow it by "
        f"-p adapt={','.join([*settings.adapts, *made])}"
    )


def mismatches(saved: Saved, settings: Settings, classes: list[str]) -> list[tuple[str, object, object]]:
    """What a parent's model has other than `settings`, and `adapt` does not allow: name, the parent's, this run's."""
    before, trained_classes = Settings(**saved.about["settings"]), list(saved.about["classes"])
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(before, name), getattr(settings, name)) for name in ("input_size", "normalization", "stem")
    ]
    pairs.append(("classes", len(trained_classes), len(classes)))
    if len(trained_classes) == len(classes):  # then the first that differs tells
        others = [pair for pair in zip(trained_classes, classes, strict=True) if pair[0] != pair[1]]
        pairs += [("classes", *pair) for pair in others[:1]]
    return [pair for pair in pairs if pair[1] != pair[2] and pair[0] not in settings.adapts]


def listed(values: dict[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def command(run: str, dataset: str) -> str:
    """The command that trains an experiment's run to its end."""
    seed = names.seed_of(run)
    return f"tinyclf run {names.family(run)} --dataset {dataset}" + ("" if seed is None else f" --seeds {seed}")
