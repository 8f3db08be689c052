"""The tables of one experiment's page, made from its records: curves, results, where the numbers come from."""

import pandas as pd

from tinyclf.paths import reports_dir
from tinyclf.records import Record
from tinyclf.tables import percent, pixels, published_at, published_row, settings_of, shown

CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


def curve_table(name: str, runs: list[Record]) -> pd.DataFrame:
    """The history of one run, or of one for each of several seeds, beside the published curve where there is one.

    Text; losses in nats; of several seeds mean and standard deviation.
    """
    epochs, row = list(zip(*(run["history"] for run in runs), strict=True)), published_row(name)
    columns = {}
    for key in CURVES:
        columns[key.replace("_", " ")] = [shown(key, *(run[key] for run in epoch)) for epoch in epochs]
        if row and key in row:
            read_off = [published_at(row, key, epoch[0]["epoch"]) for epoch in epochs]
            texts = ["" if value is None else shown(key, value) for value in read_off]
            columns[f"{key.replace('_', ' ')}, published"] = texts
    return pd.DataFrame(columns, index=pd.Index([epoch[0]["epoch"] for epoch in epochs], name="epoch"))


def result_table(record: Record) -> pd.DataFrame:
    """The last and the best epoch of one run: text, losses in nats."""
    rows = {which: record["result"][which] for which in ("last", "best")}
    cells = {
        which: {"epoch": str(row["epoch"])} | {key.replace("_", " "): shown(key, row[key]) for key in CURVES}
        for which, row in rows.items()
    }
    return pd.DataFrame.from_dict(cells, orient="index")


def evaluation_table(record: Record) -> pd.DataFrame:
    """What the model of the last epoch is worth on the validation images, as text; the loss in nats.

    A column for each size that they were shown at: first the one that the model was trained for; and for what it is
    worth there on each image together with its mirror image.
    """
    own = pixels(settings_of(record).input_size)
    shown_at = {own: record["evaluation"]}
    if record.get("mirrored"):
        shown_at[f"{own}, mirrored too"] = record["mirrored"]
    shown_at |= {pixels(size): values for size, values in record.get("at_other_sizes", {}).items()}
    columns = {
        f"validation, at {where}": {
            "top-1 accuracy": percent(values["top1"]),
            "top-5 accuracy": percent(values["top5"]),
            "loss": f"{values['loss']:.3f}",
            "expected calibration error": percent(values["calibration_error"]),
        }
        for where, values in shown_at.items()
    }
    return pd.DataFrame(columns)


def provenance(record: Record, runs: str) -> pd.DataFrame:
    """Where a record's numbers come from, as Markdown: data, weights, speed, commit, versions and hardware.

    runs: leads from the page to the folder of runs, to link the one that this one started from.
    """
    weights = record["weights"]
    parent = weights.get("parent")
    facts = {
        "data": f"{record['data']['name']}, sha256 {record['data']['sha256']}",
        "starts from": weights["label"],
        "weights file": f"{weights['file']}, sha256 {weights['sha256']}",
        "weights of": parent
        and f"{link(parent['run'], record, runs)} after epoch {parent['epochs']}, sha256 {weights['sha256']}",
        "seed": record["settings"]["seed"],
        "images a second": f"{record['images_per_second']:.0f}",
        "minutes": f"{record['seconds'] / 60:.1f}",
        "finished": record["finished"],
    }
    if weights["file"] is None:
        del facts["weights file"]
    if not parent:
        del facts["weights of"]
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        hardware, then = environment["hardware"], ", continued" * number
        facts[f"commit{then}"] = environment["commit"] or "not a git checkout"
        facts[f"versions{then}"] = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        facts[f"hardware{then}"] = f"{hardware['device']}: {hardware['name']}, {hardware['threads']} threads"
        if hardware.get("processes", 1) > 1:
            facts[f"hardware{then}"] += f" in {hardware['processes']} processes"
    return pd.DataFrame(facts.items(), columns=["run", record["run"]])


def link(run: str, record: Record, runs: str) -> str:
    """A link to another run on the data set of `record`, to its page where it has one, else to its record."""
    page = reports_dir() / record["settings"]["dataset"] / run / "index.html"
    return f"[{run}]({runs}{run}/{page.name if page.is_file() else 'record.json'})"
