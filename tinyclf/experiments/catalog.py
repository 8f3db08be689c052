"""The experiments: which there are, which runs are asked for and in which order, and the command that repeats a run."""

import dataclasses
import difflib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.names import check_name, family, seed_of, with_seed
from tinyclf.experiments.parameters import RUN_NAME, accepted_parameters, checked, notebook_parameters
from tinyclf.experiments.settings import Settings, parent_of
from tinyclf.experiments.toml_files import (
    RECIPES_NOTEBOOK,
    Ablation,
    Experiment,
    Goal,
    notebook_for,
    parse_experiments,
)
from tinyclf.models.choices import RUN, existing_file, is_file
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.paths import NOTEBOOKS

__all__ = ["Ablation", "Experiment", "Goal", "ablation", "command", "overrides", "select"]
LAST = {"ablations": 1, "summary": 2}  # made from the records of all others, in this order


def read_experiments(dataset: str) -> dict[str, Experiment]:
    """The experiments on `dataset` by name, in order, each followed by its ablations. Raises TinyclfError."""
    one_of("dataset", dataset, DATASETS)
    return parse_experiments(NOTEBOOKS)[dataset]


def find_experiment(name: str) -> Experiment | None:
    """The experiment or ablation of a name, on the first data set that has it; None if none does."""
    return next((known[name] for known in parse_experiments(NOTEBOOKS).values() if name in known), None)


def ablation(run: str) -> Ablation | None:
    """The ablation that a run is one of, by its name; None if it is of none."""
    experiment = find_experiment(family(run))
    return experiment.ablation if experiment else None


def chosen(recipe: str, dataset: str) -> str:
    """The ablation that has the recipe's own settings on a data set, the result of a search; empty without one."""
    experiments = read_experiments(dataset)
    wanted = dataclasses.replace(experiments[recipe].settings, hold_out=True)
    for experiment in experiments.values():
        if (found := experiment.ablation) and found.recipe == recipe and experiment.settings == wanted:
            return found.label
    return ""


def select(
    names: list[str],
    dataset: str,
    overrides: Mapping[str, Any] | None = None,
    imagenet: str = "",
    seeds: list[int] | None = None,
) -> list[Experiment]:
    """The named experiments, or all but ablations, in the order to run them in.

    An experiment comes after the one that it starts from, which is added as `needed`, with its own parameters, where
    it was not named. Where none is named, those of LAST come last.

    overrides: parameters over those of the experiments that take them. Where no experiment is named, `epochs` among
    them leaves out those whose every epoch depends on their number.
    imagenet: path of a state dict that stands in for the ImageNet weights wherever an experiment asks for those.
    seeds: those to run each experiment that trains with; see `seeded` for the names of these runs.
    Raises TinyclfError for an unknown experiment, a parameter that none of them takes, and a value of the wrong type.
    """
    known, overrides = read_experiments(dataset), overrides or {}
    for name in names:
        check_experiment(name, known)
    named = [known[name] for name in names] or default_selection(known, overrides)
    check_overrides(overrides, named, seeds)
    named = [with_overrides(experiment, overrides, imagenet) for experiment in named]
    runs = {run.name: run for each in named for run in ([seeded(each, seed) for seed in seeds or []] or [each])}
    ordered: dict[str, Experiment] = {}
    for run in runs.values():
        for experiment in [*ancestors(run, runs, known, imagenet), run]:
            ordered.setdefault(experiment.name, experiment)
    return list(ordered.values())


def check_experiment(name: str, known: dict[str, Experiment]) -> None:
    """Raise TinyclfError for an unknown experiment, with the nearest, and a list that leaves out other ablations."""
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1)
        listed = [each for each, experiment in known.items() if each in nearest or not experiment.ablation]
        one_of("experiment", name, listed, "or an ablation of one")


def default_selection(known: dict[str, Experiment], overrides: Mapping[str, Any]) -> list[Experiment]:
    """All experiments but ablations, without those that plan their epochs where `epochs` is given; LAST at the end."""
    chosen = [
        each for each in known.values() if not (each.ablation or ("epochs" in overrides and each.settings.planned))
    ]
    return sorted(chosen, key=lambda experiment: LAST.get(experiment.name, 0))


def check_overrides(overrides: Mapping[str, Any], experiments: list[Experiment], seeds: list[int] | None) -> None:
    """Raise TinyclfError for a parameter that none of the experiments takes, or that is not given this way."""
    if seeds and "seed" in overrides:
        raise TinyclfError("parameter seed: given twice, as a parameter and among the seeds")
    if RUN_NAME in overrides and sum(each.trains for each in experiments) != 1:
        raise TinyclfError(f"parameter {RUN_NAME}: it is for one experiment that trains; name that one alone")
    accepted = dict.fromkeys(key for each in experiments for key in accepted_parameters(each.notebook))
    for key in overrides:
        one_of("parameter", key, [name for name in accepted if name != "dataset"], "(the data set is --dataset)")


def with_overrides(experiment: Experiment, overrides: Mapping[str, Any], imagenet: str) -> Experiment:
    """`experiment` with those overrides that it takes, and all that its notebook must be given. Raises TinyclfError."""
    notebook = notebook_for(experiment.notebook, overrides)
    own, accepted = notebook_parameters(notebook), accepted_parameters(notebook)
    values = experiment.parameters | checked({key: overrides[key] for key in overrides if key in accepted}, notebook)
    if RUN_NAME not in own:
        return dataclasses.replace(experiment, notebook=notebook, parameters=values)
    if imagenet and values.get("weights") in ("imagenet", "mini"):
        values["weights"] = imagenet
    settings = Settings.from_notebook(values)
    if is_file(settings.weights):
        existing_file(settings.weights)  # refuse it before the first run, not after it
    # The defaults in the notebook's cell are those of its own experiment, on mini, and not of the settings
    given = {key: value for key, value in dataclasses.asdict(settings).items() if own.get(key, value) != value}
    values = {RUN_NAME: experiment.name} | given | values
    check_name(values[RUN_NAME])
    return dataclasses.replace(experiment, name=values[RUN_NAME], notebook=notebook, parameters=values)


