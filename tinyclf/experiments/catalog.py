"""The experiments: which there are, which runs are asked for and in which order, and the command that repeats a run."""

import dataclasses
import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyclf.data.registry import RUN, dataset_info, is_file
from tinyclf.experiments.names import check_name, family, seed_of, with_seed
from tinyclf.experiments.parameters import RUN_NAME, checked, notebook_parameters, read
from tinyclf.experiments.settings import Settings, accepted_parameters, changed_settings, parent_of
from tinyclf.experiments.toml_files import Ablation, Experiment, Goal, notebook_for, parse_experiments
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.paths import NOTEBOOKS, user_file, user_path

__all__ = ["Ablation", "Experiment", "Goal", "ablation", "command", "overrides", "select"]
Experiments = dict[str, Experiment]  # by name
LAST = {"ablations": 1, "summary": 2}  # made from the records of all others, in this order


def read_experiments(dataset: str) -> Experiments:
    """The experiments on `dataset` by name, in order, each followed by its ablations. Raises TinyclfError.

    On own images they are those of Tiny-ImageNet that train, and the summary.
    """
    info, known = dataset_info(dataset), parse_experiments(NOTEBOOKS)
    if not info.own:
        return known[dataset]
    own = [each for each in known["tiny-imagenet"].values() if each.trains or each.name == "summary"]
    place = {"dataset": info.name}
    return {each.name: dataclasses.replace(each, goals=(), parameters=each.parameters | place) for each in own}


def find_experiment(name: str) -> Experiment | None:
    """The experiment or ablation of a name, on the first data set that has it; None if none does."""
    return next((known[name] for known in parse_experiments(NOTEBOOKS).values() if name in known), None)


def ablation(run: str) -> Ablation | None:
    """The ablation that a run is one of, by its name; None if it is of none."""
    experiment = find_experiment(family(run))
    return experiment.ablation if experiment else None


def select(
    names: list[str], dataset: str, overrides: Mapping[str, Any] = {}, imagenet: str = "", seeds: Sequence[int] = ()
) -> list[Experiment]:
    """The named experiments, or all but ablations, in the order to run them in.

    An experiment comes after the one that it starts from, which is added as `needed`, with its own parameters, where
    it was not named. Where none is named, those of LAST come last.

    overrides: parameters over those of the experiments that take them. Where no experiment is named, `epochs` among
    them leaves out those whose every epoch depends on their number.
    imagenet: path of a state dict that stands in for the ImageNet weights wherever an experiment asks for those.
    seeds: those to run each experiment that trains with; see `resolved` for the names of these runs.
    Raises TinyclfError for an unknown experiment, a parameter that none of them takes, and a value of the wrong type.
    """
    known = read_experiments(dataset)
    named = [find(name, known, dataset) for name in names] or default_selection(known, overrides)
    overrides = checked_overrides(overrides, named, seeds)
    runs = [resolved(each, overrides, imagenet, seed) for each in named for seed in seeds or (None,)]
    asked = {run.name: run for run in runs}
    ordered = [each for run in runs for each in lineage(run, asked, known, imagenet)]
    return list({each.name: each for each in ordered}.values())


def find(name: str, known: Experiments, dataset: str) -> Experiment:
    """The experiment of a name, or of the path of a notebook of one's own, whose name is its `run_name` or its file's.

    Raises TinyclfError for an unknown one with the nearest, in a list that leaves out other ablations.
    """
    if name.endswith(".ipynb"):
        path = user_path(name)
        own = notebook_parameters(path)
        if own.get("dataset", dataset) not in (dataset, "mini"):
            raise TinyclfError(f"{name}: its dataset is {own['dataset']!r}; give --dataset {own['dataset']}")
        title = own.get(RUN_NAME) or path.stem
        check_name(title)
        return Experiment(title, title, path, {"dataset": dataset}, is_own=True)
    nearest = difflib.get_close_matches(name, known, 1)
    listed = [each for each, experiment in known.items() if each == name or each in nearest or not experiment.ablation]
    one_of("experiment", name, listed, "or an ablation of one, or the path of a notebook")
    return known[name]


def default_selection(known: Experiments, overrides: Mapping[str, Any]) -> list[Experiment]:
    """All experiments but ablations, without those that plan their epochs where `epochs` is given; LAST at the end."""
    as_many = "epochs" in overrides
    chosen = [each for each in known.values() if not (each.ablation or (as_many and each.settings.planned))]
    return sorted(chosen, key=lambda experiment: LAST.get(experiment.name, 0))


def checked_overrides(overrides: Mapping[str, Any], named: list[Experiment], seeds: Sequence[int]) -> dict[str, Any]:
    """The overrides as the types of their parameters: a text, of the command line, is read as one.

    Raises TinyclfError for a parameter that none of the named experiments takes, or that is not given this way.
    """
    if seeds and "seed" in overrides:
        raise TinyclfError("parameter seed: given twice, as a parameter and among the seeds")
    if RUN_NAME in overrides and sum(each.trains for each in named) != 1:
        raise TinyclfError(f"parameter {RUN_NAME}: it is for one experiment that trains; name that one alone")
    # The data set is --dataset
    accepted = {key: value for each in named for key, value in accepted_parameters(each.notebook, "dataset").items()}
    return checked(overrides, accepted, read)


