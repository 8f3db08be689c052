"""What a run has other than its experiment, and the command that repeats it: both told from its record."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from tinyclf import catalog as experiments
from tinyclf.names import family, seed_of, with_seed
from tinyclf.paths import NOTEBOOKS
from tinyclf.record import Record, settings_of
from tinyclf.settings import Settings, parent_of

NOTEBOOK = NOTEBOOKS / "4_recipes.ipynb"  # what repeats a run that no entry of experiments.toml has


def changes(name: str, record: Record) -> str:
    """What a record's settings have other than the experiment of its name; empty if nothing.

    But for the length of a run that can go on.
    Also those of the runs that it started from, with their length.
    """
    changed = changed_settings(name, record["run"], record["settings"])
    if not settings_of(record).planned:
        changed.pop("epochs", None)
    texts = [f"{key} = {value}" for key, value in changed.items()]
    for parent in lineage(record):
        changed = changed_settings(family(parent["run"]), parent["run"], parent["settings"])
        texts += [f"{key} = {value} in {family(parent['run'])}" for key, value in changed.items()]
    return ", ".join(texts)


def changed_settings(name: str, run: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that are others than its experiment's own; none for a run that is of no experiment."""
    if name not in (known := experiments.read(settings["dataset"])):
        return {}
    expected = dataclasses.asdict(Settings.from_notebook(known[name].parameters))
    start = settings["weights"]
    if expected["weights"] in ("imagenet", "mini") and start != "none" and not parent_of(start):
        expected["weights"] = start  # a stand-in, and labelled so
    if (seed := seed_of(run)) is not None and seed == settings["seed"]:
        expected["seed"] = seed
        if parent_of(expected["weights"]) in known:
            expected["weights"] = with_seed(expected["weights"], seed)
    return {key: value for key, value in settings.items() if value != expected.get(key)}


def differences(record: Record) -> dict[str, object]:
    """What a run's settings have other than its experiment, or than the notebook of recipes where it is of none."""
    name, settings = family(record["run"]), record["settings"]
    if name in experiments.read(settings["dataset"]):
        changed = changed_settings(name, record["run"], settings)
    else:
        default, settings = experiments.notebook_parameters(NOTEBOOK), dataclasses.asdict(settings_of(record))
        changed = {key: value for key, value in settings.items() if value != default[key] and key != "dataset"}
    changed.pop("seed", None)
    return changed


def command(name: str, runs: list[Record], verb: str = "train") -> str:
    """What makes runs again that differ in their seeds alone.

    Their experiment with what they had other than it, after the runs that they started from where those had something
    other; of a run that is of no experiment, the notebook of recipes. verb: `train`, or `run` for pages as well.
    """
    seeds = [run["settings"]["seed"] for run in runs]
    if name not in experiments.read(settings_of(runs[0]).dataset):
        return "; ".join(by_notebook(run) for run in runs)
    started = [runs[0], *lineage(runs[0])]
    stand_in = started[-1]["settings"]["weights"]
    more = f" --imagenet {shlex.quote(stand_in)}" if stand_in.endswith((".pth", ".safetensors")) else ""
    lines = []
    for each in reversed(started):
        changes = differences(each)
        if each is not runs[0]:  # what it was evaluated on as well makes no other model
            changes = {key: value for key, value in changes.items() if key not in ("eval_size", "flip_tta")}
        if "weights" in changes:
            more = ""
        if changes or each is runs[0]:  # what has its experiment's own settings is run when it is needed
            line = f"tinyclf {verb} {family(each['run'])} --dataset {settings_of(each).dataset}{more}"
            line += "".join(f" -p {shlex.quote(f'{key}={value}')}" for key, value in changes.items())
            lines.append(line + " --seeds" + "".join(f" {seed}" for seed in seeds))
    return " && ".join(lines)


def lineage(record: Record) -> Iterator[dict[str, Any]]:
    """The runs that a run started from, the nearest first: `run`, `settings`, `epochs` of each."""
    parent = record["weights"].get("parent")
    while parent:
        yield parent
        parent = parent["parent"]


def by_notebook(run: Record) -> str:
    """What makes a run again that no entry of experiments.toml has."""
    given = {"run": run["run"], **{key: run["settings"][key] for key in ("seed", "dataset")}, **differences(run)}
    more = "".join(f" -p {key} {shlex.quote(str(value))}" for key, value in given.items())
    return f"papermill notebooks/{NOTEBOOK.name} out.ipynb{more}"
