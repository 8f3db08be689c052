"""`make bench`, or `tinyclf bench`: tinyclf side by side with other ways to train on the same images, as ratios.

Results: benchmarks.md and .csv in reports/benchmarks/<dataset>/. About 10 minutes on 2 CPU cores.
"""

import datetime
import os
import sys
import tempfile
from pathlib import Path

import contestants
import pandas as pd
import torch
from contestants import WAYS, Limit, Tinyclf
from measure import Row, peak_memory, rounds
from results import AGAINST, MEMORY, page
from sample import open_data, write_sample

from tinyclf.data.locate import locate
from tinyclf.data.registry import SIDE, TINY_IMAGENET
from tinyclf.utils import environment, files, paths
from tinyclf.utils.errors import one_of

MEASURES = (*AGAINST, MEMORY)
SAMPLE = 4_000  # images of each split for those who read files


def main(dataset: str = "", seconds: float = 45, only: list[str] | None = None) -> Path:
    """Measure, write the results and return the page's path.

    dataset: of DATASETS; by default tiny-imagenet where it is at hand, else mini. seconds: of rounds for each measure;
    training gets twice as many. only: of MEASURES; by default all, but at 224 pixels on a GPU alone. Raises
    TinyclfError for unknown names.
    """
    for measure in only or []:
        one_of("only", measure, MEASURES)
    at_hand = any(locate(root, TINY_IMAGENET) for root in paths.tiny_imagenet_sources())
    dataset = dataset or ("tiny-imagenet" if at_hand else "mini")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = files.writable(paths.reports_dir() / "benchmarks" / dataset)
    with tempfile.TemporaryDirectory(prefix="tinyclf-bench-") as sample:
        write_sample(dataset, Path(sample), SAMPLE)
        quick = [measure for measure in MEASURES if device.type == "cuda" or measure != "training at 224"]
        rows = measure_all(dataset, Path(sample), seconds, only or quick, device)
    pd.DataFrame(rows).to_csv(folder / "benchmarks.csv", index=False)
    frame = pd.read_csv(folder / "benchmarks.csv")
    title = f"Benchmark on {dataset}" + (", scaled up" if dataset == "mini" else "")
    files.atomic_write(folder / "benchmarks.md", page(frame, title, about(device), device.type))
    return folder / "benchmarks.md"


def measure_all(dataset: str, sample: Path, seconds: float, only: list[str], device: torch.device) -> list[Row]:
    """The rows of all measures asked for."""
    data = open_data(dataset, sample)
    several = tuple(number for number in (0, 1, 2, 4, 8, 16) if number <= 2 * (os.cpu_count() or 1))
    gpu = device.type == "cuda"
    rows: list[Row] = []

    def measure(label: str, name: str, workers: tuple[int, ...], steps: int, share: float, size: int = SIDE) -> None:
        """Have everyone do `name`, each with the fastest of these numbers of workers; a limit loads nothing."""
        if label in only:
            ways = {way: make(data, device, size) for way, make in WAYS.items() if (name, way) != ("load", "limit")}
            own = {way: (0,) if isinstance(ways[way], (Tinyclf, Limit)) else workers for way in ways}
            turns = {way: (getattr(ways[way], name), own[way]) for way in ways}
            print(f"{label}: {', '.join(turns)}", file=sys.stderr, flush=True)
            options: dict = {"always": ("tinyclf", AGAINST[label]), "fill": name == "load"}
            rows.extend(rounds(label, turns, steps=steps, seconds=seconds * share, device=device, **options))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measure("loader on one core", "load", (0,), 20, 0.5)
    torch.set_num_threads(threads)
    measure("loader on all cores", "load", several, 20, 0.5)
    measure("training", "train", several, 30 if gpu else 3, 2)
    measure("training at 224", "train", several, 30 if gpu else 1, 2, 224)
    measure("evaluation", "evaluate", several, 30 if gpu else 8, 1)
    if MEMORY in only:
        for name in (way for way in WAYS if way != "limit"):
            print(f"{MEMORY}: {name}", file=sys.stderr, flush=True)
            peak = peak_memory(contestants.whole_job, name, dataset, sample)
            about = {"measure": MEMORY, "contestant": name, "workers": 0, "round": 0}
            rows.append(about | {"value": peak, "unit": "MiB", "others": 0.0})
    return rows


def about(device: torch.device) -> dict[str, str]:
    """Machine, versions, commit and date, as text."""
    what = environment.describe(device)
    versions, hardware = dict(what["versions"]), what["hardware"]
    return {
        "machine": f"{hardware['name']}, {hardware['cores']} cores, {hardware['threads']} threads, "
        f"{hardware['memory_gib']} GiB of memory, {hardware['system']}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "commit": str(environment.commit("tinyclf", "benchmarks")),
        "date": datetime.date.today().isoformat(),
    }
