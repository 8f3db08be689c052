"""Records of runs that nobody trained, for tests of what is made from records."""

import json

from tinyclf.experiments import catalog
from tinyclf.experiments.settings import Settings
from tinyclf.utils.paths import reports_dir

BASELINE = 15_000  # multiply-adds that the published baseline is said to take here
MACHINE = {"device": "cpu", "name": "A processor", "threads": 2, "processes": 1}


def planned(name, dataset="mini", **changes):
    """The settings of an experiment, with changes."""
    return Settings.from_notebook(catalog.read_experiments(dataset)[name].parameters | changes)


def leave(run, settings, accuracies=(0.1, 0.2), **more):
    """Write the record of a run with these validation accuracies, an epoch each; returns it."""
    history = [
        {
            "epoch": epoch,
            "learning_rate": settings.learning_rate,
            "train_loss": 4 - accuracy,
            "train_accuracy": accuracy / 2,
            "val_loss": 5 - accuracy,
            "val_accuracy": accuracy,
            "seconds": 6.2,
            "images_per_second": 100.0,
        }
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    own = 1000 * len(history)
    record = {
        "version": 2,
        "run": run,
        "command": catalog.command(run, settings),
        "overrides": catalog.overrides(run, settings),
        "settings": {name: getattr(settings, name) for name in Settings.names()},
        "data": {"name": settings.dataset, "classes": 20, "train": 360, "val": 40, "sha256": "abc"},
        "weights": {"label": "scratch", "file": None, "sha256": None},
        "compute": {"own": own, "total": own, "published_baseline": BASELINE},
        "environments": [{"commit": "0123456789abcdef", "versions": {"torch": "2"}, "hardware": MACHINE}],
        "history": history,
        "result": {"last": history[-1], "best": max(history, key=lambda row: row["val_accuracy"])},
        "evaluation": {"top1": accuracies[-1], "top5": 0.5, "loss": 5 - accuracies[-1], "calibration_error": 0.05},
        "flip_tta": None,
        "other_sizes": {},
        "seconds": 6.2 * len(history),
        "images_per_second": 100.0,
        "finished": "2026-11-25T10:00:00+00:00",
    } | more
    for metrics in filter(lambda each: each is not None, (*record["other_sizes"].values(), record["flip_tta"])):
        metrics |= record["evaluation"] | metrics  # a test may name those alone that it looks at
    folder = reports_dir() / settings.dataset / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record))
    return record


def started_from(parent, origin="scratch"):
    """`weights` of a run that started from a parent's record."""
    before = {
        "run": parent["run"],
        "epochs": len(parent["history"]),
        "settings": parent["settings"],
        "parent": parent["weights"].get("parent"),
    }
    return {"label": f"{parent['run']}, from {origin}", "file": None, "sha256": "def", "parent": before}
