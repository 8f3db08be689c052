"""The tables of one experiment's page, made from its records: curves, results, where the numbers come from."""

import dataclasses

import pandas as pd
from IPython.display import HTML
from markupsafe import Markup

from tinyclf.accuracy import duration, percent, pixels, published_at, published_row, shown
from tinyclf.commands import command
from tinyclf.html import details, link, table, two_lines
from tinyclf.names import family
from tinyclf.paths import reports_dir
from tinyclf.record import Record, read_table, settings_of
from tinyclf.settings import Settings

CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


def settings_table(settings: Settings) -> HTML:
    """All settings, those first that differ from the published recipe; the rest opens on a click."""
    recipe = dataclasses.asdict(Settings(dataset=settings.dataset))
    rows = [(name, repr(value), repr(recipe[name])) for name, value in dataclasses.asdict(settings).items()]
    columns = ["setting", "value", "published recipe"]
    changed = pd.DataFrame([row for row in rows if row[1] != row[2]], columns=columns)
    every = details(f"all {len(rows)} settings", table(pd.DataFrame(rows, columns=columns)))
    return HTML((table(changed).data if len(changed) else "<p>All as in the published recipe.</p>") + every.data)


def curve_table(name: str, runs: list[Record]) -> pd.DataFrame:
    """The history of one run, or of one for each of several seeds, over the published curve where there is one.

    Text; losses in nats; of several seeds mean and standard deviation.
    """
    epochs, row = list(zip(*(run["history"] for run in runs), strict=True)), published_row(name) or {}
    columns = {}
    for key in CURVES:
        cells = []
        for epoch in epochs:
            read_off = published_at(row, key, epoch[0]["epoch"])
            there = "" if read_off is None else f"published {shown(key, read_off)}"
            cells.append(two_lines(shown(key, *(run[key] for run in epoch)), there))
        columns[key.replace("_", " ")] = cells
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
    shown_at |= {pixels(size): values for size, values in record.get("other_sizes", {}).items()}
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


def confusions(record: Record, count: int = 10) -> pd.DataFrame:
    """The commonest confusions of a run's model on the validation images, in words."""
    classes, confusion = read_table(record, "classes.csv").set_index("wnid"), read_table(record, "confusion.csv")
    rows = [
        {
            "class": classes["words"][row["wnid"]],
            "taken for": classes["words"][row["taken for"]],
            "images": str(row["images"]),
            "of the class": percent(row["images"] / classes["images"][row["wnid"]], 0),
        }
        for _, row in confusion.sort_values("images", ascending=False, kind="stable")[:count].iterrows()
    ]
    return pd.DataFrame(rows)


def provenance(record: Record, runs: str) -> pd.DataFrame:
    """Where a record's numbers come from: command, commit, data, weights, speed, versions and hardware.

    runs: leads from the page to the folder of runs, to link the one that this one started from.
    """
    weights = record["weights"]
    parent = weights.get("parent")
    facts = {"command": command(family(record["run"]), [record], "run")}
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        facts["commit" + ", continued" * number] = environment["commit"] or "not a git checkout"
    facts["data"] = f"{record['data']['name']}, sha256 {record['data']['sha256']}"
    facts["starts from"] = weights["label"]
    if weights["file"]:
        facts["weights file"] = f"{weights['file']}, sha256 {weights['sha256']}"
    if parent:
        whose = run_link(parent["run"], record["settings"]["dataset"], runs)
        facts["weights of"] = Markup("{} after epoch {}, sha256 {}").format(whose, parent["epochs"], weights["sha256"])
    facts |= {
        "seed": str(record["settings"]["seed"]),
        "images a second": f"{record['images_per_second']:.0f}",
        "time": duration(record["seconds"]),
        "finished": record["finished"],
    }
    for number, environment in enumerate(record["environments"]):
        hardware, then = environment["hardware"], ", continued" * number
        facts[f"versions{then}"] = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        facts[f"hardware{then}"] = f"{hardware['device']}: {hardware['name']}, {hardware['threads']} threads"
        if hardware.get("processes", 1) > 1:
            facts[f"hardware{then}"] += f" in {hardware['processes']} processes"
    return pd.DataFrame(facts.items(), columns=["run", record["run"]])


def run_link(run: str, dataset: str, runs: str, text: str = "") -> Markup:
    """A link to a run on `dataset`, to its page where it has one, else to its record; `text` stands for its name.

    runs: leads from where the link stands to the folder of runs.
    """
    page = reports_dir() / dataset / run / "index.html"
    return link(text or run, f"{runs}{run}/{page.name if page.is_file() else 'record.json'}")
