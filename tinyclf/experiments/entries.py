"""notebooks/experiments.toml and ablations.toml: read, checked, and resolved for each data set."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.names import NAME, family
from tinyclf.experiments.parameters import RUN_NAME, accepted_parameters, notebook_parameters
from tinyclf.experiments.settings import Settings
from tinyclf.utils import schema
from tinyclf.utils.errors import TinyclfError, one_of, typed
from tinyclf.utils.paths import reports_dir

RECIPES_NOTEBOOK = "4_recipes.ipynb"  # builds model, loss, optimizer and schedule from the settings, whatever they are
RECIPE_SETTINGS = {
    *("model", "stem", "stem_init", "zero_init", "shallow", "label_smoothing", "ema_decay", "schedule", "warmup"),
    *("step_size", "gamma", "learning_rate", "layer_decay", "momentum", "nesterov", "weight_decay"),
}
DATASET: schema.Rule = (f"one of {', '.join(DATASETS)}", lambda value: value in tuple(DATASETS))
EXPERIMENT: dict[str, schema.Rule] = {
    **{"title": schema.TEXT, "notebook": schema.TEXT, "goals": schema.list_of(schema.TABLE)},
    **{"datasets": schema.list_of(DATASET), "parameters": schema.TABLE, **dict.fromkeys(DATASETS, schema.TABLE)},
}
GOAL: dict[str, schema.Rule] = {
    **{"text": schema.TEXT, "accuracy": schema.SHARE, "epochs": schema.COUNT, "compute": schema.POSITIVE}
}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What an experiment is meant to reach."""

    text: str
    accuracy: float  # at least, in 0..1
    epochs: int | None = None  # at most
    compute: float | None = None  # training compute at most, in parts of the published baseline's


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
def parse_entries(folder: Path, experiments: str, ablations: str) -> dict[str, dict[str, Experiment]]:
    """All experiments by data set and name, from the texts of the two files; folder: of the notebooks."""
    entries = schema.parse_tables("experiments.toml", experiments)
    variants = schema.parse_tables("ablations.toml", ablations)
    for name, entry in entries.items():
        check_entry(f"experiments.toml: {name}", name, entry, folder)
    for name, labels in variants.items():
        one_of("ablations.toml: name of a recipe", name, tuple(entries))
        for label, ablation in labels.items():
            where = f"ablations.toml: {name}.{label}"
            if label == name:
                raise TinyclfError(f"{where}: expected a label other than the name of the recipe")
            check_ablation(where, label, ablation, folder / entries[name]["notebook"])
    return {
        dataset: {
            experiment.name: experiment
            for name, entry in entries.items()
            if dataset in entry.get("datasets", DATASETS)
            for experiment in resolve(name, entry, variants.get(name, {}), dataset, folder)
        }
        for dataset in DATASETS
    }


def check_entry(where: str, name: str, entry: dict[str, Any], folder: Path) -> None:
    """Raise TinyclfError for a slip in an entry of experiments.toml, but for values out of range."""
    check_label(where, name)
    schema.check_table(where, entry, EXPERIMENT, ("title", "notebook"))
    try:
        notebook_parameters(folder / entry["notebook"])
    except TinyclfError as error:
        raise TinyclfError(f"{where}: notebook = {entry['notebook']!r}: {error}") from None
    for number, goal in enumerate(entry.get("goals", []), 1):
        schema.check_table(f"{where}: goals, number {number}", goal, GOAL, ("text", "accuracy"))
    for key in ("parameters", *DATASETS):
        check_types(f"{where}: {key}", entry.get(key, {}), folder / entry["notebook"])


def check_ablation(where: str, label: str, ablation: Any, notebook: Path) -> None:
    """Raise TinyclfError for a slip in an entry of ablations.toml, but for values out of range and a wrong base."""
    if not isinstance(ablation, dict):
        raise TinyclfError(f"{where} = {ablation!r}: expected a table")
    check_label(where, label)
    changes = dict(ablation)
    base = {"base": changes.pop("base")} if "base" in changes else {}
    schema.check_table(where, base, {"base": schema.TEXT}, ("base",))
    check_types(where, changes, notebook, own=("hold_out",))


def check_label(where: str, label: str) -> None:
    """Raise TinyclfError unless a label can be part of a run's name: a dot and a seed come after it."""
    if not NAME.fullmatch(label) or "." in label or family(label) != label:
        raise TinyclfError(
            f"{where}: {label!r} cannot name a run: expected letters, digits and -_=+, no seed at the end"
        )


def check_types(where: str, parameters: dict[str, Any], notebook: Path, own: tuple[str, ...] = ()) -> None:
    """Raise TinyclfError for a parameter that the notebook does not take, or takes as another type.

    Refuses `dataset` and `run_name` as well, which follow from the data set and the entry, and those in `own`.
    """
    accepted = accepted_parameters(notebook_parameters(notebook))
    for key in ("dataset", RUN_NAME, *own):
        accepted.pop(key, None)
    for key, value in parameters.items():
        one_of(f"{where}: parameter", key, tuple(accepted))
        typed(f"{where}: {key}", value, accepted[key])


def resolve(
    name: str, entry: dict[str, Any], ablations: dict[str, dict[str, Any]], dataset: str, folder: Path
) -> Iterator[Experiment]:
    """An experiment on a data set, then its ablations. Raises TinyclfError for values out of range and wrong bases."""
    parameters = {"dataset": dataset} | entry.get("parameters", {}) | entry.get(dataset, {})
    check_ranges(f"experiments.toml: {name}", parameters)
    notebook = notebook_for(folder / entry["notebook"], parameters)
    goals = tuple(Goal(**goal) for goal in entry.get("goals", []))
    title = entry["title"].replace("{input_size}", str(Settings.from_notebook(parameters).input_size))
    yield Experiment(name, title, notebook, parameters, goals=goals)
    for label in ablations:
        values = parameters | inherited(name, label, ablations) | {"hold_out": True}
        check_ranges(f"ablations.toml: {name}.{label}", values)
        changes = dict(ablations[label])
        ablation = Ablation(name, label, changes.pop("base"), changes)
        about = f"{title}, ablation: {label}"
        yield Experiment(f"{name}.{label}", about, notebook_for(notebook, values), values, ablation=ablation)


def inherited(recipe: str, label: str, ablations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All that an ablation changes of the recipe: what it changes itself, over what its base does."""
    changes: dict[str, Any] = {}
    path: list[str] = []
    while label != recipe:
        if label in path:
            raise TinyclfError(f"ablations.toml: {recipe}.{label}: base goes round in a circle: {' of '.join(path)}")
        changes = dict(ablations[label]) | changes
        base = ablations[label]["base"]
        one_of(f"ablations.toml: {recipe}.{label}: base", base, (recipe, *ablations))
        path.append(label)
        label = base
    return {key: value for key, value in changes.items() if key != "base"}


def check_ranges(where: str, parameters: dict[str, Any]) -> None:
    """Raise TinyclfError, with the file and the entry, for settings that are out of range."""
    try:
        Settings.from_notebook(parameters)
    except TinyclfError as error:
        raise TinyclfError(f"{where}, on {parameters['dataset']}: {error}") from None


def notebook_for(notebook: Path, parameters: Iterable[str]) -> Path:
    """`notebook`, or that of recipes for a parameter of the recipe that is not in the visible lines of `notebook`."""
    own = notebook_parameters(notebook)
    if RUN_NAME in own and RECIPE_SETTINGS.intersection(parameters) - own.keys():
        return notebook.with_name(RECIPES_NOTEBOOK)
    return notebook
