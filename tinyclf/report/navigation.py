"""The links between the pages of a data set: from a run to the previous one, to the next one, and to the front page."""

import re
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.names import family
from tinyclf.report.html import PIECES, link
from tinyclf.utils.files import atomic_write

NAV = re.compile(r"<nav>.*?</nav>", re.DOTALL)


def run_title(run: str, experiments: Mapping[str, Experiment]) -> str:
    """The title of a run in words: that of its experiment, with its seed, or its own name where it is of none."""
    name = family(run)
    if name not in experiments:
        return run
    seed = run.removeprefix(name).removeprefix("-seed-")
    return experiments[name].title + (f", seed {seed}" if seed else "")


def pages(folder: Path, experiments: Mapping[str, Experiment]) -> list[str]:
    """The runs in a data set's folder that have a record and a page, in the order of the experiments."""
    runs = [page.parent.name for page in folder.glob("*/index.html") if page.with_name("record.json").is_file()]
    order = {name: number for number, name in enumerate(experiments)}
    return sorted(runs, key=lambda run: (order.get(family(run), len(order)), run))


def connect(dataset_folder: Path, run: str) -> None:
    """Link the page of a run to its neighbours, and theirs to it. The caller holds a lock on the pages."""
    dataset = dataset_folder.name
    experiments = catalog.read_experiments(dataset)
    runs = pages(dataset_folder, experiments)
    if run not in runs:
        return
    place = runs.index(run)
    for number in range(max(0, place - 1), min(len(runs), place + 2)):
        page = dataset_folder / runs[number] / "index.html"
        nav = PIECES.nav(DATASETS[dataset].title, *(run_anchor(runs, number + step, experiments) for step in (-1, 1)))
        atomic_write(page, NAV.sub(nav.replace("\\", r"\\"), page.read_text(encoding="utf-8"), count=1))


def run_anchor(runs: list[str], number: int, experiments: Mapping[str, Experiment]) -> Markup | str:
    """A link to the page of a run by its number; empty where there is none."""
    if not 0 <= number < len(runs):
        return ""
    return link(run_title(runs[number], experiments), f"../{runs[number]}/index.html")
