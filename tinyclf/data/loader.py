"""The loader: batches on a device from uint8 images, which are read from disk or stay on a GPU. It has no workers."""

import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tinyclf.data.augment import ORDER, Augmentation, SampleParams, mix, random
from tinyclf.data.registry import NORMALIZATIONS
from tinyclf.data.resize import resize
from tinyclf.utils.errors import TinyclfError

NOTHING = Augmentation()
AHEAD = 2**24  # pixels of the batches that a GPU makes at once: 200 MB as float32, some times that while they are made


class Batch(NamedTuple):
    """One step's images, all on the same device."""

    images: Tensor  # float32 (B, 3, H, W), channels last in memory; 0..1, or normalised
    labels: Tensor  # int64 (B,)
    targets: Tensor  # of the loss: the labels, or where images are mixed, probabilities (B, classes)


class ImageLoader:
    """Batches of one split, on `device`. The last one is short when `batch_size` does not divide N.

    images: uint8 (N, H, W, 3), an array or a memory map. For a CPU it is read batch by batch; any other device gets
    all of it once, as uint8, and makes several batches at once, as starting its operations costs more than they do.
    labels: int64 (N,).
    shuffle: give every epoch an order of its own. augmentation: is sampled for every image of every epoch.
    input_size: width and height of the images in batches, or a function from the epoch to it; 0: that of `images`.
    normalization: a name of NORMALIZATIONS: mean to subtract, deviation to divide by.
    classes: how many there are; 0: as many as the labels show.
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
        input_size: int | Callable[[int], int] = 0,
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
        self.images = row_reader(images) if self.device.type == "cpu" else copy_to(self.device, images).__getitem__
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
        """The batches of one epoch; the same number gives the same batches, whatever was loaded before.

        All random numbers go to the device at the start, so that no step waits for the host.
        """
        count, size = len(self.labels), self.input_size(epoch) if callable(self.input_size) else self.input_size
        rows = random(self.seed, epoch, ORDER).permutation(count) if self.shuffle else np.arange(count)
        order = torch.from_numpy(rows).to(self.device)
        params = self.augmentation.sample_params(self.seed, epoch, count, self.batch_size, size).to(self.device)
        positions, slices = torch.arange(count, device=self.device), list(self.slices())
        at_once = 1 if self.device.type == "cpu" else max(1, AHEAD // (self.batch_size * size**2))
        for start in range(0, len(slices), at_once):
            parts = slices[start : start + at_once]
            lengths = [part.stop - part.start for part in parts]
            batches = self._batches(order, params, torch.cat([positions[part] for part in parts]), size)
            images, labels, targets = (values.split(lengths) for values in batches)
            yield from map(Batch, images, labels, targets)

    def slices(self) -> Iterator[slice]:
        """For every batch, the part of this process, as positions in the epoch's order."""
        for start in range(0, len(self.labels), self.batch_size):
            count = min(self.batch_size, len(self.labels) - start)
            each = -(-count // self.parts)  # as `Tensor.chunk` cuts: the last parts may be smaller, or empty
            first, last = (min(part * each, count) for part in (self.part, self.part + 1))
            yield slice(start + first, start + last)

    def _batches(self, order: Tensor, params: SampleParams, indices: Tensor, size: int) -> Batch:
        """The images at `indices` of the epoch, int64 (B,), of one batch or of several."""
        images, labels = self._augmented(order, params, indices, size), self.labels[order[indices]]
        if params.partner is None:
            return Batch(self._normalized(images), labels, labels)
        partners = params.partner[indices]
        others = self._augmented(order, params, partners, size)
        mixed, share = mix(self._normalized(images), self._normalized(others), params, indices)
        own, other = (one_hot(targets, self.classes) for targets in (labels, self.labels[order[partners]]))
        return Batch(mixed, labels, own * share[:, None] + other * (1 - share)[:, None])

    def _augmented(self, order: Tensor, params: SampleParams, indices: Tensor, size: int) -> Tensor:
        """The images at `indices` of the epoch, cropped, mirrored and resized: uint8 (B, size, size, 3)."""
        return resize(self.augmentation.crop_and_flip(self.images(order[indices]), params, indices), size)

    def _normalized(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, 3) as float32 (B, 3, H, W), scaled to 0..1 and normalised."""
        # NHWC in memory is already what torch calls channels last
        scaled = images.permute(0, 3, 1, 2).to(torch.float32).div_(self.white)
        if self.statistics:
            mean, deviation = self.statistics
            scaled.sub_(mean).div_(deviation)
        return scaled


def row_reader(images: np.ndarray) -> Callable[[Tensor], Tensor]:
    """A function from row numbers, int64 (B,), to those rows of `images`, a tensor on the CPU.

    Rows of a memory map are read from its file: while a model trains, and nothing of the map is in the processor's
    caches, its page faults took 14 ms a batch of 100 where reading takes 2, and its pages count as memory used.
    """
    # A plain array, or a part of a map; or a system that lacks the call
    if not isinstance(images.base, mmap.mmap) or not hasattr(os, "preadv"):
        return lambda rows: torch.from_numpy(images[rows.numpy()])
    file, size = os.open(images.filename, os.O_RDONLY), images[0].nbytes

    def read(rows: Tensor) -> Tensor:
        batch = np.empty((len(rows), *images.shape[1:]), images.dtype)
        for image, row in zip(batch.reshape(len(rows), size), rows.tolist(), strict=True):
            if os.preadv(file, [image], images.offset + row * size) != size:
                raise TinyclfError(
                    f"{images.filename} was cut short while it was read: delete its folder, to pack again"
                )
        return torch.from_numpy(batch)

    weakref.finalize(read, os.close, file)
    return read


def copy_to(device: torch.device, images: np.ndarray, step: int = 5000) -> Tensor:
    """`images`, uint8, on `device`; copied in steps, so that the host holds no copy of all of them."""
    copied = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), step):
        copied[start : start + step] = torch.from_numpy(np.array(images[start : start + step])).to(device)
    return copied
