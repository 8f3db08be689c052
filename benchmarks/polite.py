"""How training gets on with other work: `python benchmarks/polite.py`, on a machine that does nothing else.

Images a second of a plain step of ResNet18 on batches of 20, on all cores, with each way in which OpenMP's threads may
wait: alone, beside one process that computes all the time, and two trainings at once. All ways take turns in each
round. Prints a table in Markdown; the ratios are to the same way alone, but for `alone`, which is relative to torch's
default. The line `tinyclf` is what tinyclf/__init__.py chooses.
"""

import os
import statistics
import subprocess
import sys
import time
from typing import Annotated

import typer

WAYS = {
    "torch's default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    **{f"spin count {count:,}": {"GOMP_SPINCOUNT": str(count)} for count in (1_000, 3_000, 10_000, 100_000)},
    "tinyclf": {"BENCHMARK_IMPORTS": "tinyclf"},
}
BATCH, SIZE, WARM_UP = 20, 64, 3  # images, pixels, steps that are not counted


def train() -> None:
    """What a measured process does: it says when it is ready, and for each number of seconds how many images."""
    if name := os.environ.get("BENCHMARK_IMPORTS"):
        __import__(name)  # before torch, as the command line does
    import torch
    from torchvision.models import resnet18

    model = resnet18(num_classes=20).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(20, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < float(line):
            step()
            steps += 1
        print(steps * BATCH / (time.perf_counter() - started), flush=True)


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that is ready to train."""
    own = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, __file__, "--worker"]
    process = subprocess.Popen(command, env=own | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def measure(processes: list[subprocess.Popen[str]], seconds: float) -> float:
    """Images a second of some processes at once."""
    for process in processes:
        assert process.stdin
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    return sum(float(process.stdout.readline()) for process in processes if process.stdout)


def main(
    rounds: Annotated[int, typer.Option(help="of all ways")] = 5,
    seconds: Annotated[float, typer.Option(help="of each measurement")] = 5,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Measure, and print the table."""
    if worker:
        return train()
    pairs = {name: [start(environment), start(environment)] for name, environment in WAYS.items()}
    rates: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name in list(WAYS)[:: -1 if number % 2 else 1]:
            alone = measure(pairs[name][:1], seconds)
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            beside = measure(pairs[name][:1], seconds)
            other.kill()
            other.wait()
            rates[name].append((alone, beside, measure(pairs[name], seconds)))
    for process in [process for pair in pairs.values() for process in pair]:
        process.communicate()  # it ends where its input does
    default = statistics.median(alone for alone, _, _ in rates["torch's default"])
    print("| waiting threads | alone, images/s | to torch's default | beside a busy process | two at once |")
    print("|---|---:|---:|---:|---:|")
    for name, rows in rates.items():
        alone = statistics.median(row[0] for row in rows)
        beside, two = (statistics.median(row[which] / row[0] for row in rows) for which in (1, 2))
        print(f"| {name} | {alone:.1f} | {alone / default:.3f} | {beside:.2f} | {two:.2f} |")


if __name__ == "__main__":
    typer.run(main)
