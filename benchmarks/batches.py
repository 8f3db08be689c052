"""What small batches cost: `python benchmarks/batches.py`, on a machine that does nothing else.

Images a second of a plain step of ResNet18 on 64x64 images that are in memory, for several batch sizes, which take
turns in each round; and the milliseconds of its parts: forward, backward, optimizer. Convolutions of small maps are
tinyclf's, as in its training. Prints a table in Markdown.
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

BATCHES, SIZE, WARM_UP = (10, 20, 50, 100), 64, 2


def parts(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: int) -> list[float]:
    """Seconds of the parts of one step on a batch of so many images: forward, backward, optimizer."""
    images = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(20, (batch,))
    optimizer.zero_grad()
    times = [time.perf_counter()]

    loss = cross_entropy(model(images), labels)
    times.append(time.perf_counter())
    loss.backward()
    times.append(time.perf_counter())
    optimizer.step()
    times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


def main(rounds: Annotated[int, typer.Option(help="of all batch sizes")] = 20) -> None:
    """Measure, and print the table."""
    model = resnet18(num_classes=20).to(memory_format=torch.channels_last)
    use_small_map_conv(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, fused=True)
    seconds: dict[int, list[list[float]]] = {batch: [] for batch in BATCHES}
    for number in range(WARM_UP + rounds):
        for batch in BATCHES:
            measured = parts(model, optimizer, batch)
            if number >= WARM_UP:
                seconds[batch].append(measured)
    print(f"{torch.get_num_threads()} threads, {SIZE}x{SIZE} pixels, median of {rounds} rounds\n")
    print("| images a step | images/s | forward, ms | backward, ms | optimizer, ms |")
    print("|---:|---:|---:|---:|---:|")
    for batch, rows in seconds.items():
        rate = batch / statistics.median(map(sum, rows))
        middle = (1000 * statistics.median(part) for part in zip(*rows, strict=True))
        print(f"| {batch} | {rate:.1f} | " + " | ".join(f"{value:.1f}" for value in middle) + " |")


if __name__ == "__main__":
    typer.run(main)
