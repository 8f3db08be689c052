"""Temporary: gives today's catalog the names of the one to come. Goes with the merge of branch `catalog`."""
import dataclasses
from typing import Any
from tinyclf import catalog
from tinyclf.names import family, seed_of
from tinyclf.settings import Settings


@dataclasses.dataclass(frozen=True)
class Goal:
    text: str
    accuracy: float
    epochs: int | None = None
    compute: float | None = None


def goals(name: str) -> list[Goal]:
    found = catalog.entries().get(name, {}).get("goals", [])
    return [Goal(g["text"], g["accuracy"], g.get("epochs"), g.get("arithmetic")) for g in found]


def overrides(name: str, settings: Settings) -> dict[str, Any]:
    from tinyclf.commands import changed_settings
    found = changed_settings(family(name), name, dataclasses.asdict(settings))
    return found


if not hasattr(catalog, "read_experiments"):
    catalog.read_experiments = catalog.read
    catalog.goals = goals
    catalog.Goal = Goal
    catalog.overrides = overrides
@dataclasses.dataclass(frozen=True)
class Ablation:
    recipe: str
    label: str
    base: str
    changes: dict[str, Any]


def ablation(name: str) -> Ablation | None:
    entry = catalog.entries().get(name, {})
    if "over" not in entry:
        return None
    recipe, _, label = name.partition(".")
    return Ablation(recipe, label, entry["over"], entry["changed"])


if not hasattr(catalog, "ablation"):
    catalog.ablation = ablation
