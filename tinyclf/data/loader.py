"""The loader: batches on a device from uint8 images, which are read from disk or stay on a GPU. It has no workers."""

import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tinyclf.data.augment import MIX, ORDER, TRANSFORM, Augmentation, SampleParams, Transform, mixes, random, seeded
from tinyclf.data.registry import NORMALIZATIONS
from tinyclf.data.resize import KERNELS, resize
from tinyclf.utils.errors import TinyclfError, one_of

NOTHING = Augmentation()
AHEAD = 2**24  # pixels of the batches that a GPU makes at once: 200 MB as float32, some times that while they are made


class Batch(NamedTuple):
    """One step's images, all on the same device."""

    images: Tensor  # float32 (B, 3, H, W), channels last in memory; 0..1, or normalised
    labels: Tensor  # int64 (B,)
    targets: Tensor  # of the loss: the labels, or where images are mixed, probabilities (B, classes)


@dataclass(eq=False)
class ImageLoader:
    """Batches of one split, on `device`. The last one is short when `batch_size` does not divide N.

    For a CPU, images are read batch by batch; any other device gets all of them once, as uint8, and makes several
    batches at once, as starting its operations costs more than they do. Of several processes, each takes one contiguous
    part of every batch, which may be empty in the last.
    """

    images: InitVar[np.ndarray]  # uint8 (N, H, W, 3), an array or a memory map
    all_labels: InitVar[np.ndarray]  # int64 (N,); as a tensor on the device they are `labels`
    batch_size: int
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    _: KW_ONLY
    shuffle: bool = False  # give every epoch an order of its own
    augmentation: Augmentation = NOTHING  # sampled anew in every epoch
    input_size: int | Callable[[int], int] = 0  # width and height in batches, or a function from the epoch to it; 0: H
    kernel: str = "pil"  # that images are resized by, "pil" or "opencv"
    normalization: str = "none"  # of NORMALIZATIONS: mean to subtract, deviation to divide by
    seed: int = 0
    classes: int = 0  # how many there are; 0: as many as the labels show
    part: int = 0  # of this process
    parts: int = 1  # of every batch: the number of processes

    def __post_init__(self, images: np.ndarray, all_labels: np.ndarray) -> None:
        self.device = torch.device(self.device)
        one_of("kernel", self.kernel, KERNELS)
        self.input_size = self.input_size or images.shape[1]
        self.classes = self.classes or int(all_labels.max()) + 1
        self.labels = torch.from_numpy(np.array(all_labels, dtype=np.int64)).to(self.device)
        on_cpu = self.device.type == "cpu"
        self.read_rows = row_reader(images) if on_cpu else torch.tensor(images, device=self.device).__getitem__
        # As tensors of the device: a GPU divides by a number of the host's by multiplying with its reciprocal, and
        # would round in another way than a CPU.
        self.white = torch.tensor(255.0, device=self.device)
        self.statistics = [
            torch.tensor(values, device=self.device)[:, None, None] for values in NORMALIZATIONS[self.normalization]
        ]

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int = 0, transform: Transform | None = None) -> Iterator[Batch]:
        """The batches of one epoch; the same number gives the same batches, whatever was loaded before.

        All random numbers go to the device at the start, so that no step waits for the host; but for those of
        `transform`, which is called for each batch, in every process with draws of its own.
        """
        count, size = len(self.labels), self.input_size(epoch) if callable(self.input_size) else self.input_size
        rows = random(self.seed, epoch, ORDER).permutation(count) if self.shuffle else np.arange(count)
        order = torch.from_numpy(rows).to(self.device)
        params = self.augmentation.sample_params(self.seed, epoch, count, self.device)
        seeds = random(self.seed, epoch, MIX).integers(2**63, size=len(self)).tolist()
        positions, slices = torch.arange(count, device=self.device), list(self.slices())
        at_once = 1 if self.device.type == "cpu" or transform else max(1, AHEAD // (self.batch_size * size**2))
        own = transform and seeded(transform, random(self.seed, epoch, TRANSFORM + self.part), self.device)
        for start in range(0, len(slices), at_once):
            wanted = [self._positions(positions, part) for part in slices[start : start + at_once]]
            batches = self._batches(order, params, torch.cat(wanted), size, None if mixes(transform) else own)
            images, labels, targets = (values.split([len(each) for each in wanted]) for values in batches)
            for batch, seed in zip(map(Batch, images, labels, targets), seeds[start:], strict=False):
                mixed = self._mixed(batch, seed) if self.augmentation.mixes else batch
                yield self._mixed_by(own, mixed) if own and mixes(transform) else mixed

    def _positions(self, positions: Tensor, part: slice) -> Tensor:
        """Those of a part of a batch. Where images are mixed, the one before them, in a circle, is in front."""
        if not self.augmentation.mixes:
            return positions[part]
        first = part.start // self.batch_size * self.batch_size
        before = part.start - 1 if part.start > first else min(first + self.batch_size, len(positions)) - 1
        return torch.cat([positions[before : before + 1], positions[part]])

    def _mixed(self, batch: Batch, seed: int) -> Batch:
        images, targets = self.augmentation.mix(batch.images, batch.targets, seed)
        return Batch(images[1:], batch.labels[1:], targets[1:])

    def _mixed_by(self, mix: Transform, batch: Batch) -> Batch:
        shares = batch.targets if self.augmentation.mixes else one_hot(batch.targets, self.classes).float()
        images, targets = mix(batch.images, shares) if len(shares) else (batch.images, shares)
        return Batch(images.contiguous(memory_format=torch.channels_last), batch.labels, targets)

    def slices(self) -> Iterator[slice]:
        """For every batch, the part of this process, as positions in the epoch's order."""
        for start in range(0, len(self.labels), self.batch_size):
            count = min(self.batch_size, len(self.labels) - start)
            each = -(-count // self.parts)  # as `Tensor.chunk` cuts: the last parts may be smaller, or empty
            first, last = (min(part * each, count) for part in (self.part, self.part + 1))
            yield slice(start + first, start + last)

    def _batches(
        self, order: Tensor, params: SampleParams, indices: Tensor, size: int, transform: Transform | None
    ) -> Batch:
        """The images at `indices` of the epoch, int64 (B,), of one batch or of several, not yet mixed."""
        rows = order[indices]
        images, labels = self.augmentation.crop_and_flip(self.read_rows(rows), params, indices), self.labels[rows]
        images = resize(images, size, self.kernel)
        if transform and len(images):
            images = transformed(images, transform)
        # NHWC in memory is already what torch calls channels last
        scaled = images.permute(0, 3, 1, 2).to(torch.float32).div_(self.white)
        if self.statistics:
            mean, deviation = self.statistics
            scaled.sub_(mean).div_(deviation)
        return Batch(scaled, labels, one_hot(labels, self.classes).float() if self.augmentation.mixes else labels)


def transformed(images: Tensor, transform: Transform) -> Tensor:
    """uint8 images (B, H, W, 3) after a transform of (B, 3, H, W). Raises TinyclfError unless it gives such."""
    changed = transform(images.permute(0, 3, 1, 2))
    if not isinstance(changed, Tensor) or changed.dtype != torch.uint8 or changed.shape[:2] != (len(images), 3):
        what = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
        raise TinyclfError(f"transform: expected uint8 images ({len(images)}, 3, H, W) from it, got {what}")
    return changed.permute(0, 2, 3, 1).contiguous()


def row_reader(images: np.ndarray) -> Callable[[Tensor], Tensor]:
    """A function from row numbers, int64 (B,), to those rows of `images`, a tensor on the CPU.

    Rows of a memory map are read from its file: while a model trains, and nothing of the map is in the processor's
    caches, its page faults took 14 ms a batch of 100 where reading takes 2, and its pages count as memory used.
    """
    if not isinstance(images.base, mmap.mmap):  # a plain array, or a part of a map
        return lambda rows: torch.from_numpy(images[rows.numpy()])
    file, size = os.open(images.filename, os.O_RDONLY), images[0].nbytes

    def read(rows: Tensor) -> Tensor:
        content = b"".join(os.pread(file, size, images.offset + row * size) for row in rows.tolist())
        if len(content) != len(rows) * size:
            raise TinyclfError(f"{images.filename} was cut short while it was read: delete its folder, to pack again")
        return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8).reshape(len(rows), *images.shape[1:]))

    weakref.finalize(read, os.close, file)
    return read
