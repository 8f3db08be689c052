"""The page of one run, made from its record: result, curves, confusions, and where the numbers come from."""

import dataclasses
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import HTML, Markdown, display
from markupsafe import Markup, escape

from tinyclf.data.registry import dataset_info
from tinyclf.experiments import catalog
from tinyclf.experiments.names import family, run_folder
from tinyclf.experiments.record import SCRIPT, Record, table_path
from tinyclf.experiments.settings import Settings, default_name
from tinyclf.report import evaluation
from tinyclf.report.accuracy import NOTES, dataset_note
from tinyclf.report.figures import SPLITS, Line, curves, show
from tinyclf.report.format import Column, assignments, duration, format_metric, hardware, percent, percent_range
from tinyclf.report.html import PIECES, Table, details, link, small_lines, table, verdict_mark
from tinyclf.report.runs import group_seeds, history_frame, own_code, published, published_curve, read_runs, run_title
from tinyclf.report.verdict import interval, verdict

if TYPE_CHECKING:  # a page needs no torch
    from tinyclf.data.cache import Packed

HEADLINE, CURVES = "headline", ("curve-accuracy", "curve-loss")  # identify the outputs that `show_title` makes room for
METRICS = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")

ON_A_GPU = ("cuda", "cudnn", "driver")  # versions that older records lack


def heading(title: str, dataset: str) -> Markdown:
    """The heading of a page: its title, which is text whatever is in it, and its data set."""
    return Markdown(f"# {escape(f'{title}, on {dataset_info(dataset).title}')}")


def show_title(settings: Settings, run_name: str) -> None:
    """Display which run a page is of; `show_headline(record, update=True)` puts result and curves under it later."""
    title = run_title(run_name or default_name(settings), settings.dataset)
    display(heading(title, settings.dataset), display_id=HEADLINE)
    for name in CURVES:
        display(HTML(""), display_id=name)


def show_headline(record: Record, *, update: bool = False) -> None:
    """Display which run it is, its result in one line, and its curves; `update`: where `show_title` made room."""
    dataset, run, history = record["settings"]["dataset"], record["run"], history_frame(record)
    title = run_title(run, dataset, record)
    text = Markdown(f"{heading(title, dataset).data}\n\n{headline(record)}")
    display(text, display_id=HEADLINE if update else None, update=update)
    for name, metric in zip(CURVES, ("accuracy", "loss"), strict=True):
        lines = [Line(SPLITS[split], run, history, split) for split in SPLITS]
        show(curves(lines, metric, title), display_id=name if update else None)


def headline(record: Record) -> str:
    """The result of a run in one line, with the interval that so many images allow; then what its data set is."""
    settings, result, epochs = record["settings"], record["evaluation"]["top1"], len(record["history"])
    run, dataset = record["run"], settings["dataset"]
    row, note = published(run, dataset), dataset_note(dataset)
    extent = percent_range(*interval(result, record["data"]["val"]))
    held_out = " on held-out images" * settings["hold_out"]
    judged = verdict(run, dataset, result, epochs, settings["epochs"])
    facts = [
        Markup("<strong>{} top-1</strong>{} (95% interval {})").format(percent(result), held_out, extent),
        "own code" * own_code(record),
        seeds_of(record),
        f"published {percent(row['last'])}" if row else "",
        Markup("<strong>{}</strong>").format(verdict_mark(*judged)) if judged.text else "",
        "" if "epochs" in judged.text else f"{epochs} epoch{'s' * (epochs != 1)}",
        duration(record["seconds"]),
    ]
    line = Markup('<p class="answer result">{}</p>').format(Markup(" · ").join(filter(None, facts)))
    return f'{line}\n\n<div class="banner">\n\n{note}\n\n</div>' if note else line


def seeds_of(record: Record) -> str:
    """The seed of a run that has others beside it, of how many, and their mean; empty for one alone."""
    for row in group_seeds(read_runs(record["settings"]["dataset"])):
        if record["run"] in row["runs"] and row["seeds"] > 1:
            mean = format_metric("accuracy", row["accuracy"], row["accuracy_std"])
            return f"seed {record['settings']['seed']} of {row['seeds']}, whose mean is {mean}"
    return ""


def show_confusions(record: Record) -> None:
    """Display the confusion matrix and the commonest confusions, where the run has a table of them."""
    if table_path(record, "confusion.csv").is_file():
        show(evaluation.heat_map(record))
        display(evaluation.commonest(record))


def show_classes(record: Record) -> None:
    """Display the accuracy of every class, where the run has a table of it."""
    if table_path(record, "classes.csv").is_file():
        display(evaluation.class_table(record))


def show_mistakes(record: Record, data: "Packed", samples: bool = False) -> None:
    """Display the most confident mistakes as images, where these may be shown, or where `samples` asks for it."""
    if samples or dataset_info(record["settings"]["dataset"]).synthetic:
        display(evaluation.mistakes(record, data.val.images))


