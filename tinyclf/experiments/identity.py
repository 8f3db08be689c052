"""What a run is: settings, data, initial weights and recipe; and the differences between two runs."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from tinyclf.data.cache import Packed
from tinyclf.experiments import catalog
from tinyclf.experiments.settings import BEFORE, Settings
from tinyclf.models.choices import is_file
from tinyclf.training.describe import differences

MAY_CHANGE = ("epochs", "weights", "adapt", "eval_size", "flip_tta")  # of a run that goes on; weights by their sha256


def identity(name: str, settings: Settings, data: Packed, weights: dict[str, Any]) -> dict[str, Any]:
    """What a run is when it starts, as its checkpoint and its record keep it; `Run.fit` adds recipe and compute.

    weights: as `describe_initial_weights` gives them.
    """
    recorded = dataclasses.replace(settings, weights=Path(settings.weights).name)  # without folders of this machine
    return {
        "command": catalog.command(name, recorded, stand_in(weights)),
        "overrides": catalog.overrides(name, recorded),
        "settings": dataclasses.asdict(recorded),
        "data": {
            "name": data.name,
            "classes": len(data.classes),
            "train": len(data.train.labels),
            "val": len(data.val.labels),
            "sha256": data.fingerprint,
        },
        "weights": weights,
        "classes": dict(zip(data.classes, data.class_names, strict=True)),
        "environments": [],
        "history": [],
    }


def stand_in(weights: dict[str, Any]) -> str:
    """The file of weights that the first ancestor of a run started from; empty without one."""
    origin, parent = "", weights.get("parent")
    while parent:
        origin, parent = parent["settings"]["weights"], parent["parent"]
    return origin if is_file(origin) else ""


def identity_differences(before: dict[str, Any], now: dict[str, Any], settings: Settings) -> list[str]:
    """The differences between the run of a checkpoint and this one, `now`, that keep this one from continuing it."""
    done = len(before["history"])
    old = dataclasses.asdict(Settings()) | BEFORE | before["settings"]  # a newer setting than the run had its default
    new = {name: value for name, value in now["settings"].items() if name not in MAY_CHANGE}
    changed = [f"{name}: {old[name]!r} before, {value!r} now" for name, value in new.items() if value != old[name]]
    changed += [
        f"{part}: {origin(before[part])} before, {origin(now[part])} now"
        for part in ("data", "weights")
        if before[part]["sha256"] != now[part]["sha256"]
    ]
    if done > settings.epochs or (settings.planned and old["epochs"] != settings.epochs):
        changed.append(f"epochs: {old['epochs'] if settings.planned else done} before, {settings.epochs} now")
    changed = changed or differences(before.get("recipe", {}), now.get("recipe", {}))
    pairs = zip(before.get("layers", "").splitlines(), now.get("layers", "").splitlines(), strict=False)
    others = [f"layers: {old.strip()} before, {new.strip()} now" for old, new in pairs if old != new]
    return changed or others[:1]


def origin(part: dict[str, Any]) -> str:
    """Data or weights in words, to tell them from others."""
    parent = part.get("parent")
    text = f"{parent['run']} after epoch {parent['epochs']}, " if parent else ""
    return f"{text}sha256 {part['sha256']}"


def default_name(settings: Settings) -> str:
    """A name from what differs from the published recipe, `weights-imagenet-epochs-3`, or `published-recipe`."""
    recipe = dataclasses.asdict(Settings(dataset=settings.dataset))
    parts = [
        f"{name}-{Path(value).stem if isinstance(value, str) else value}"
        for name, value in dataclasses.asdict(settings).items()
        if value != recipe[name]
    ]
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts), flags=re.ASCII)[:100] or "published-recipe"
