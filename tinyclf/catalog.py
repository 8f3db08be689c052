"""Which notebook with which parameters makes which page and row: notebooks/experiments.toml, read and checked."""

import ast
import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from papermill import inspect_notebook

from tinyclf.errors import TinyclfError
from tinyclf.weights import weights_file
from tinyclf.names import family, seed_of, with_seed
from tinyclf.paths import NOTEBOOKS
from tinyclf.settings import DATASETS, NAMED_WEIGHTS, RUN, SEEDS, Settings, in_range, one_of, parent_of, typed

KEYS = ("title", "notebook", "row", "goals", "datasets", "parameters", "ablations", "chosen", *DATASETS)  # of an entry
GOAL_KEYS = ("text", "accuracy", "epochs", "arithmetic")  # of a goal: at least, in 0..1; at most; at most, of row 1's
LAST = ("ablations", "summary")  # as they are made from the records of the others


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One entry of experiments.toml, resolved for a data set."""

    name: str
    title: str
    notebook: Path
    parameters: dict[str, Any]  # what the notebook is run with, `dataset` and `run` included
    needed: bool = False  # not asked for, but another one starts from it: to be run unless it has finished


def entries() -> dict[str, dict[str, Any]]:
    """experiments.toml as it stands, by name of the experiment and in order. Raises TinyclfError for a slip in it.

    After an experiment come its ablations, as experiments of their own, `NAME.ABLATION`, validated on held-out training
    images. Each changes something, `changed`, of the one that its `over` names, else of the one that changes nothing of
    the entry's parameters. The one that is `chosen` is what the experiment itself runs, on all images. What an entry
    has for a data set holds there over its parameters and what was chosen; what an ablation changes holds everywhere.
    """
    path = NOTEBOOKS / "experiments.toml"
    try:
        found = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise TinyclfError(f"{path}: {error}") from error
    for name, entry in found.items():
        for key in entry:
            one_of(f"{path.name}: key of {name}", key, KEYS)
        for goal in entry.get("goals", []):
            for key in goal:
                one_of(f"{path.name}: key of a goal of {name}", key, GOAL_KEYS)
            if not {"text", "accuracy"} <= goal.keys():
                raise TinyclfError(f"{path.name}: a goal of {name} needs a text and an accuracy")
        for dataset in entry.get("datasets", []):
            one_of(f"{path.name}: datasets of {name}", dataset, DATASETS)
        if not (NOTEBOOKS / entry.get("notebook", "")).is_file() or "title" not in entry:
            raise TinyclfError(f"{path.name}: {name} needs a title, and a notebook that is there")
    every = {}
    for name, entry in found.items():
        ablations = entry.pop("ablations", {})
        if chosen := entry.pop("chosen", ""):
            one_of(f"{path.name}: chosen of {name}", chosen, tuple(ablations))
            entry["changes"] = chain(ablations, chosen, f"{path.name}: over of {name}")
        every[name] = entry
        start = next((label for label, ablation in ablations.items() if not ablation), "")
        for label, ablation in ablations.items():
            every[f"{name}.{label}"] = {
                **{key: value for key, value in entry.items() if key not in ("row", "goals")},
                "title": f"{entry['title']}, ablation: {label}",
                "changes": chain(ablations, label, f"{path.name}: over of {name}") | {"hold_out": True},
                "over": ablation.get("over", start if ablation else ""),
                "changed": {key: value for key, value in ablation.items() if key != "over"},
            }
    return every


def chain(ablations: dict[str, dict[str, Any]], label: str, what: str) -> dict[str, Any]:
    """All that an ablation changes, with what those change that it goes over; `what` names the key in an error."""
    changes: dict[str, Any] = {}
    for _ in ablations:  # no chain is longer, unless it goes round
        changes = ablations[label] | changes
        if not (label := ablations[label].get("over", "")):
            return {key: value for key, value in changes.items() if key != "over"}
        one_of(what, label, tuple(ablations))
    raise TinyclfError(f"{what} = {label!r}: it goes round in a circle")


def read(dataset: str) -> dict[str, Experiment]:
    """The experiments for `dataset`, by name and in order. Raises TinyclfError."""
    one_of("dataset", dataset, DATASETS)
    found = {}
    for name, entry in entries().items():
        if dataset in entry.get("datasets", DATASETS):
            changes, there = entry.get("changes", {}), entry.get(dataset, {})
            last = there | changes if "over" in entry else changes | there
            parameters = {"dataset": dataset} | entry.get("parameters", {}) | last
            found[name] = Experiment(name, entry["title"], NOTEBOOKS / entry["notebook"], parameters)
    return found


def choose(
    names: list[str],
    dataset: str,
    overrides: Mapping[str, Any] | None = None,
    imagenet: str = "",
    seeds: list[int] | None = None,
) -> list[Experiment]:
    """The named experiments, or all but ablations, with `overrides` put over their parameters where they take them.

    Where none is named, those of LAST come after all others.

    One that starts from another comes after it. Where that other one was not named, it is put before it as `needed`,
    with its own parameters; of the overrides it takes `processes` alone.
    Where none is named, `epochs` among the overrides leaves out those whose every epoch depends on how many there are.
    imagenet: path of a state dict that stands in for the ImageNet weights wherever an experiment asks for those.
    seeds: those to run each experiment with that takes one; a run with another seed than the experiment's has a name
    of its own (see `seeded`).
    Raises TinyclfError for an unknown experiment, a parameter that none of them takes, and a value of the wrong type.
    """
    known = read(dataset)
    for name in names:
        one_of("experiment", name, tuple(known))
    short = "epochs" in (overrides or {})
    every = [name for name, each in known.items() if not (is_ablation(name) or (short and is_planned(each)))]
    every.sort(key=lambda name: LAST.index(name) + 1 if name in LAST else 0)
    chosen = [known[name] for name in names or every]
    accepted = {experiment.name: notebook_parameters(experiment.notebook) for experiment in chosen}
    if seeds and "seed" in (overrides or {}):
        raise TinyclfError("parameter seed: given twice, as a parameter and among the seeds")
    for key in {"dataset", "run"} & (overrides or {}).keys():
        raise TinyclfError(f"parameter {key}: it is the experiment's own; choose the data set with --dataset")
    for key in overrides or {}:
        one_of("parameter", key, tuple(dict.fromkeys(name for each in accepted.values() for name in each)))
    resolved = [resolve(each, accepted[each.name], overrides or {}, imagenet) for each in chosen]
    runs = {run.name: run for each in resolved for run in seeded(each, accepted[each.name], seeds or [])}
    speed = {key: value for key, value in (overrides or {}).items() if key == "processes"}
    ordered: dict[str, Experiment] = {}
    for run in runs.values():
        for each in reversed([run, *ancestors(run, runs, known, speed, imagenet)]):
            ordered.setdefault(each.name, each)
    return list(ordered.values())


def is_ablation(name: str) -> bool:
    """Whether a run is an ablation of an experiment, by its name."""
    return "over" in entries().get(family(name), {})


def is_planned(experiment: Experiment) -> bool:
    """Whether every epoch of a run depends on how many there are."""
    return Settings.from_notebook(experiment.parameters).planned


def ancestors(
    run: Experiment, runs: dict[str, Experiment], known: dict[str, Experiment], overrides: dict[str, Any], imagenet: str
) -> Iterator[Experiment]:
    """What `run` starts from, and what that starts from, as far as they are experiments; from `runs` if among them."""
    seen = [run.name]
    while (name := parent_of(run.parameters.get("weights", ""))) and family(name) in known:
        if name in seen:
            raise TinyclfError(f"{' from '.join([*seen, name])}: a run cannot start from itself; give other weights")
        seen.append(name)
        if name in runs:
            run = runs[name]
        else:
            parent, seed = known[family(name)], seed_of(name)
            accepted = notebook_parameters(parent.notebook)
            resolved = resolve(parent, accepted, overrides, imagenet)
            (found,) = seeded(resolved, accepted, [] if seed is None else [seed])
            if "run" not in accepted or found.name != name:
                raise TinyclfError(f"weights of {run.name} = {RUN + name!r}: there is no such run of {family(name)}")
            before, run = run, dataclasses.replace(found, needed=True)
            if before.parameters.get("hold_out", False) != run.parameters.get("hold_out", False):
                raise TinyclfError(
                    f"{before.name} holds out images, and {run.name}, which it starts from, does not: name that one "
                    "as well, for the same -p hold_out=True"
                )
        yield run


def seeded(experiment: Experiment, accepted: dict[str, Any], seeds: list[int]) -> list[Experiment]:
    """A run of `experiment` for each of `seeds`: its own seed keeps its name, another one adds `-seed-N` to it.

    One that starts from another run starts from that one's run of the same seed.
    """
    if not seeds or "seed" not in accepted:
        return [experiment]
    runs = []
    for seed in dict.fromkeys(seeds):
        in_range("seed", seed, *SEEDS)
        name, title, parameters = experiment.name, experiment.title, experiment.parameters | {"seed": seed}
        if seed != experiment.parameters.get("seed", accepted["seed"]):
            name, title = with_seed(name, seed), f"{title}, seed {seed}"
            parameters["run"] = name
            if parent_of(weights := parameters.get("weights", "")) in entries():
                parameters["weights"] = with_seed(weights, seed)
        runs.append(dataclasses.replace(experiment, name=name, title=title, parameters=parameters))
    return runs


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
    for key, default in accepted.items():  # a notebook's own defaults are those of another experiment
        if key in Settings.names() and (value := getattr(settings, key)) != default:
            values.setdefault(key, value)
    if not settings.parent and settings.weights not in NAMED_WEIGHTS:
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
