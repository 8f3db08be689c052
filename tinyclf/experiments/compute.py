"""What the training of a run costs, in multiply-adds, beside the published baseline."""

import copy
import functools
from collections import Counter

import torch
from torch import nn

from tinyclf.data.packed import Packed
from tinyclf.experiments.initial import find_parent
from tinyclf.experiments.settings import Settings
from tinyclf.models.flops import training_multiply_adds
from tinyclf.models.resnet import build_model, set_depth


def compute(model: nn.Module, settings: Settings, data: Packed) -> dict[str, int | None]:
    """The multiply-adds of training, forward and backward: this run's, all its ancestors' too, the baseline's."""
    images, classes = len(data.train.labels), len(data.classes)
    shallow, whole = images_by_size(settings, images)
    parent = find_parent(settings, data.classes)
    blank = copy.deepcopy(model).to("meta")  # of which further copies cost nothing
    set_depth(blank, None)
    own = training_multiply_adds(blank, whole)
    set_depth(blank, 1)
    own += training_multiply_adds(blank, shallow)
    return {
        "own": own,
        "total": own + (parent.about["compute"]["total"] if parent else 0),
        "published_baseline": images * baseline_multiply_adds(settings.dataset, classes),
    }


def images_by_size(settings: Settings, images: int) -> tuple[Counter[int], Counter[int]]:
    """How many images of each input size are trained on with the first block of each stage alone, and with all blocks.

    images: in an epoch.
    """
    shallow: Counter[int] = Counter()
    whole: Counter[int] = Counter()
    epochs, more_steps = divmod(settings.shallow_steps(images), settings.steps(images))
    for epoch in range(settings.epochs):
        alone = images if epoch < epochs else more_steps * settings.batch_size if epoch == epochs else 0
        shallow[settings.size_in(epoch + 1)] += alone
        whole[settings.size_in(epoch + 1)] += images - alone
    return +shallow, +whole  # without those of which there are none


@functools.cache  # half a second
def baseline_multiply_adds(dataset: str, classes: int) -> int:
    """The multiply-adds of training the published baseline, for each training image, of the data set's own size."""
    baseline = Settings(dataset=dataset)
    with torch.device("meta"):  # only counted: no weights are drawn
        published = build_model(baseline.model, classes)
    return training_multiply_adds(published, {baseline.input_size: baseline.epochs})