def seeded(experiment: Experiment, seed: int | None) -> Experiment:
    """The run of `experiment` with a seed: its own, as None, keeps its name, another one adds `-seed-N` to it.

    One that starts from another experiment's run starts from that one's run of the same seed.
    """
    if seed is None or RUN_NAME not in experiment.parameters:
        return experiment
    parameters = experiment.parameters | {"seed": Settings(seed=seed).seed}
    if seed == experiment.settings.seed:
        return dataclasses.replace(experiment, parameters=parameters)
    weights = parameters.get("weights", "")
    if find_experiment(parent_of(weights)):
        parameters["weights"] = with_seed(weights, seed)
    parameters[RUN_NAME] = name = with_seed(experiment.name, seed)
    return dataclasses.replace(experiment, name=name, title=f"{experiment.title}, seed {seed}", parameters=parameters)


def ancestors(
    run: Experiment, runs: dict[str, Experiment], known: dict[str, Experiment], imagenet: str
) -> list[Experiment]:
    """The experiments that `run` starts from, the first to run first; from `runs` where they are among those."""
    line = [run]
    while (name := parent_of(line[-1].parameters.get("weights", ""))) and family(name) in known:
        if name in (names := [descendant.name for descendant in line]):
            raise TinyclfError(f"{' from '.join([*names, name])}: a run cannot start from itself; give other weights")
        line.append(runs[name] if name in runs else needed_parent(name, line[-1], known, imagenet))
    return line[:0:-1]


def needed_parent(name: str, child: Experiment, known: dict[str, Experiment], imagenet: str) -> Experiment:
    """The run `name`, which was not asked for but `child` starts from. Raises TinyclfError if it cannot be that."""
    parent = seeded(with_overrides(known[family(name)], {}, imagenet), seed_of(name))
    if RUN_NAME not in parent.parameters or parent.name != name:
        raise TinyclfError(f"weights of {child.name} = {RUN + name!r}: there is no such run of {family(name)}")
    if child.parameters.get("hold_out", False) != parent.parameters.get("hold_out", False):
        raise TinyclfError(
            f"{child.name} holds out images, and {name}, which it starts from, does not: name that one as well, for "
            "the same -p hold_out=True"
        )
    return dataclasses.replace(parent, needed=True)


def overrides(run: str, settings: Settings) -> dict[str, Any]:
    """What a run's settings have other than its experiment's, or than the defaults where it is of none.

    The seed is no override, nor is a file that stands in for ImageNet weights.
    """
    expected = Settings(dataset=settings.dataset)
    if experiment := read_experiments(settings.dataset).get(family(run)):
        named = dataclasses.replace(experiment, parameters={RUN_NAME: ""} | experiment.parameters)
        expected = seeded(named, seed_of(run)).settings
        if expected.weights in ("imagenet", "mini") and is_file(settings.weights):
            expected = dataclasses.replace(expected, weights=settings.weights)
    return changed_settings(settings, expected)


def command(run: str, settings: Settings, imagenet: str = "") -> str:
    """The line for a shell that repeats a run, by `tinyclf train` or, where it is of no experiment, by papermill.

    imagenet: the file that stood in for ImageNet weights at the first of its ancestors; that of the run itself is among
    its settings. An ancestor with overrides of its own has a command of its own.
    """
    if family(run) not in read_experiments(settings.dataset):
        return notebook_command(run, settings)
    changes = overrides(run, settings)
    stand_in = settings.weights if is_file(settings.weights) else imagenet
    words = ["tinyclf", "train", family(run), "--dataset", settings.dataset]
    if stand_in and "weights" not in changes:
        words += ["--imagenet", Path(stand_in).name]
    parameters = [word for key, value in changes.items() for word in ("-p", f"{key}={value}")]
    return shlex.join([*words, *parameters, "--seeds", str(settings.seed)])


def how_to_run(run: str, dataset: str) -> str:
    """The line for a shell that runs an experiment to its page, with the seed of a run of it."""
    seed = seed_of(run)
    return f"tinyclf run {family(run)} --dataset {dataset}" + ("" if seed is None else f" --seeds {seed}")


def notebook_command(run: str, settings: Settings) -> str:
    """The line for a shell that repeats a run of no experiment: the notebook of recipes, given all that it lacks."""
    defaults = {**notebook_parameters(NOTEBOOKS / RECIPES_NOTEBOOK), "dataset": settings.dataset}
    own = {RUN_NAME: run, "seed": settings.seed, "dataset": settings.dataset}
    given = own | changed_settings(settings, Settings.from_notebook(defaults))
    words = [word for key, value in given.items() for word in ("-p", key, str(value))]
    return shlex.join(["papermill", f"notebooks/{RECIPES_NOTEBOOK}", "out.ipynb", *words])


def changed_settings(settings: Settings, expected: Settings) -> dict[str, Any]:
    """The settings that are others than expected, but for the seed."""
    before = dataclasses.asdict(expected)
    return {key: value for key, value in dataclasses.asdict(settings).items() if value != before[key] and key != "seed"}
