"""The page of one run, made from its record: result, curves, confusions, and where the numbers come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from IPython.display import HTML, Markdown, display
from markupsafe import Markup

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.names import family, seed_of
from tinyclf.experiments.record import RECIPE, Record, read_records, table_path
from tinyclf.experiments.settings import Settings, default_name
from tinyclf.report import evaluation
from tinyclf.report.accuracy import data_notes
from tinyclf.report.figures import SPLITS, Line, curves, show
from tinyclf.report.format import Column, assignments, duration, format_metric, hardware, percent, percent_range, pixels
from tinyclf.report.html import Table, details, link, small_lines, table, verdict_mark
from tinyclf.report.runs import history_frame, published, published_curve, start_of
from tinyclf.report.verdict import interval, verdict
from tinyclf.utils.environment import public_origin
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.lazy import pd
from tinyclf.utils.paths import NOTEBOOKS, reports_dir

if TYPE_CHECKING:
    from tinyclf.data.cache import Packed

HEADLINE, CURVES = "headline", ("curve-accuracy", "curve-loss")  # identify the outputs that `show_title` makes room for
METRICS = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
EVALUATION = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "loss": "loss"} | {
    "calibration_error": "expected calibration error"
}


def run_pages(names: list[str], dataset: str) -> list[Experiment]:
    """The pages of runs, to be made from their records. Raises TinyclfError for a run that has none."""
    records, titles, notebook = read_records(dataset), catalog.read_experiments(dataset), NOTEBOOKS / "7_run.ipynb"
    for name in names:
        one_of(f"run on {dataset}", name, records)
    return [
        Experiment(name, run_title(name, titles), notebook, {"dataset": dataset, "run_name": name}) for name in names
    ]


def comparison(names: list[str], dataset: str) -> Experiment:
    """The page that compares runs, each once. Raises TinyclfError for one without a record, and for fewer than two."""
    names, records = list(dict.fromkeys(names)), read_records(dataset)
    if len(names) < 2:
        known = ", ".join(records) or "none"
        raise TinyclfError(f"nothing to compare: name two runs on {dataset} or more of {known}")
    for name in names:
        one_of(f"run on {dataset}", name, records)
    title = f"Comparison of {', '.join(names[:-1])} and {names[-1]}"
    parameters = {"dataset": dataset, "runs": " ".join(names)}
    return Experiment(f"compare-{'-'.join(names)}"[:100], title, NOTEBOOKS / "8_compare.ipynb", parameters)


def run_title(run: str, experiments: Mapping[str, Experiment]) -> str:
    """The title of a run in words: that of its experiment, with its seed, or its own name where it is of none."""
    experiment, seed = experiments.get(family(run)), seed_of(run)
    return run if experiment is None else experiment.title + ("" if seed is None else f", seed {seed}")


def heading(run: str, dataset: str) -> Markdown:
    """The heading of a run's page: its title and its data set."""
    return Markdown(f"# {run_title(run, catalog.read_experiments(dataset))}, on {DATASETS[dataset].title}")


def show_title(settings: Settings, run_name: str) -> None:
    """Display which run a page is of; `show_headline(record, update=True)` puts result and curves under it later."""
    display(heading(run_name or default_name(settings), settings.dataset), display_id=HEADLINE)
    for name in CURVES:
        display(HTML(""), display_id=name)


def show_headline(record: Record, *, update: bool = False) -> None:
    """Display which run it is, its result in one line, and its curves; `update`: where `show_title` made room."""
    title = heading(record["run"], record["settings"]["dataset"]).data
    display(Markdown(f"{title}\n\n{headline(record)}"), display_id=HEADLINE if update else None, update=update)
    run, history = record["run"], history_frame(record)
    for name, metric in zip(CURVES, ("accuracy", "loss"), strict=True):
        lines = [Line(SPLITS[split], run, history, split) for split in SPLITS]
        described = curves(lines, metric, f"{run} on {record['settings']['dataset']}")
        show(described, display_id=name if update else None)


def headline(record: Record) -> str:
    """The result of a run in one line, with the interval that so many images allow; then what its data set is."""
    settings, result, epochs = record["settings"], record["evaluation"]["top1"], len(record["history"])
    run, dataset = record["run"], settings["dataset"]
    row, note = published(run, dataset), DATASETS[dataset].note
    extent = percent_range(*interval(result, record["data"]["val"]))
    held_out = " on held-out images" * settings["hold_out"]
    judged = verdict(run, dataset, result, epochs, settings["epochs"])
    facts = [
        Markup("<strong>{} top-1</strong>{} (95% interval {})").format(percent(result), held_out, extent),
        f"published {percent(row['last'])}" if row else "",
        Markup("<strong>{}</strong>").format(verdict_mark(*judged)) if judged.text else "",
        "" if "epochs" in judged.text else f"{epochs} epoch{'s' * (epochs != 1)}",
        duration(record["seconds"]),
    ]
    line = Markup('<p class="answer result">{}</p>').format(Markup(" · ").join(filter(None, facts)))
    return f'{line}\n\n<div class="banner">\n\n{note}\n\n</div>' if note else line


def show_confusions(record: Record) -> None:
    """Display the confusion matrix and the commonest confusions, where the run has a table of them."""
    if table_path(record, "confusion.csv").is_file():
        show(evaluation.heat_map(record))
        display(evaluation.commonest(record))


def show_classes(record: Record) -> None:
    """Display the accuracy of every class, where the run has a table of it."""
    if table_path(record, "classes.csv").is_file():
        display(evaluation.class_table(record))


