"""From uint8 images, on disk or resident on a GPU, to batches on a device. There are no workers."""

import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn.functional import one_hot

from tinyclf.augment import ORDER, Augmentation, Draws, mix, random
from tinyclf.cache import Packed
from tinyclf.errors import TinyclfError
from tinyclf.registry import NORMALIZATIONS
from tinyclf.resize import resize
from tinyclf.settings import Settings

NOTHING = Augmentation()


class Batch(NamedTuple):
    """One step's images, all on the same device."""

    images: Tensor  # float32 (B, 3, H, W), channels last in memory; 0..1, or normalised
    labels: Tensor  # int64 (B,)
    targets: Tensor  # what the loss compares with: the labels, or where images are mixed, probabilities (B, classes)


class Batches:
    """Batches of one split, on `device`. The last one is short when `batch_size` does not divide N.

    images: uint8 (N, H, W, 3), an array or a memory map. For a CPU it is read batch by batch; on any other device it
    resides as it is. labels: int64 (N,). With `shuffle`, every epoch has an order of its own; `augmentation` draws for
    every image of every epoch. input_size: side of the images given out, by default as they are; others are resized.
    normalization: a name of NORMALIZATIONS: mean to subtract, deviation to divide by.
    classes: how many there are, by default as many as the labels tell.
    part, parts: of several processes, each takes one contiguous part of every batch, which may be empty in the last.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        shuffle: bool = False,
        augmentation: Augmentation = NOTHING,
        input_size: int = 0,
        normalization: str = "none",
        seed: int = 0,
        classes: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self.batch_size, self.device, self.shuffle, self.seed = batch_size, torch.device(device), shuffle, seed
        self.augmentation, self.part, self.parts = augmentation, part, parts
        self.input_size = input_size or images.shape[1]
        self.classes = classes or int(labels.max()) + 1
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64)).to(self.device)
        self.images = read_rows(images) if self.device.type == "cpu" else resident(images, self.device).__getitem__
        # As tensors of the device: a GPU divides by a number of the host's by multiplying with its reciprocal, and
        # would round in another way than a CPU.
        self.white = torch.tensor(255.0, device=self.device)
        self.statistics = [
            torch.tensor(values, device=self.device)[:, None, None] for values in NORMALIZATIONS[normalization]
        ]

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; the same number gives the same batches, whatever was drawn before.

        All that is drawn goes to the device at the start, so that no step waits for the host.
        """
        count = len(self.labels)
        order = random(self.seed, epoch, ORDER).permutation(count) if self.shuffle else np.arange(count)
        rows = torch.from_numpy(order).to(self.device)
        draws = self.augmentation.draw(self.seed, epoch, count, self.batch_size, self.input_size).on(self.device)
        for places in self.places():
            images, labels = self.pixels(rows, draws, places), self.labels[rows[places]]
            targets = labels
            if draws.partner is not None:
                partners = draws.partner[places]
                images, share = mix(images, self.pixels(rows, draws, partners), draws, places)
                own, other = (one_hot(each, self.classes) for each in (labels, self.labels[rows[partners]]))
                targets = own * share[:, None] + other * (1 - share)[:, None]
            yield Batch(images, labels, targets)

    def places(self) -> Iterator[Tensor]:
        """For every batch, the places in the epoch's order that this process takes: int64, on the device."""
        everything = torch.arange(len(self.labels), device=self.device)
        for batch in everything.split(self.batch_size):
            yield batch.tensor_split(self.parts)[self.part]

    def pixels(self, rows: Tensor, draws: Draws, places: Tensor) -> Tensor:
        """The images at `places`, moved as drawn, resized, scaled to 0..1 and normalised: float32 (B, 3, H, W)."""
        images = resize(self.augmentation.move(self.images(rows[places]), draws, places), self.input_size)
        # NHWC in memory is already what torch calls channels last
        scaled = images.permute(0, 3, 1, 2).to(torch.float32).div_(self.white)
        if self.statistics:
            mean, deviation = self.statistics
            scaled.sub_(mean).div_(deviation)
        return scaled


def train_batches(data: Packed, settings: Settings, process: PartialState) -> Batches:
    """The training batches of a run for `process`, its part of each of them."""
    return Batches(
        data.train.images,
        data.train.labels,
        settings.batch_size,
        process.device,
        shuffle=True,
        augmentation=Augmentation.of(settings),
        input_size=settings.input_size,
        normalization=settings.normalization,
        seed=settings.seed,
        classes=len(data.classes),
        part=process.process_index,
        parts=process.num_processes,
    )


def val_batches(data: Packed, settings: Settings, process: PartialState, *, alone: bool = False) -> Batches:
    """The validation batches of a run for `process`: its part of each of them, or all where it works `alone`."""
    return Batches(
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


def read_rows(images: np.ndarray) -> Callable[[Tensor], Tensor]:
    """What gives the rows of `images` at places, int64 (B,), as a tensor on the CPU.

    Those of a memory map are read from its file: within training, when nothing of it is left in the processor's caches,
    the page faults of the map took 14 ms a batch of 100 where reading takes 2, and its pages count as memory taken.
    """
    if not isinstance(images.base, mmap.mmap):  # a plain array, or a part of a map
        return lambda places: torch.from_numpy(images[places.numpy()])
    file, size = os.open(images.filename, os.O_RDONLY), images[0].nbytes

    def read(places: Tensor) -> Tensor:
        rows = np.empty((len(places), *images.shape[1:]), images.dtype)
        for row, place in zip(rows.reshape(len(rows), size), places.tolist(), strict=True):
            if os.preadv(file, [row], images.offset + place * size) != size:
                raise TinyclfError(
                    f"{images.filename} was cut short while it was read: delete its folder, to pack again"
                )
        return torch.from_numpy(rows)

    weakref.finalize(read, os.close, file)
    return read


def resident(images: np.ndarray, device: torch.device, step: int = 5000) -> Tensor:
    """`images` as they are, uint8, on `device`; copied in steps, so that the host holds no copy of them all."""
    there = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), step):
        there[start : start + step] = torch.from_numpy(np.array(images[start : start + step])).to(device)
    return there
