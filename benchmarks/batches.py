"""What small batches cost: `python benchmarks/batches.py`, on a machine that does nothing else.

Images a second of a step of ResNet18 on 64x64 images that are in memory, for several batch sizes, which take turns in
each round: PyTorch's own step, channels last, and that of tinyclf's training, with its
convolutions of small maps. Of the latter also the milliseconds of its parts:
forward, backward, optimizer. Prints a table in Markdown.
"""

import statistics
import time
from itertools import pairwise
from typing import Annotated

import torch
import typer
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training.loop import keep_memory

BATCHES, SIZE, WARM_UP = (10, 20, 50, 100), 64, 2


class Way:
    """A model and its optimizer, PyTorch's own or as tinyclf trains them."""

    def __init__(self, tinyclf: bool) -> None:
        self.model = resnet18(num_classes=20).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.001, momentum=0.9)
        if tinyclf:
            use_small_map_conv(self.model)

    def parts(self, batch: int) -> list[float]:
        """Seconds of the parts of one step on a batch of so many images: forward, backward, optimizer."""
        images = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
        labels = torch.randint(20, (batch,))
        self.optimizer.zero_grad()
        times = [time.perf_counter()]

        loss = cross_entropy(self.model(images), labels)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        times.append(time.perf_counter())
        return [after - before for before, after in pairwise(times)]


def main(rounds: Annotated[int, typer.Option(help="of all batch sizes")] = 20) -> None:
    """Measure, and print the table."""
    keep_memory()
    ways = [Way(tinyclf=False), Way(tinyclf=True)]
    seconds: dict[int, list[list[list[float]]]] = {batch: [[], []] for batch in BATCHES}
    for number in range(WARM_UP + rounds):
        for batch in BATCHES:
            for way, rows in zip(ways, seconds[batch], strict=True):
                measured = way.parts(batch)
                if number >= WARM_UP:
                    rows.append(measured)
    print(f"{torch.get_num_threads()} threads, {SIZE}x{SIZE} pixels, median of {rounds} rounds\n")
    print(
        "| images a step | PyTorch, images/s | tinyclf, images/s | ratio | forward, ms | backward, ms | optimizer, ms |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for batch, both in seconds.items():
        theirs, ours = (batch / statistics.median(map(sum, rows)) for rows in both)
        middle = (1000 * statistics.median(part) for part in zip(*both[1], strict=True))
        numbers = [f"{theirs:.1f}", f"{ours:.1f}", f"{ours / theirs:.2f}", *(f"{value:.1f}" for value in middle)]
        print(f"| {batch} | " + " | ".join(numbers) + " |")


if __name__ == "__main__":
    typer.run(main)
