"""The accuracy table, made from records and published numbers alone."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from tinyclf import experiments
from tinyclf.records import Record, read_records
from tinyclf.settings import Settings, one_of

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "published.toml").read_text())
OURS = ("published, same epoch", "ours last", "ours best", "epochs", "starts from", "minutes")
NOT_RUN = "not run"
CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


def published_row(name: str) -> dict[str, Any] | None:
    """The published row that an experiment reproduces; None for a run that is none or has none."""
    row = experiments.entries().get(name, {}).get("row")
    if row:
        one_of(f"row of {name}", row, tuple(PUBLISHED))
    return PUBLISHED.get(row)


def published_at(row: dict[str, Any], curve: str, epoch: int) -> float | None:
    """A published curve's value at an epoch; None where none could be read off the figure."""
    return dict(zip(row["curve_epochs"], row[curve], strict=True)).get(epoch)


def accuracy_table(dataset: str) -> pd.DataFrame:
    """Validation accuracy, top-1: published beside ours, a row for each experiment that has a published row.

    Every number of ours comes from a record under `reports/<dataset>/`; what was not run says so.
    """
    records = read_records(dataset)
    rows = []
    for name in experiments.entries():
        published = published_row(name)
        if published:
            record = records.get(name)
            changed = changes(name, record) if record else ""
            rows.append(published_cells(name + changed, published) | our_cells(record, published))
    return pd.DataFrame(rows)


def changes(name: str, record: Record) -> str:
    """What a record's settings have other than the experiment of its name, but for its length; empty if nothing."""
    settings = record["settings"]
    experiment = experiments.read(settings["dataset"])[name].parameters
    expected = dataclasses.asdict(Settings.from_notebook(experiment))
    if expected["weights"] in ("imagenet", "mini") and settings["weights"] != "none":
        expected["weights"] = settings["weights"]  # a stand-in, and labelled so
    changed = [f"{key} = {value}" for key, value in settings.items() if key != "epochs" and value != expected.get(key)]
    return f", changed: {', '.join(changed)}" if changed else ""


def published_cells(name: str, published: dict[str, Any]) -> dict[str, str]:
    return {
        "experiment": name,
        "README": percent(published["readme"], 1),
        "published last": percent(published["last"]),
        "published best": percent(published["best"]),
    }


def our_cells(record: Record | None, published: dict[str, Any]) -> dict[str, str]:
    if record is None:
        return dict.fromkeys(OURS, NOT_RUN)
    last, best = record["result"]["last"], record["result"]["best"]
    then = published_at(published, "val_accuracy", last["epoch"])
    cells = (
        "" if then is None else percent(then),
        percent(last["val_accuracy"]),
        percent(best["val_accuracy"]),
        f"{last['epoch']} of {published['epochs']}",
        record["weights"]["label"],
        f"{record['seconds'] / 60:.1f}",
    )
    return dict(zip(OURS, cells, strict=True))


def curve_table(name: str, record: Record) -> pd.DataFrame:
    """One run's history, beside the published curve where there is one: text, losses in nats."""
    epochs, row = record["history"], published_row(name)
    columns = {}
    for key in CURVES:
        columns[key.replace("_", " ")] = [shown(key, epoch[key]) for epoch in epochs]
        if row:
            read_off = (published_at(row, key, epoch["epoch"]) for epoch in epochs)
            columns[f"{key.replace('_', ' ')}, published"] = [shown(key, value) for value in read_off]
    return pd.DataFrame(columns, index=pd.Index([epoch["epoch"] for epoch in epochs], name="epoch"))


def result_table(record: Record) -> pd.DataFrame:
    """The last and the best epoch of one run: text, losses in nats."""
    rows = {which: record["result"][which] for which in ("last", "best")}
    cells = {
        which: {"epoch": str(row["epoch"])} | {key.replace("_", " "): shown(key, row[key]) for key in CURVES}
        for which, row in rows.items()
    }
    return pd.DataFrame.from_dict(cells, orient="index")


def shown(key: str, value: float | None) -> str:
    """A value of a history as text: accuracies in per cent, losses with three digits, nothing for None."""
    if value is None:
        return ""
    return percent(value) if "accuracy" in key else f"{value:.3f}"


def provenance(record: Record) -> pd.DataFrame:
    """Where a record's numbers come from, as text: data, weights, speed, commit, versions and hardware."""
    facts = {
        "data": f"{record['data']['name']}, sha256 {record['data']['sha256']}",
        "starts from": record["weights"]["label"],
        "weights file": f"{record['weights']['file']}, sha256 {record['weights']['sha256']}",
        "seed": record["settings"]["seed"],
        "images a second": f"{record['images_per_second']:.0f}",
        "minutes": f"{record['seconds'] / 60:.1f}",
        "finished": record["finished"],
    }
    if record["weights"]["file"] is None:
        del facts["weights file"]
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        hardware, then = environment["hardware"], ", continued" * number
        facts[f"commit{then}"] = environment["commit"] or "not a git checkout"
        facts[f"versions{then}"] = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        facts[f"hardware{then}"] = f"{hardware['device']}: {hardware['name']}, {hardware['threads']} threads"
    return pd.DataFrame(facts.items(), columns=["run", record["run"]])


def report(dataset: str) -> str:
    """The accuracy table with what a reader must know of it, in Markdown."""
    sentences = [
        "Validation accuracy, top-1. The best epoch is chosen on the split that it is reported on; the last is not.",
        "Published, same epoch, is the published curve at our last epoch, read off a figure.",
    ]
    notes = stand_ins(dataset, read_records(dataset), "../..")
    return "\n\n".join([markdown(accuracy_table(dataset)), *sentences, *notes])


def stand_ins(dataset: str, records: dict[str, Record], project: str) -> list[str]:
    """What stands in for what in these records, a sentence each; `project` leads from the page to the README."""
    if dataset == "mini":
        return [
            "`mini` is a stand-in for both: a small drawn data set instead of Tiny-ImageNet, and weights trained on "
            "other drawn classes instead of ImageNet's. Its numbers show that the path works, and compare with no "
            "published one."
        ]
    labels = {record["weights"]["label"] for record in records.values() if "stand-in" in record["weights"]["label"]}
    return [
        f"{label}: these are not torchvision's ImageNet weights; what they are says "
        f"[README.md]({project}/README.md#stand-in-weights)."
        for label in sorted(labels)
    ]


def markdown(table: pd.DataFrame) -> str:
    """A table of text in Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f}\u00a0%"  # a space that does not break