def show_evaluation(record: Record) -> None:
    """Display what the model of the last epoch reaches on the validation images, and how far to trust it."""
    display(evaluation.evaluation_table(record))
    if table_path(record, "reliability.csv").is_file():
        show(evaluation.reliability(record))


def show_history(record: Record) -> None:
    """Display the epochs of a run, and which was the best."""
    display(history_table(record))
    best = record["result"]["best"]
    if best["epoch"] != len(record["history"]):
        text = f"The best epoch is epoch {best['epoch']} with {percent(best['val_accuracy'])}. It is chosen on the very"
        display(Markdown(f"{text} images that it is reported on, so it flatters."))


def history_table(record: Record) -> Table:
    """The epochs of a run, with the published numbers below its own."""

    def column(key: str) -> Column:
        then = published_curve(record["run"], record["settings"]["dataset"], key)
        notes = {epoch: f"published {format_metric(key, value)}" for epoch, value in then.items()}
        title = key.replace("_", " ")
        return Column(title, lambda row: small_lines(format_metric(key, row[key]), notes.get(row["epoch"], "")))

    return table(history_frame(record), [Column("epoch", lambda row: str(row["epoch"])), *map(column, METRICS)])


def settings_table(settings: Settings, run_name: str = "") -> HTML:
    """All settings, those first that differ from the published recipe, or from the defaults where there is none.

    run_name: of the run; what was published is known of experiments, by their names.
    """
    name, recipe, told = run_name or default_name(settings), Settings(dataset=settings.dataset), "default"
    if published(name, settings.dataset):
        recipe, told = catalog.read_experiments(settings.dataset)[family(name)].settings, "published recipe"
    columns = {"value": dataclasses.asdict(settings), told: dataclasses.asdict(recipe)}
    rows = pd.DataFrame(columns, dtype=object).map(repr).rename_axis("setting")
    differ = rows[rows["value"] != rows[told]]
    first = Markup(f"<p>No setting differs from the {told}.</p>") if differ.empty else table(differ).data
    return HTML(first + details(f"all {len(rows)} settings", table(rows)).data)


def show_provenance(record: Record) -> None:
    """Display where a run's numbers come from, and what a reader must know of its weights."""
    display(provenance(record))
    if "stand-in" in record["weights"]["label"] and not dataset_info(record["settings"]["dataset"]).synthetic:
        display(Markdown(NOTES["stand_in"]))
    if own_code(record) and (texts := record.get("identity")):
        told = "\n\n".join(f"{part}: {text}" for part, text in texts.items() if text)
        display(details("all that was trained", HTML(PIECES.commands(told))))


def provenance(record: Record) -> Table:
    """Where a record's numbers come from, with a link from its page to that of its parent."""
    settings, weights, compute, data = (record[key] for key in ("settings", "weights", "compute", "data"))
    total, baseline = (
        "unknown" if compute[of] is None else f"{compute[of]:.3e}" for of in ("total", "published_baseline")
    )
    code, parent = table_path(record, SCRIPT).is_file(), weights.get("parent")
    page = parent and run_link(parent["run"], settings["dataset"], "../")
    facts: dict[str, Any] = {
        "command": record["command"] or "none: own code",
        "settings that differ": assignments(record["overrides"]),
        **record.get("recipe", {}),
        "data": f"{data['name']}, sha256 {data['sha256']}",
        "starts from": weights["label"],
        "code": link(SCRIPT, SCRIPT) if code else "",
        "weights file": f"{weights['file']}, sha256 {weights['sha256']}" if weights["file"] else "",
        "weights of": parent
        and Markup("{} after epoch {}, sha256 {}").format(page, parent["epochs"], weights["sha256"]),
        "seed": str(settings["seed"]),
        "images a second": f"{record['images_per_second']:.0f}",
        "training compute": f"{total} multiply-adds, ancestors included; the published baseline takes {baseline}",
        "time": duration(record["seconds"]),
        "finished": record["finished"],
    }
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        suffix, machine = ", continued" * (number > 0), environment["hardware"]
        facts[f"commit{suffix}"] = environment["commit"] or "not a git checkout"
        lacking = dict.fromkeys(ON_A_GPU if machine["device"] == "cuda" else (), "not recorded")
        facts[f"versions{suffix}"] = ", ".join(map(" ".join, (lacking | environment["versions"]).items()))
        facts[f"hardware{suffix}"] = f"{machine['device']}: {hardware([machine])}"
    return table(pd.DataFrame([fact for fact in facts.items() if fact[1]], columns=["run", record["run"]]))


def run_link(run: str, dataset: str, runs: str, text: str = "") -> Markup:
    """A link to a run on `dataset`, to its page where it has one, else to its record; `text` stands for its name.

    runs: leads from where the link is to the folder of runs.
    """
    page = run_folder(run, dataset) / "index.html"
    return Markup(link(text or run, f"{runs}{run}/{page.name if page.is_file() else 'record.json'}"))
