"""What small batches cost: `python benchmarks/batches.py`, on a machine that does nothing else.

Images a second of a step of ResNet18 on 64x64 images that are in memory, for several batch sizes, which take turns in
each round: PyTorch's own step, channels last, and the same with tinyclf's convolutions of small maps.
"""

import statistics
import time
from typing import Annotated

import torch
import typer
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from tinyclf.models.small_map_conv import use_small_map_conv

BATCHES, SIZE, WARM_UP = (10, 20, 50, 100), 64, 2


def main(rounds: Annotated[int, typer.Option(help="of all batch sizes")] = 20) -> None:
    """Measure, and print a table in Markdown."""
    models = [resnet18(num_classes=20).to(memory_format=torch.channels_last) for _ in range(2)]
    use_small_map_conv(models[1])
    optimizers = [torch.optim.SGD(model.parameters(), 0.001, momentum=0.9) for model in models]
    seconds: dict[int, list[list[float]]] = {batch: [[], []] for batch in BATCHES}
    for number in range(WARM_UP + rounds):
        for batch in BATCHES:
            images = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
            labels = torch.randint(20, (batch,))
            for which in (0, 1):
                started = time.perf_counter()
                optimizers[which].zero_grad()
                cross_entropy(models[which](images), labels).backward()
                optimizers[which].step()
                if number >= WARM_UP:
                    seconds[batch][which].append(time.perf_counter() - started)
    print(f"{torch.get_num_threads()} threads, {SIZE}x{SIZE} pixels, median of {rounds} rounds\n")
    print("| images a step | PyTorch, images/s | tinyclf, images/s | ratio |\n|---:|---:|---:|---:|")
    for batch, both in seconds.items():
        theirs, ours = (batch / statistics.median(times) for times in both)
        print(f"| {batch} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    typer.run(main)
