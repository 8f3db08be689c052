"""What is refused before a run trains, in one sentence each: what would make a record untrue, or lose one."""

import torch
from torch import nn
from torch.optim import lr_scheduler

from tinyclf.data.cache import Packed
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments import catalog
from tinyclf.experiments.names import family, seed_of
from tinyclf.experiments.settings import Settings
from tinyclf.training.device import autocast, device_line, precisions
from tinyclf.training.loop import Recipe
from tinyclf.utils.errors import TinyclfError, one_of

FORCE = "give this run another name, or start over with --force (in a notebook: force = True)"


def refuse_other_data(settings: Settings, data: Packed) -> None:
    """Raise TinyclfError for data that are not those of `settings`."""
    if data.name != settings.dataset:
        raise TinyclfError(f"dataset = {settings.dataset!r}: the data are those of {data.name}, load them again")
    if data.hold_out != settings.hold_out:
        fault = f"hold_out = {settings.hold_out}: the data were loaded with hold_out = {data.hold_out}"
        raise TinyclfError(f"{fault}; give both the same, as by load_data(settings.dataset, settings.hold_out)")


def refuse_other_seed(name: str, settings: Settings) -> None:
    """Raise TinyclfError where the seed that a name stands for is not that of `settings`."""
    seed, experiment = seed_of(name), catalog.read_experiments(settings.dataset).get(family(name))
    if seed is None and experiment and experiment.trains:
        seed = experiment.settings.seed
    if seed not in (None, settings.seed):
        fault = f"run {name!r} is one of seed {seed}, and the settings have seed = {settings.seed}"
        raise TinyclfError(f"{fault}: give it another name, or choose the seed by --seeds, which names the run")


def refuse_other_parameters(recipe: Recipe) -> None:
    """Raise TinyclfError unless the optimizer has all of the model that trains, and else at most what the loss has."""
    given = {id(parameter) for group in recipe.optimizer.param_groups for parameter in group["params"]}
    trains = {id(parameter) for parameter in recipe.model.parameters() if parameter.requires_grad}
    modules = [module for module in (recipe.model, recipe.criterion) if isinstance(module, nn.Module)]
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


def refuse_what_cannot_train(recipe: Recipe, train: ImageLoader, precision: str) -> None:
    """Raise TinyclfError for what cannot train. One forward pass of two images shows the outputs.

    It changes neither buffers nor random numbers, and leaves the model on the device, in evaluation mode.
    """
    one_of("scheduler_interval", recipe.scheduler_interval, ("epoch", "step"))
    if isinstance(recipe.scheduler, lr_scheduler.ReduceLROnPlateau) and recipe.scheduler_interval == "step":
        raise TinyclfError("scheduler: ReduceLROnPlateau needs a validation loss, so give scheduler_interval='epoch'")
    if isinstance(recipe.optimizer, torch.optim.LBFGS):
        raise TinyclfError("optimizer: LBFGS computes the loss several times a step, which this loop does not; use SGD")
    one_of("reduction of the criterion", getattr(recipe.criterion, "reduction", "mean"), ("mean",))
    one_of("precision", precision, precisions(train.device), f"on this {device_line(train.device)}")
    images = next(train.epoch(1, recipe.transform)).images[:2]
    model = recipe.model.to(train.device).eval()
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    cuda = [train.device] if train.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(cuda), autocast(precision, train.device):
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
