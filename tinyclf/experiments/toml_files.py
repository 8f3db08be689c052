"""experiments.toml and ablations.toml: read, checked, and resolved for each data set."""

import dataclasses
import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.names import NAME, family
from tinyclf.experiments.parameters import RUN_NAME, accepted_parameters, notebook_parameters
from tinyclf.experiments.settings import STRICT, Settings, Share, in_one_sentence
from tinyclf.utils.errors import TinyclfError, one_of, typed
from tinyclf.utils.paths import reports_dir

RECIPES_NOTEBOOK = "4_recipes.ipynb"  # builds model, loss, optimizer and schedule from the settings, whatever they are
RECIPE_SETTINGS = {
    *("model", "stem", "stem_init", "zero_init", "shallow", "label_smoothing", "ema_decay", "schedule", "warmup"),
    *("step_size", "gamma", "learning_rate", "layer_decay", "momentum", "nesterov", "weight_decay"),
}
Table = dict[str, Any]
KEYS: dict[str, type] = {
    "title": str,
    "notebook": str,
    "goals": list,
    "datasets": list,
    "parameters": dict,
}  # of experiments.toml
KEYS |= dict.fromkeys(DATASETS, dict)
WORDS: dict[type, str] = {str: "a text", list: "a list", dict: "a table"}


@dataclass(frozen=True, config=STRICT)
class Goal:
    """What an experiment is meant to reach."""

    text: str
    accuracy: Share  # at least
    epochs: Annotated[int, Field(ge=1)] | None = None  # at most
    compute: Annotated[float, Field(gt=0)] | None = None  # at most, in parts of the published baseline's training

    _in_one_sentence = model_validator(mode="wrap")(in_one_sentence)


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
    needed: bool = False  # another one starts from it, and nobody asked for it: it is run unless it has finished
    goals: tuple[Goal, ...] = ()
    ablation: Ablation | None = None  # None for an entry of experiments.toml

    @property
    def settings(self) -> Settings:
        """The settings among the parameters, the others by default. Raises TinyclfError for one out of range."""
        return Settings.from_notebook(self.parameters)

    @property
    def trains(self) -> bool:
        """Whether its notebook trains, and so leaves a record."""
        return RUN_NAME in notebook_parameters(self.notebook)

    @property
    def page_folder(self) -> Path:
        """Where its notebook.ipynb and index.html go; the summary is the front page of its data set."""
        folder: Path = reports_dir() / self.parameters["dataset"]
        return folder if self.name == "summary" else folder / self.name


@functools.lru_cache(1)
def parse_experiments(folder: Path, experiments: str, ablations: str) -> dict[str, dict[str, Experiment]]:
    """All experiments by data set and name, from the texts of the two files; folder: of the notebooks.

    Raises TinyclfError for a slip, naming file, table and key.
    """
    entries, variants = parse("experiments.toml", experiments), parse("ablations.toml", ablations)
    for name in variants:
        one_of("ablations.toml: recipe", name, entries)
    found: dict[str, dict[str, Experiment]] = {dataset: {} for dataset in DATASETS}
    for name, entry in entries.items():
        with within(f"experiments.toml: {name}"):
            check_entry(name, entry)
        for dataset in entry.get("datasets", DATASETS):
            with within(f"experiments.toml: {name}, on {dataset}"):
                recipe = resolve(folder, name, entry, dataset)
            found[dataset] |= {each.name: each for each in [recipe, *ablations_of(recipe, variants.get(name, {}))]}
    return found


def parse(file: str, text: str) -> dict[str, Table]:
    """The tables of a TOML file by name, in order."""
    with within(file):
        try:
            tables = tomllib.loads(text)
            repr(tables)  # of a hexadecimal number of thousands of digits there is none, and messages need it
        except (ValueError, RecursionError) as error:
            raise TinyclfError(str(error)) from None
        return {name: of_kind(name, table, dict) for name, table in tables.items()}


