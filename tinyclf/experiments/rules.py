"""What is refused before a run trains, in one sentence each: what would make a record untrue, or lose one."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from tinyclf.data.cache import Packed
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments import catalog
from tinyclf.experiments.names import family, seed_of
from tinyclf.experiments.record import PREDICTIONS, RECORD, SCRIPT, whole_record
from tinyclf.experiments.settings import Settings
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.device import autocast, device_line, precisions
from tinyclf.training.loop import Plan
from tinyclf.utils.errors import TinyclfError, one_of

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
        fault = f"hold_out = {settings.hold_out}: the data were loaded with hold_out = {data.hold_out}"
        raise TinyclfError(f"{fault}; give both the same, as by load_data(settings.dataset, settings.hold_out)")
    images, size = len(data.train.labels), settings.size_in(1)
    batches = {min(settings.batch_size, images), images % settings.batch_size} - {0}
    parts = [len(part) for batch in batches for part in torch.empty(batch).chunk(settings.ghost_batches)]
    if 1 in parts and size <= (32 if settings.stem == "imagenet" else 8):  # batch norm would see a single pixel of it
        given = f"batch_size = {settings.batch_size}, ghost_batches = {settings.ghost_batches}"
        fault = f"of {images:,} images, a batch or a part of one is a single image, too few at {size} pixels"
        raise TinyclfError(f"{given}: {fault}; give another batch_size")


def refuse_other_seed(name: str, settings: Settings) -> None:
    """Raise TinyclfError where the seed that a name stands for is not that of `settings`."""
    seed, experiment = seed_of(name), catalog.read_experiments(settings.dataset).get(family(name))
    if seed is None and experiment and experiment.trains:
        seed = experiment.settings.seed
    if seed not in (None, settings.seed):
        fault = f"run {name!r} is one of seed {seed}, and the settings have seed = {settings.seed}"
        raise TinyclfError(f"{fault}: give it another name, or choose the seed by --seeds, which names the run")


def refuse_other_parameters(model: nn.Module, criterion: Any, optimizer: Optimizer) -> None:
    """Raise TinyclfError unless `optimizer` has all of the model that trains, and else at most what the loss has."""
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trains = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    modules = [module for module in (model, criterion) if isinstance(module, nn.Module)]
    foreign = given - {id(parameter) for module in modules for parameter in module.parameters()}
    if (missing := trains - given) or foreign:
        fault = f"the optimizer lacks {len(missing)} tensors of the model that train, and has {len(foreign)} of others"
        remedy = "make it again of model.parameters(); freeze what shall not train by requires_grad_(False)"
        raise TinyclfError(f"{fault}: {remedy}")


def own_weights(model: nn.Module, expected: nn.Module, label: str) -> str:
    """What a run starts from, in words, where that are other weights than those of its settings; else empty.

    expected: the model of the settings. label: what their weights are called. A model of other layers cannot be
    compared: it counts as that of the settings, unless these have random weights and its batch norms have seen images.
    """
    state, wanted = model.state_dict(), expected.state_dict()
    layers, those_of_settings = ({key: value.shape for key, value in each.items()} for each in (state, wanted))
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if label == "scratch" and any(norm.running_mean is not None and norm.running_mean.any() for norm in norms):
        return "own weights"
    if layers != those_of_settings or all(torch.equal(wanted[key], value.cpu()) for key, value in state.items()):
        return ""
    return f"own weights, from {label}"


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
        files = ", ".join(found)
        raise TinyclfError(f"{folder} is no run's folder, and has {files}, which a run would replace: {FORCE}")


def refuse_what_cannot_train(state: TrainingState, criterion: Any, train: ImageLoader, plan: Plan) -> None:
    """Raise TinyclfError for what cannot train by `plan`. One forward pass of two images shows the outputs.

    It changes neither buffers nor random numbers, and leaves the model on the device, in evaluation mode.
    """
    one_of("scheduler_interval", plan.scheduler_interval, ("epoch", "step"))
    if isinstance(state.scheduler, lr_scheduler.ReduceLROnPlateau) and plan.scheduler_interval == "step":
        raise TinyclfError("scheduler: ReduceLROnPlateau needs a validation loss, so give scheduler_interval='epoch'")
    if isinstance(state.optimizer, torch.optim.LBFGS):
        raise TinyclfError("optimizer: LBFGS computes the loss several times a step, which this loop does not; use SGD")
    one_of("reduction of the criterion", getattr(criterion, "reduction", "mean"), ("mean",))
    one_of("precision", plan.precision, precisions(train.device), f"on this {device_line(train.device)}")
    images = next(train.epoch(1, plan.transform)).images[:2]
    model = state.model.to(train.device).eval()
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    cuda = [train.device] if train.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(cuda), autocast(plan.precision, train.device):
        try:
            outputs = model(images)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            fault = f"model: it cannot take {len(images)} images of {images.shape[2]} pixels: {error}"
            raise TinyclfError(f"{fault}; give another model or input_size") from error
        for buffer, before in kept:
            buffer.copy_(before)
    wanted, got = (len(images), train.classes), getattr(outputs, "shape", type(outputs).__name__)
    if got != wanted:
        raise TinyclfError(f"model: expected logits {wanted} of {len(images)} images, one for each class, got {got}")
