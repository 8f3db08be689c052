"""What is refused before a run trains, in one sentence each: what would make a record untrue, or lose one."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tinyclf.data.cache import Packed
from tinyclf.experiments import catalog
from tinyclf.experiments.names import family, seed_of
from tinyclf.experiments.record import PREDICTIONS, RECORD, SCRIPT, whole_record
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError

# What is written into a run's folder, and what an older tinyclf wrote as its checkpoint
FILES = (
    f"{SCRIPT} {PREDICTIONS} history.csv classes.csv confusion.csv reliability.csv mistakes.csv test_predictions.txt "
    "checkpoint.safetensors index.html notebook.ipynb model.safetensors model.onnx"
).split()
FORCE = "give this run another name, or start over with --force (in a notebook: force = True)"


def refuse_other_data(settings: Settings, data: Packed) -> None:
    """Raise TinyclfError for data that are not those of `settings`, or of which a batch is too small."""
    if data.name != settings.dataset:
        raise TinyclfError(f"dataset = {settings.dataset!r}: the data are those of {data.name}, load them again")
    if data.hold_out != settings.hold_out:
        raise TinyclfError(
            f"hold_out = {settings.hold_out}: the data were loaded with hold_out = {data.hold_out}; give both the "
            "same, as by load_data(settings.dataset, settings.hold_out)"
        )
    refuse_single_image(settings, len(data.train.labels))


def refuse_single_image(settings: Settings, images: int) -> None:
    """Raise TinyclfError where batch norm would see a single pixel of a single image: it has no variance."""
    stride = 32 if settings.stem == "imagenet" else 8
    batches = {min(settings.batch_size, images), images % settings.batch_size} - {0}
    parts = [len(part) for batch in batches for part in torch.empty(batch).chunk(settings.ghost_batches)]
    if 1 in parts and settings.size_in(1) <= stride:
        raise TinyclfError(
            f"batch_size = {settings.batch_size}, ghost_batches = {settings.ghost_batches}: of {images:,} images, a "
            f"batch or a part of one is a single image, too few for batch norm at {settings.size_in(1)} pixels; give "
            f"another batch_size, or more than {stride} pixels"
        )


def refuse_other_seed(name: str, settings: Settings) -> None:
    """Raise TinyclfError where the seed that a name stands for is not that of `settings`."""
    seed, experiment = seed_of(name), catalog.read_experiments(settings.dataset).get(family(name))
    if seed is None and experiment and experiment.trains:
        seed = experiment.settings.seed
    if seed not in (None, settings.seed):
        raise TinyclfError(
            f"run {name!r} is one of seed {seed}, and the settings have seed = {settings.seed}: give it another name, "
            "or choose the seed by --seeds, which names the run"
        )


def refuse_other_parameters(model: nn.Module, criterion: Any, optimizer: Optimizer) -> None:
    """Raise TinyclfError unless `optimizer` has all of the model that trains, and else at most what the loss has."""
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in given]
    modules = [model, *([criterion] if isinstance(criterion, nn.Module) else [])]
    foreign = given - {id(parameter) for module in modules for parameter in module.parameters()}
    if missing or foreign:
        raise TinyclfError(
            f"the optimizer lacks {len(missing)} tensors of the model that train, and has "
            f"{len(foreign)} of others: make it again of model.parameters(); freeze what shall not train by "
            "requires_grad_(False)"
        )


def refuse_to_replace(folder: Path, *, goes_on: bool, is_ours: bool) -> None:
    """Raise TinyclfError where a run would write over what is no result of its own.

    goes_on: whether the folder has a checkpoint that the run continues; the record that it left before may be replaced
    then, but for one of a newer version. is_ours: whether it has one at all.
    """
    record = folder / RECORD
    if goes_on:
        whole_record(record)  # which refuses a newer one
    elif record.is_file():
        raise TinyclfError(f"{record} is there, and no checkpoint to go on from: {FORCE}")
    elif not is_ours and (found := [name for name in FILES if (folder / name).exists()]):
        raise TinyclfError(
            f"{folder} is no run's folder, and has {', '.join(found)}, which a run would replace: {FORCE}"
        )
