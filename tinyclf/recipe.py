"""What a run's settings ask for, as objects of PyTorch and of this package."""

from accelerate import PartialState

from tinyclf.augment import Augmentation
from tinyclf.cache import Packed
from tinyclf.loader import ImageLoader
from tinyclf.settings import Settings


def train_loader(data: Packed, settings: Settings, process: PartialState) -> ImageLoader:
    """The training batches of a run for `process`, its part of each of them."""
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


def val_loader(data: Packed, settings: Settings, process: PartialState, *, alone: bool = False) -> ImageLoader:
    """The validation batches of a run for `process`: its part of each of them, or all where it works `alone`."""
    return ImageLoader(
        data.val.images,
        data.val.labels,
        settings.batch_size,
        process.device,
        input_size=settings.input_size,
        normalization=settings.normalization,
        classes=len(data.classes),
        part=0 if alone else process.process_index,
        parts=1 if alone else process.num_processes,
    )
