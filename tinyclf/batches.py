"""From uint8 images, in memory or mapped from disk, to batches on a device. There are no workers."""

from collections.abc import Iterator

import numpy as np
import torch

ORDER, AUGMENT = 0, 1  # what a stream of random numbers is for


def generator(seed: int, epoch: int, purpose: int) -> torch.Generator:
    """Random numbers that depend on nothing but (seed, epoch, purpose), so that any epoch can be drawn on its own."""
    state = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits


class Batches:
    """Batches of one split, each a pair: images float32 (B, 3, 64, 64) in 0..1, and labels int64 (B,), on `device`.

    images: uint8 (N, 64, 64, 3), an array or a memory map, which is read batch by batch; labels: int64 (N,).
    The last batch is short when `batch_size` does not divide N. With `shuffle`, every epoch has an order of its own;
    with `flip`, every image is mirrored with probability 1/2, drawn for each image.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        shuffle: bool = False,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        self.images, self.labels = images, torch.from_numpy(np.array(labels, dtype=np.int64))
        self.batch_size, self.device = batch_size, torch.device(device)
        self.shuffle, self.flip, self.seed = shuffle, flip, seed

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one epoch; the same number gives the same batches, whatever was drawn before."""
        count = len(self.labels)
        order = torch.randperm(count, generator=generator(self.seed, epoch, ORDER)) if self.shuffle else None
        mirrored = torch.rand(count, generator=generator(self.seed, epoch, AUGMENT)) < 0.5 if self.flip else None
        for start in range(0, count, self.batch_size):
            part = slice(start, start + self.batch_size)
            rows = torch.arange(count)[part] if order is None else order[part]
            images = torch.from_numpy(self.images[rows.numpy()]).to(self.device)
            images = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
            if mirrored is not None:
                images = torch.where(mirrored[part].to(self.device)[:, None, None, None], images.flip(3), images)
            yield images, self.labels[rows].to(self.device)