def resolved(experiment: Experiment, overrides: Mapping[str, Any], imagenet: str, seed: int | None) -> Experiment:
    """The run of `experiment` with a seed, those overrides that it takes, and all that its notebook must be given.

    Its own seed, as None, keeps its name, another one adds `-seed-N` to it; what starts from another experiment's run
    then starts from that one's run of the same seed. Raises TinyclfError.
    """
    notebook = notebook_for(experiment.notebook, overrides)
    if experiment.is_own and notebook != experiment.notebook:
        raise TinyclfError(f"{experiment.notebook}: its cell of parameters lacks one of {', '.join(overrides)}")
    own, accepted = notebook_parameters(notebook), accepted_parameters(notebook)
    values = experiment.parameters | {key: value for key, value in overrides.items() if key in accepted}
    run = dataclasses.replace(experiment, notebook=notebook, parameters=values)
    if not run.trains:
        return run
    name, title, defaults = values.get(RUN_NAME, experiment.name), experiment.title, own if experiment.is_own else {}
    if seed is not None:
        if seed != Settings.of({**defaults, **values}).seed:
            name, title = with_seed(name, seed), f"{title}, seed {seed}"
            if find_experiment(parent_of(weights := values.get("weights", ""))):
                values["weights"] = with_seed(weights, seed)
        values["seed"] = seed
    if imagenet and values.get("weights") in ("imagenet", "mini"):
        values["weights"] = imagenet
    settings = Settings.of({**defaults, **values})
    if is_file(settings.weights):
        user_file(settings.weights, "weights")  # refuse it before the first run, not after it
    # The defaults in the notebook's cell are those of its own experiment, on mini, and not of the settings
    given = {key: value for key, value in dataclasses.asdict(settings).items() if own.get(key, value) != value}
    check_name(name)
    return dataclasses.replace(run, name=name, title=title, parameters=given | values | {RUN_NAME: name})


def lineage(run: Experiment, asked: Experiments, known: Experiments, imagenet: str) -> list[Experiment]:
    """The experiments that `run` starts from, as they were asked for, or needed; the first to run first, `run` last."""
    line = [run]
    while (name := parent_of(line[-1].parameters.get("weights", ""))) and family(name) in known:
        if name in (names := [descendant.name for descendant in line]):
            raise TinyclfError(f"{' from '.join([*names, name])}: a run cannot start from itself; give other weights")
        line.append(asked[name] if name in asked else needed_parent(name, line[-1], known, imagenet))
    return line[::-1]


def needed_parent(name: str, child: Experiment, known: Experiments, imagenet: str) -> Experiment:
    """The run `name`, which was not asked for but `child` starts from. Raises TinyclfError if it cannot be that."""
    parent = resolved(known[family(name)], {}, imagenet, seed_of(name))
    if not parent.trains or parent.name != name:
        raise TinyclfError(f"weights of {child.name} = {RUN + name!r}: there is no such run of {family(name)}")
    if child.settings.hold_out != parent.settings.hold_out:
        fault = f"{child.name} holds out images, and {name}, which it starts from, does not"
        raise TinyclfError(f"{fault}: name that one as well, for the same -p hold_out=True")
    return dataclasses.replace(parent, needed=True)


def overrides(run: str, settings: Settings) -> dict[str, Any]:
    """What a run's settings have other than its experiment's, or than the defaults where it is of none.

    The seed is no override, nor is a file that stands in for ImageNet weights.
    """
    expected = Settings(dataset=settings.dataset)
    if experiment := read_experiments(settings.dataset).get(family(run)):
        expected = resolved(experiment, {}, "", seed_of(run)).settings
        if expected.weights in ("imagenet", "mini") and is_file(settings.weights):
            expected = dataclasses.replace(expected, weights=settings.weights)
    return changed_settings(settings, dataclasses.replace(expected, seed=settings.seed))


def command(run: str, settings: Settings, parent: Mapping[str, Any] | None = None) -> str:
    """The line for a shell that repeats a run: by its experiment, or of none, by the one that is as published.

    parent: the run that it starts from, as `Ancestor` in record.py. Where the first of its ancestors had a file for
    ImageNet weights, the command gives it. An ancestor with overrides of its own has a command of its own.
    """
    experiment, changes = family(run), overrides(run, settings)
    seed = ["--seeds", str(settings.seed)]
    if experiment not in read_experiments(settings.dataset):
        experiment, seed = "baseline-scratch", []
        changes = {RUN_NAME: run} | overrides(experiment, settings) | {"seed": settings.seed}
    words = ["tinyclf", "train", experiment, "--dataset", settings.dataset]
    first = settings.weights
    while parent:
        first, parent = parent["settings"]["weights"], parent.get("parent")
    if is_file(first) and "weights" not in changes:
        words += ["--imagenet", Path(first).name]
    parameters = [word for key, value in changes.items() for word in ("-p", f"{key}={value}")]
    return shlex.join([*words, *parameters, *seed])


def how_to_run(run: str, dataset: str) -> str:
    """The line for a shell that runs an experiment to its page, with the seed of a run of it; NAME for that of none."""
    seed, name = seed_of(run), family(run) if family(run) in read_experiments(dataset) else "NAME"
    return f"tinyclf run {name} --dataset {dataset}" + ("" if seed is None else f" --seeds {seed}")