def of_kind(name: str, value: Any, kind: type) -> Any:
    """`value` if it is of a kind of TOML's, and no empty text or list, else TinyclfError."""
    if not isinstance(value, kind) or value in ("", []):
        raise TinyclfError(f"{name} = {value!r}: expected {WORDS[kind]}")
    return value


@contextmanager
def within(place: str) -> Iterator[None]:
    """Put the place before what a TinyclfError says."""
    try:
        yield
    except TinyclfError as error:
        raise TinyclfError(f"{place}: {error}") from None


def check_entry(name: str, entry: Table) -> None:
    """Raise TinyclfError for a key of experiments.toml that is unknown, missing, or of another type."""
    check_label(name)
    for key, value in entry.items():
        one_of("key", key, KEYS)
        of_kind(key, value, KEYS[key])
    for key in {"title", "notebook"} - entry.keys():
        raise TinyclfError(f"{key} is missing")
    for dataset in entry.get("datasets", []):
        one_of("datasets", of_kind("datasets", dataset, str), DATASETS)


def resolve(folder: Path, name: str, entry: Table, dataset: str) -> Experiment:
    """The experiment of an entry on a data set."""
    notebook, given = folder / entry["notebook"], entry.get("parameters", {}) | entry.get(dataset, {})
    check_types(given, notebook)
    parameters = {"dataset": dataset} | given
    title = entry["title"].replace("{input_size}", str(Settings.from_notebook(parameters).input_size))
    goals = tuple(Goal(**of_kind("goal", goal, dict)) for goal in entry.get("goals", []))
    return Experiment(name, title, notebook_for(notebook, parameters), parameters, goals=goals)


def ablations_of(recipe: Experiment, variants: Table) -> Iterator[Experiment]:
    """The ablations of an experiment on its data set, in order: a base stands before what is based on it."""
    known = {recipe.name: recipe}
    for label, table in variants.items():
        with within(f"ablations.toml: {recipe.name}.{label}, on {recipe.parameters['dataset']}"):
            check_label(label)
            if label == recipe.name:
                raise TinyclfError("expected a label other than the name of the recipe")
            base = of_kind("base", of_kind(label, table, dict).get("base"), str)
            one_of("base", base, known)
            changes = {key: value for key, value in table.items() if key != "base"}
            check_types(changes, recipe.notebook, "hold_out")
            parameters = known[base].parameters | changes | {"hold_out": True}
            Settings.from_notebook(parameters)
        name, title = f"{recipe.name}.{label}", f"{recipe.title}, ablation: {label}"
        ablation = Ablation(recipe.name, label, base, changes)
        notebook = notebook_for(recipe.notebook, parameters)
        known[label] = Experiment(name, title, notebook, parameters, ablation=ablation)
        yield known[label]


def check_label(label: str) -> None:
    """Raise TinyclfError unless a label can be part of a run's name: a dot and a seed come after it."""
    if not NAME.fullmatch(label) or "." in label or family(label) != label:
        raise TinyclfError(f"{label!r} cannot name a run: expected letters, digits and -_=+, no seed at the end")


def check_types(parameters: Mapping[str, Any], notebook: Path, *own: str) -> None:
    """Raise TinyclfError for a parameter that the notebook does not take, or takes as another type.

    Refuses `dataset` and `run_name` as well, which follow from the data set and the entry, and those in `own`.
    """
    accepted = accepted_parameters(notebook_parameters(notebook))
    names = [name for name in accepted if name not in ("dataset", RUN_NAME, *own)]
    for key, value in parameters.items():
        one_of("parameter", key, names)
        typed(key, value, accepted[key])


def notebook_for(notebook: Path, parameters: Iterable[str]) -> Path:
    """`notebook`, or that of recipes for a parameter of the recipe that is not in the visible lines of `notebook`."""
    own = notebook_parameters(notebook)
    if RUN_NAME in own and RECIPE_SETTINGS.intersection(parameters) - own.keys():
        return notebook.with_name(RECIPES_NOTEBOOK)
    return notebook
