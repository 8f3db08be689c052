"""How far one machine carries, for docs/scaling.md: `python benchmarks/scaling.py --gigabytes 30`.

Reading: images a second of the loader, in a random order, from a file of so many gigabytes that is in the system's
cache as far as it fits, and from one that is not. Training: images a second of the published recipe with one thread,
with all, and in two processes, in turn. Writes reports/benchmarks/scaling.csv, and its table into docs/scaling.md.
"""

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from results import markdown_table, replace_table

from tinyclf.data.cache import load_data
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments.record import read_records
from tinyclf.models.flops import multiply_adds
from tinyclf.models.resnet import build_model
from tinyclf.utils.environment import describe
from tinyclf.utils.paths import PROJECT

STEP = 5_000  # images written at a time
BATCH = 100
IMAGE = 64 * 64 * 3  # bytes
IMAGENET, IMAGENET_CLASSES = 1_281_167, 1000  # training images: Russakovsky et al. 2015, arXiv:1409.0575
ROUNDS = 1  # each of nine minutes on two cores
TABLE = PROJECT / "reports" / "benchmarks" / "scaling.csv"
PAGE = PROJECT / "docs" / "scaling.md"
NOT_MEASURED = "Not measured yet: `python benchmarks/scaling.py` writes this table."
WAYS = {"1 thread": {"OMP_NUM_THREADS": "1"}, "all threads": {}, "2 processes": {}}


def reading(gigabytes: float, folder: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """The loader on a file of random images in `folder`, read from the disk, then once more what is in the cache."""
    count, path = int(gigabytes * 1e9 / IMAGE), folder / "images.npy"
    chunk = np.random.default_rng(0).integers(0, 256, (STEP, 64, 64, 3), np.uint8)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 64, 64, 3))
    offset = images.offset
    del images
    with path.open("r+b") as file:
        file.seek(offset)
        for start in range(0, count, STEP):
            file.write(chunk[: count - start])
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    batches = ImageLoader(np.load(path, mmap_mode="r"), np.zeros(count, np.int64), BATCH, shuffle=True, classes=2)
    limit = 0  # images; the second time as many as were read the first
    for what in ("from the disk", "the same again, from the cache"):
        started, seen = time.perf_counter(), 0
        for batch in batches.epoch(1):
            seen += len(batch.labels)
            if seen >= limit if limit else time.perf_counter() - started > seconds:
                break
        limit = seen
        rate = seen / (time.perf_counter() - started)
        yield {"measure": f"loader, {gigabytes:g} GB, {what}", "images a second": rate, "memory, GB": peak()}


def peak() -> float:
    """Peak resident memory of this process so far, in GB (10^9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def training(dataset: str) -> Iterator[dict[str, Any]]:
    """One epoch of the published recipe in each of WAYS, ROUNDS times in turn; the median of its rates."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as reports:
        os.environ["TINYCLF_REPORTS"] = reports
        for _ in range(ROUNDS):
            for way, more in WAYS.items():
                command = [sys.executable, "-m", "tinyclf", "train", "baseline-scratch", "--force", "-p", "epochs=1"]
                command += ["--dataset", dataset, *(["--processes", "2"] if way == "2 processes" else [])]
                subprocess.run(command, env=os.environ | more, check=True, stdout=subprocess.DEVNULL)
                rates[way].append(read_records(dataset)["baseline-scratch"]["history"][0]["images_per_second"])
    for way, values in rates.items():
        yield {"measure": f"training on {dataset}, {way}", "images a second": float(np.median(values))}


def main(
    gigabytes: Annotated[float, typer.Option(help="of the file that is read")] = 30,
    seconds: Annotated[float, typer.Option(help="of reading from the disk")] = 60,
    dataset: Annotated[str, typer.Option(help="to train on")] = "tiny-imagenet-20",
    folder: Annotated[Path, typer.Option(help="for the file that is read")] = PROJECT / "build",
) -> None:
    """Measure, write the CSV and the page's table."""
    folder.mkdir(exist_ok=True)
    load_data(dataset)  # packed before any clock runs
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        rows = list(reading(gigabytes, Path(scratch), seconds))
    rows += training(dataset)
    about = describe(torch.device("cpu"))
    hardware, memory = about["hardware"], os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    machine = f"{hardware['name']}, {hardware['threads']} threads, {memory:.0f} GB of memory"
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["measure", "images a second", "memory, GB", "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"machine": machine} for row in rows)
    for name, table in TABLES.items():
        replace_table(PAGE, name, table())


def measured() -> str:
    """The table of docs/scaling.md, from the CSV."""
    frame = pd.read_csv(TABLE)
    rates = frame["images a second"].map("{:,.0f}".format)
    memory = frame["memory, GB"].map(lambda value: "" if pd.isna(value) else f"{value:.2f}")
    rows = pd.DataFrame({"measure": frame["measure"], "images a second": rates, "peak memory, GB": memory})
    return f"On {frame['machine'][0]}:\n\n{markdown_table(rows)}"


def imagenet() -> str:
    """The same arithmetic for ImageNet at 64 pixels: what an epoch takes with each stem, at the rate measured here."""
    frame = pd.read_csv(TABLE).set_index("measure")["images a second"]
    (rate,) = frame[frame.index.str.endswith("all threads")]
    base = multiply_adds(build_model("resnet18", 20), 64)  # of the images that were measured
    rows = []
    for stem in ("imagenet", "small"):
        cost = multiply_adds(build_model("resnet18", IMAGENET_CLASSES, stem=stem), 64)
        hours = IMAGENET / rate * cost / base / 3600
        rows.append(
            {
                "stem": stem,
                "multiply-adds an image, forward and backward": f"{cost / 1e9:.2f} G",
                "an epoch": f"{IMAGENET * cost / 1e15:.2f} P",
                "an epoch on the machine above": f"{hours:,.1f} hours",
                "90 epochs": f"{90 * hours / 24:,.0f} days",
                "90 epochs at 100 T multiply-adds a second": f"{90 * IMAGENET * cost / 1e14 / 3600:.1f} hours",
            }
        )
    return markdown_table(pd.DataFrame(rows))


TABLES = {"measured": measured, "imagenet": imagenet}


if __name__ == "__main__":
    typer.run(main)
