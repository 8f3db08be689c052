"""The recipe of a run, built from its settings: model, loss, optimizer, scheduler, average, and the loaders.

The notebook of Step 1 writes the same objects out; a test and a cell of it hold the two to each other.
"""

from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.models import ResNet

from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import ImageLoader
from tinyclf.data.packed import Packed
from tinyclf.experiments.initial import load_initial_weights
from tinyclf.experiments.settings import Settings
from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm
from tinyclf.models.resnet import WHITENING_PIXELS, GrowingDepth, build_model, whiten_filters
from tinyclf.training.describe import describe
from tinyclf.training.optim import ExponentialMovingAverage, RateSchedule, make_optimizer, make_scheduler
from tinyclf.utils.errors import TinyclfError

EVALUATED = 1000 * 128**2  # pixels of a batch in evaluation on a GPU: some 5 GB with ResNet18 and its largest maps


@dataclass
class Recipe:
    """What `Run.fit` takes, by the names of its arguments: `run.fit(**vars(recipe))`."""

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scheduler_interval: str
    ema: ExponentialMovingAverage | None
    before_step: GrowingDepth | None

    def describe(self) -> dict[str, str | None]:
        """The recipe in words, as a record has it."""
        parts = self.model, self.criterion, self.optimizer, self.scheduler
        return describe(*parts, self.scheduler_interval, self.ema, self.before_step)


def build_recipe(settings: Settings, data: Packed) -> Recipe:
    """The recipe of `settings` with its initial weights: what `tinyclf train` trains.

    Random weights depend on the seed alone, whitened filters on the data too. Raises TinyclfError as `build_model`,
    `load_initial_weights` and `whiten_stem` do.
    """
    torch.manual_seed(settings.seed)
    model = untrained_model(settings, len(data.classes))
    load_initial_weights(model, settings, data.classes)
    if settings.stem_init == "whitened":
        whiten_stem(model, settings, data)
    return recipe_for(model, settings, len(data.train.labels))


def untrained_model(settings: Settings, classes: int) -> nn.Module:
    """The model of `settings` with random weights. Blocks that join later start as the identity."""
    zero_init = settings.zero_init or settings.shallow > 0
    model = build_model(settings.model, classes, stem=settings.stem, zero_init=zero_init)
    use_ghost_batch_norm(model, settings.ghost_batches)
    return model


def whiten_stem(model: nn.Module, settings: Settings, data: Packed) -> None:
    """Give the first layer of a ResNet filters made of training images. Raises TinyclfError for another model."""
    if not isinstance(model, ResNet):
        raise TinyclfError(f"stem_init = 'whitened': only ResNets have it, not {settings.model!r}; give 'random'")
    size, count = settings.input_size, len(data.train.labels)
    some = slice(None, None, max(1, count * size**2 // WHITENING_PIXELS))  # spread over the classes
    images, labels = data.train.images[some], data.train.labels[some]
    loader = ImageLoader(images, labels, len(labels), input_size=size, normalization=settings.normalization)
    whiten_filters(model.conv1, next(iter(loader.epoch(0))).images)


def expected_recipe(settings: Settings, classes: int, images: int) -> Recipe:
    """The recipe of `settings` without weights: its model is on torch's `meta` device, which computes none."""
    with torch.device("meta"):
        model = untrained_model(settings, classes)
    return recipe_for(model, settings, images)


def recipe_for(model: nn.Module, settings: Settings, images: int) -> Recipe:
    """The recipe of `settings` for a model that has its weights. images: how many an epoch trains on."""
    before_step = GrowingDepth(model, settings.shallow_steps(images)) if settings.shallow else None
    optimizer = make_optimizer(
        model,
        settings.learning_rate,
        settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
    )
    steps = settings.steps(images)
    rates = RateSchedule(settings.schedule, settings.epochs, steps, settings.warmup, settings.step_size, settings.gamma)
    scheduler, interval = make_scheduler(optimizer, rates)
    criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    ema = ExponentialMovingAverage(model, settings.ema_decay) if settings.ema_decay else None
    return Recipe(model, criterion, optimizer, scheduler, interval, ema, before_step)


def train_loader(data: Packed, settings: Settings, process: PartialState) -> ImageLoader:
    """The training batches of a run for `process`: its part of each of them."""
    return ImageLoader(
        data.train.images,
        data.train.labels,
        settings.batch_size,
        process.device,
        shuffle=True,
        augmentation=Augmentation(settings.flip, settings.crop_padding, settings.mixup, settings.cutmix),
        input_size=settings.size_in,
        normalization=settings.normalization,
        seed=settings.seed,
        classes=len(data.classes),
        part=process.process_index,
        parts=process.num_processes,
    )


def val_loader(
    data: Packed, settings: Settings, process: PartialState, *, input_size: int = 0, alone: bool = False
) -> ImageLoader:
    """The validation batches of a run for `process`: its part of each of them, or all where it works `alone`.

    input_size: another one than the run was trained for. A GPU takes more images at once than it trains on, which
    keep no activations for a backward pass.
    """
    size = input_size or settings.input_size
    at_once = 0 if process.device.type == "cpu" else min(1000, EVALUATED // size**2)
    return ImageLoader(
        data.val.images,
        data.val.labels,
        max(settings.batch_size, at_once),
        process.device,
        input_size=size,
        normalization=settings.normalization,
        classes=len(data.classes),
        part=0 if alone else process.process_index,
        parts=1 if alone else process.num_processes,
    )
