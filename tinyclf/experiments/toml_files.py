"""The experiments and ablations of experiments.toml and ablations.toml, each as it is on a data set."""

import dataclasses
import functools
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.names import NAME, dataset_folder, family
from tinyclf.experiments.parameters import RUN_NAME, checked, notebook_parameters
from tinyclf.experiments.settings import STRICT, Count, Positive, Settings, Share, accepted_parameters
from tinyclf.utils.errors import TinyclfError, one_of, typed

RECIPES_NOTEBOOK = "4_recipes.ipynb"  # builds model, loss, optimizer and schedule from the settings, whatever they are
RECIPE_SETTINGS = {
    *("model", "stem", "stem_init", "zero_init", "shallow", "jpeg_quality", "label_smoothing", "ema_decay", "schedule"),
    *("warmup", "step_size", "gamma", "learning_rate", "layer_decay", "momentum", "nesterov", "weight_decay"),
}
KEYS = ("title", "notebook", "goals", "datasets", "parameters", *DATASETS)  # of an entry of experiments.toml
FOLLOWING = ("dataset", RUN_NAME)  # parameters that follow from the place and name of an entry
Table = dict[str, Any]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Goal:
    """What an experiment is meant to reach."""

    text: str
    accuracy: Share  # at least
    epochs: Count | None = None  # at most
    compute: Positive | None = None  # at most, in parts of the published baseline's training


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What an ablation is one of, and how it differs."""

    recipe: str  # name of an experiment
    label: str
    base: str  # another ablation of the recipe, or the recipe
    changes: dict[str, Any]  # of the parameters of its base


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment, or ablation, on one data set."""

    name: str
    title: str
    notebook: Path
    parameters: dict[str, Any]  # of the notebook, `dataset` included, and from `select` its `run_name`
    is_own: bool = False  # the notebook is not one of the package
    needed: bool = False  # another one starts from it, and nobody asked for it: it is run unless it has finished
    goals: tuple[Goal, ...] = ()
    ablation: Ablation | None = None  # None for an entry of experiments.toml

    @property
    def settings(self) -> Settings:
        """The settings among the parameters, the others by default. Raises TinyclfError for one out of range."""
        return Settings.of(self.parameters)

    @property
    def trains(self) -> bool:
        """Whether its notebook trains, and so leaves a record."""
        return RUN_NAME in notebook_parameters(self.notebook)

    @property
    def page_folder(self) -> Path:
        """Where its notebook.ipynb and index.html go; the summary is the front page of its data set."""
        folder = dataset_folder(self.parameters["dataset"])
        return folder if self.name == "summary" else folder / self.name


@functools.cache
def parse_experiments(folder: Path) -> dict[str, dict[str, Experiment]]:
    """All experiments by data set and name, from the two files in the folder of the notebooks.

    Raises TinyclfError for a slip, naming file and entry.
    """
    entries, variants = (read_tables(folder / file) for file in ("experiments.toml", "ablations.toml"))
    for name in variants:
        one_of("ablations.toml: recipe", name, entries)
    found: dict[str, dict[str, Experiment]] = {dataset: {} for dataset in DATASETS}
    for name, table in entries.items():
        with within(f"experiments.toml: {name}"):
            recipes = on_its_data_sets(name, table, folder)
        for dataset, recipe in recipes.items():
            found[dataset] |= {each.name: each for each in [recipe, *ablations_of(recipe, variants.get(name, {}))]}
    return found


def read_tables(path: Path) -> dict[str, Table]:
    """The tables of a TOML file by name, in order. Raises TinyclfError where it cannot be read."""
    with within(path.name):
        return {name: typed(name, table, {}) for name, table in tomllib.loads(path.read_text("utf-8")).items()}


@contextmanager
def within(place: str) -> Iterator[None]:
    """Raise what is wrong with a file as TinyclfError, with its place."""
    try:
        yield
    except Exception as error:  # of what a person wrote
        raise TinyclfError(f"{place}: {error}{' is missing' * isinstance(error, KeyError)}") from error


def on_its_data_sets(name: str, table: Table, folder: Path) -> dict[str, Experiment]:
    """The experiment of an entry, by data set."""
    check_label(name)
    for key in table:
        one_of("key", key, KEYS)
    notebook, goals = folder / table["notebook"], tuple(Goal(**goal) for goal in table.get("goals", ()))
    found = {}
    for dataset in table.get("datasets", DATASETS):
        given = table.get("parameters", {}) | table.get(dataset, {})
        parameters = {"dataset": dataset} | checked(given, accepted_parameters(notebook, *FOLLOWING))
        title = table["title"].replace("{input_size}", str(Settings.of(parameters).input_size))
        found[dataset] = Experiment(name, title, notebook_for(notebook, parameters), parameters, goals=goals)
    return found


def ablations_of(recipe: Experiment, variants: Table) -> Iterator[Experiment]:
    """The ablations of an experiment on its data set, in order: a base stands before what is based on it."""
    known = {recipe.name: recipe}
    for label, table in variants.items():
        name, title = f"{recipe.name}.{label}", f"{recipe.title}, ablation: {label}"
        with within(f"ablations.toml: {name}"):
            check_label(label)
            base, given = table.get("base", ""), {key: value for key, value in table.items() if key != "base"}
            one_of("base", base, known)
            changes = checked(given, accepted_parameters(recipe.notebook, *FOLLOWING, "hold_out"))
            parameters = known[base].parameters | changes | {"hold_out": True}
            Settings.of(parameters)
        ablation, notebook = Ablation(recipe.name, label, base, changes), notebook_for(recipe.notebook, parameters)
        known[label] = Experiment(name, title, notebook, parameters, ablation=ablation)
        yield known[label]


def check_label(label: str) -> None:
    """Raise TinyclfError unless a label can be part of a run's name: a dot and a seed come after it."""
    if not NAME.fullmatch(label) or "." in label or family(label) != label:
        raise TinyclfError(f"{label!r} cannot name a run: expected letters, digits and -_=+, no seed at the end")


def notebook_for(notebook: Path, parameters: Iterable[str]) -> Path:
    """`notebook`, or that of recipes for a parameter of the recipe that is not in the visible lines of `notebook`."""
    own = notebook_parameters(notebook)
    if RUN_NAME in own and RECIPE_SETTINGS.intersection(parameters) - own.keys():
        return notebook.with_name(RECIPES_NOTEBOOK)
    return notebook
