"""Which notebook with which parameters makes which page and row: notebooks/experiments.toml, read and checked."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from papermill import inspect_notebook

from tinyclf.errors import TinyclfError
from tinyclf.models import weights_file
from tinyclf.paths import NOTEBOOKS
from tinyclf.settings import DATASETS, NAMED_WEIGHTS, SEEDS, Settings, in_range, one_of, typed

KEYS = ("title", "notebook", "row", "parameters", *DATASETS)  # of an entry


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One entry of experiments.toml, resolved for a data set."""

    name: str
    title: str
    notebook: Path
    parameters: dict[str, Any]  # what the notebook is run with, `dataset` and `run` included


def entries() -> dict[str, dict[str, Any]]:
    """experiments.toml as it stands, by name of the experiment and in order. Raises TinyclfError for a slip in it."""
    path = NOTEBOOKS / "experiments.toml"
    try:
        found = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise TinyclfError(f"{path}: {error}") from error
    for name, entry in found.items():
        for key in entry:
            one_of(f"{path.name}: key of {name}", key, KEYS)
        if not (NOTEBOOKS / entry.get("notebook", "")).is_file() or "title" not in entry:
            raise TinyclfError(f"{path.name}: {name} needs a title, and a notebook that is there")
    return found


def read(dataset: str) -> dict[str, Experiment]:
    """The experiments for `dataset`, by name and in order. Raises TinyclfError."""
    one_of("dataset", dataset, DATASETS)
    return {
        name: Experiment(
            name,
            entry["title"],
            NOTEBOOKS / entry["notebook"],
            {"dataset": dataset} | entry.get("parameters", {}) | entry.get(dataset, {}),
        )
        for name, entry in entries().items()
    }


def choose(
    names: list[str],
    dataset: str,
    overrides: Mapping[str, Any] | None = None,
    imagenet: str = "",
    seeds: list[int] | None = None,
) -> list[Experiment]:
    """The named experiments, or all of them, with `overrides` put over their parameters where they take them.

    imagenet: path of a state dict that stands in for the ImageNet weights wherever an experiment asks for those.
    seeds: those to run each experiment with that takes one; a run with another seed than the experiment's has a name
    of its own (see `seeded`).
    Raises TinyclfError for an unknown experiment, a parameter that none of them takes, and a value of the wrong type.
    """
    known = read(dataset)
    for name in names:
        one_of("experiment", name, tuple(known))
    chosen = [known[name] for name in names or known]
    accepted = {experiment.name: notebook_parameters(experiment.notebook) for experiment in chosen}
    if seeds and "seed" in (overrides or {}):
        raise TinyclfError("parameter seed: given twice, as a parameter and among the seeds")
    for key in {"dataset", "run"} & (overrides or {}).keys():
        raise TinyclfError(f"parameter {key}: it is the experiment's own; choose the data set with --dataset")
    for key in overrides or {}:
        one_of("parameter", key, tuple(dict.fromkeys(name for each in accepted.values() for name in each)))
    resolved = [resolve(each, accepted[each.name], overrides or {}, imagenet) for each in chosen]
    return [run for each in resolved for run in seeded(each, accepted[each.name], seeds or [])]


def seeded(experiment: Experiment, accepted: dict[str, Any], seeds: list[int]) -> list[Experiment]:
    """A run of `experiment` for each of `seeds`: its own seed keeps its name, another one adds `-seed-N` to it."""
    if not seeds or "seed" not in accepted:
        return [experiment]
    runs = []
    for seed in dict.fromkeys(seeds):
        in_range("seed", seed, *SEEDS)
        more = "" if seed == experiment.parameters.get("seed", accepted["seed"]) else f"-seed-{seed}"
        name, title = experiment.name + more, experiment.title + more.replace("-seed-", ", seed ")
        runs.append(Experiment(name, title, experiment.notebook, experiment.parameters | {"seed": seed, "run": name}))
    return runs


def family(name: str) -> str:
    """The experiment that a run belongs to by its name, whatever its seed."""
    return re.sub(r"-seed-\d+$", "", name)


def resolve(
    experiment: Experiment, accepted: dict[str, Any], overrides: Mapping[str, Any], imagenet: str
) -> Experiment:
    """`experiment` with all its parameters, each checked against the notebook's default and the settings' ranges."""
    values = experiment.parameters | {key: value for key, value in overrides.items() if key in accepted}
    if "run" in accepted:
        values = {"run": experiment.name} | values
    if imagenet and values.get("weights") in ("imagenet", "mini"):
        values["weights"] = imagenet
    for key, value in values.items():
        one_of(f"parameter of {experiment.name}", key, tuple(accepted))
        values[key] = typed(key, value, accepted[key])
    settings = Settings(**{key: value for key, value in values.items() if key in Settings.names()})
    if settings.weights not in NAMED_WEIGHTS:
        weights_file(settings.weights)  # rather missed now than after the runs before
    return dataclasses.replace(experiment, parameters=values)


def notebook_parameters(notebook: Path) -> dict[str, Any]:
    """The names and defaults in a notebook's `parameters` cell."""
    return {name: ast.literal_eval(each["default"]) for name, each in inspect_notebook(str(notebook)).items()}


def parse(assignment: str) -> tuple[str, Any]:
    """`epochs=3` to ("epochs", 3): numbers, True and False as Python writes them, anything else as text."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.isidentifier():
        raise TinyclfError(f"parameter {assignment!r}: expected NAME=VALUE")
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    return key, value if isinstance(value, (bool, int, float)) else text
