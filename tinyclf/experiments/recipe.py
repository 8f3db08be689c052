"""The recipe of a run, built from its settings: model, loss, optimizer, scheduler, average, loaders; what it costs.

The notebooks of the steps write the same objects out; a test holds the two to each other.
"""

import copy
import functools
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.optim import swa_utils
from torchvision.models import ResNet

from tinyclf.data.augment import Augmentation, as_jpeg
from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments.parent import load_initial_weights
from tinyclf.experiments.settings import Settings
from tinyclf.models.flops import multiply_adds
from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm
from tinyclf.models.resnet import WHITENING_PIXELS, GrowingDepth, build_model, set_depth, whiten_filters
from tinyclf.training.checkpoint import Saved
from tinyclf.training.loop import Recipe
from tinyclf.training.optim import RateSchedule, make_optimizer, make_scheduler
from tinyclf.utils.errors import TinyclfError

EVALUATED = 1000 * 128**2  # pixels of a batch in evaluation on a GPU: some 5 GB with ResNet18 and its largest maps


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
    split = PackedSplit(data.train.images[some], data.train.labels[some])
    images = loader(split, settings, len(split.labels), input_size=size)
    whiten_filters(model.conv1, next(iter(images.epoch(0))).images)


def expected_recipe(settings: Settings, data: Packed) -> Recipe:
    """The recipe of `settings` without weights: its model is on torch's `meta` device, which computes none."""
    with torch.device("meta"):
        model = untrained_model(settings, len(data.classes))
    return recipe_for(model, settings, len(data.train.labels))


def recipe_for(model: nn.Module, settings: Settings, images: int) -> Recipe:
    """The recipe of `settings` for a model that has its weights. images: how many an epoch trains on."""
    before_step = GrowingDepth(model, settings.shallow_steps(images)) if settings.shallow else None
    decays = {"weight_decay": settings.weight_decay, "layer_decay": settings.layer_decay}
    optimizer = make_optimizer(model, settings.learning_rate, settings.momentum, nesterov=settings.nesterov, **decays)
    steps = settings.steps(images)
    rates = RateSchedule(settings.schedule, settings.epochs, steps, settings.warmup, settings.step_size, settings.gamma)
    scheduler, interval = make_scheduler(optimizer, rates)
    criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    average = swa_utils.get_ema_multi_avg_fn(settings.ema_decay)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True) if settings.ema_decay else None
    transform = functools.partial(as_jpeg, quality=settings.jpeg_quality) if settings.jpeg_quality else None
    return Recipe(model, criterion, optimizer, scheduler, interval, ema, before_step, transform)


def loader(split: PackedSplit, settings: Settings, batch_size: int, **options: Any) -> ImageLoader:
    """The batches of `split` with what all images of a run have in common."""
    same: dict[str, Any] = {"normalization": settings.normalization, "kernel": settings.kernel}
    return ImageLoader(split.images, split.labels, batch_size, **same, **options)


def train_loader(data: Packed, settings: Settings, process: PartialState) -> ImageLoader:
    """The training batches of a run for `process`: its part of each of them."""
    augmentation = Augmentation(settings.flip, settings.crop_padding, settings.mixup, settings.cutmix)
    options = {"shuffle": True, "augmentation": augmentation, "input_size": settings.size_in, "seed": settings.seed}
    share = {"device": process.device, "part": process.process_index, "parts": process.num_processes}
    return loader(data.train, settings, settings.batch_size, classes=len(data.classes), **options, **share)


def val_loader(
    data: Packed, settings: Settings, process: PartialState, *, input_size: int = 0, alone: bool = False
) -> ImageLoader:
    """The validation batches of a run for `process`: its part of each of them, or all where it works `alone`.

    input_size: another one than the run was trained for. A GPU takes more images at once than it trains on, which
    keep no activations for a backward pass.
    """
    size = input_size or settings.input_size
    at_once = 0 if process.device.type == "cpu" else min(1000, EVALUATED // size**2)
    share = {} if alone else {"part": process.process_index, "parts": process.num_processes}
    options = {"device": process.device, "input_size": size, "classes": len(data.classes)} | share
    return loader(data.val, settings, max(settings.batch_size, at_once), **options)


def compute(model: nn.Module, settings: Settings, data: Packed, parent: Saved | None) -> dict[str, int | None]:
    """The multiply-adds of training, forward and backward: this run's, all its ancestors' too, the baseline's.

    Those of evaluation, augmentation and the steps of the optimizer are not counted. None: not every model can be
    counted, as one that looks at numbers, where there are shapes alone.
    """
    images, steps, own = len(data.train.labels), settings.steps(len(data.train.labels)), 0
    before = parent.about["compute"]["total"] if parent else 0
    baseline = images * baseline_multiply_adds(settings.dataset, len(data.classes))

    @functools.cache
    def cost(size: int, blocks: int | None) -> int:
        set_depth(blank, blocks)
        return multiply_adds(blank, size)

    try:
        blank = copy.deepcopy(model).to("meta")  # of which further copies cost nothing
        for epoch in range(settings.epochs):
            shallow = min(max(0, settings.shallow_steps(images) - epoch * steps) * settings.batch_size, images)
            size = settings.size_in(epoch + 1)
            own += (shallow and shallow * cost(size, 1)) + (images - shallow and (images - shallow) * cost(size, None))
    except Exception:  # of anybody's model; it is told, and stops no run
        return {"own": None, "total": None, "published_baseline": baseline}
    return {"own": own, "total": None if before is None else own + before, "published_baseline": baseline}


@functools.cache  # half a second
def baseline_multiply_adds(dataset: str, classes: int) -> int:
    """The multiply-adds of training the published baseline, for each training image, of the data set's own size."""
    baseline = Settings(dataset=dataset)
    with torch.device("meta"):  # only counted: no weights are drawn
        published = build_model(baseline.model, classes)
    return baseline.epochs * multiply_adds(published, baseline.input_size)