def show_mistakes(record: Record, data: Packed, samples: bool = False) -> None:
    """Display the most confident mistakes as images, where these may be shown, or where `samples` asks for it."""
    if samples or DATASETS[record["settings"]["dataset"]].synthetic:
        display(evaluation.mistakes(record, data.val.images))


def show_evaluation(record: Record) -> None:
    """Display what the model of the last epoch reaches on the validation images, and how far to trust it."""
    display(evaluation_table(record))
    if table_path(record, "reliability.csv").is_file():
        show(evaluation.reliability(record))


def evaluation_table(record: Record) -> Table:
    """The metrics of the model of the last epoch: at the size of its training, with flip TTA, at other sizes.

    The accuracy at one size alone is that of the headline, and left out.
    """
    own = pixels(record["settings"]["input_size"])
    results = {own: record["evaluation"]} | ({f"{own}, flip TTA": record["flip_tta"]} if record["flip_tta"] else {})
    results |= {pixels(size): result for size, result in record["other_sizes"].items()}
    rows = pd.DataFrame(results).rename_axis("key").reset_index()
    rows = rows[rows["key"].isin(list(EVALUATION)[len(results) == 1 :])]

    def column(name: str) -> Column:
        return Column(f"validation, {name}", lambda row: format_metric(row["key"], row[name]))

    return table(rows, [Column("", lambda row: EVALUATION[row["key"]], number=False), *map(column, results)])


def show_history(record: Record) -> None:
    """Display the epochs of a run, and which was the best."""
    display(history_table(record))
    best = record["result"]["best"]
    if best["epoch"] != len(record["history"]):
        accuracy = format_metric("val_accuracy", best["val_accuracy"])
        text = f"The best epoch is epoch {best['epoch']} with {accuracy}. It is chosen on the very images that it is "
        display(Markdown(f"{text}reported on, so it flatters."))


def history_table(record: Record) -> Table:
    """The epochs of a run, with the published numbers below its own."""

    def column(key: str) -> Column:
        then = published_curve(record["run"], record["settings"]["dataset"], key)
        notes = {epoch: f"published {format_metric(key, value)}" for epoch, value in then.items()}
        title = key.replace("_", " ")
        return Column(title, lambda row: small_lines(format_metric(key, row[key]), notes.get(row["epoch"], "")))

    return table(history_frame(record), [Column("epoch", lambda row: str(row["epoch"])), *map(column, METRICS)])


def settings_table(settings: Settings) -> HTML:
    """All settings, those first that differ from the published recipe; the rest opens on a click."""
    recipe, values = Settings(dataset=settings.dataset), dataclasses.asdict(settings)
    rows = pd.DataFrame({"value": values, "published recipe": dataclasses.asdict(recipe)}, dtype=object).map(repr)
    rows, differs = rows.rename_axis("setting"), rows["value"] != rows["published recipe"]
    first = table(rows[differs]).data if differs.any() else Markup("<p>All as in the published recipe.</p>")
    return HTML(first + details(f"all {len(rows)} settings", table(rows)).data)


def show_provenance(record: Record) -> None:
    """Display where a run's numbers come from, and what a reader must know of its weights."""
    display(provenance(record, "../"))
    dataset = record["settings"]["dataset"]
    notes = [n for n in data_notes(dataset, [start_of(record)], "../../..") if n != DATASETS[dataset].note]
    if notes:
        display(Markdown("\n\n".join(notes)))


def provenance(record: Record, runs: str) -> Table:
    """Where a record's numbers come from. runs: leads from the page to the folder of runs, to link a parent."""
    weights, compute, recipe, data = record["weights"], record["compute"], record.get("recipe") or {}, record["data"]
    facts = {"command": record["command"], "settings that differ": assignments(record["overrides"])}
    facts |= {key: recipe.get(key) for key in RECIPE}
    facts |= {"data": f"{data['name']}, sha256 {data['sha256']}", "starts from": weights["label"]}
    if weights["file"]:
        facts["weights file"] = f"{weights['file']}, sha256 {weights['sha256']}"
    if parent := weights.get("parent"):
        whose = run_link(parent["run"], record["settings"]["dataset"], runs)
        facts["weights of"] = Markup("{} after epoch {}, sha256 {}").format(whose, parent["epochs"], weights["sha256"])
    facts |= {
        "seed": str(record["settings"]["seed"]),
        "images a second": f"{record['images_per_second']:.0f}",
        "training compute": f"{compute['total']:.3e} multiply-adds, ancestors included; the published baseline takes "
        f"{compute['published_baseline']:.3e}",
        "time": duration(record["seconds"]),
        "finished": record["finished"],
    }
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        suffix, machine = ", continued" * (number > 0), environment["hardware"]
        facts[f"commit{suffix}"] = commit_link(environment["commit"])
        facts[f"versions{suffix}"] = ", ".join(map(" ".join, environment["versions"].items()))
        facts[f"hardware{suffix}"] = f"{machine['device']}: {hardware([machine])}"
    return table(pd.DataFrame([fact for fact in facts.items() if fact[1]], columns=["run", record["run"]]))


def commit_link(commit: str | None) -> str:
    """A commit in full, linked to the forge that this checkout comes from, where that is known."""
    if commit is None:
        return "not a git checkout"
    origin = public_origin()
    return link(commit, f"{origin}/commit/{commit.removesuffix('-dirty')}") if origin else commit


def run_link(run: str, dataset: str, runs: str, text: str = "") -> Markup:
    """A link to a run on `dataset`, to its page where it has one, else to its record; `text` stands for its name.

    runs: leads from where the link is to the folder of runs.
    """
    page = reports_dir() / dataset / run / "index.html"
    return link(text or run, f"{runs}{run}/{page.name if page.is_file() else 'record.json'}")
