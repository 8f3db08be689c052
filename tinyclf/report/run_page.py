"""The page of one run, made from its record: result, curves, confusions, and where the numbers come from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from IPython.display import HTML, Markdown, display
from markupsafe import Markup

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.record import RECIPE, Record, read_records, table_path
from tinyclf.experiments.run import default_name
from tinyclf.experiments.settings import Settings
from tinyclf.report import widgets
from tinyclf.report.accuracy import data_notes
from tinyclf.report.evaluation import class_table, commonest, heat_map, reliability
from tinyclf.report.figures import experiment_curves, show
from tinyclf.report.format import Column, assignments, duration, format_metric, hardware, percent, percent_range, pixels
from tinyclf.report.html import Table, details, link, small_lines, table, verdict_mark
from tinyclf.report.navigation import run_title
from tinyclf.report.runs import history_frame, published, published_curve, start_of
from tinyclf.report.verdict import interval, verdict
from tinyclf.utils.environment import public_origin
from tinyclf.utils.errors import one_of
from tinyclf.utils.lazy import pd
from tinyclf.utils.paths import NOTEBOOKS, reports_dir

if TYPE_CHECKING:
    from tinyclf.data.cache import Packed

HEADLINE = "headline"  # identifies the output of a notebook that has title and result
CURVES = ("curve-accuracy", "curve-loss")  # ... and those that have the curves
METRICS = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
EVALUATION = {
    "top-1 accuracy": "top1",
    "top-5 accuracy": "top5",
    "loss": "loss",
    "expected calibration error": "calibration_error",
}


def run_pages(names: list[str], dataset: str) -> list[Experiment]:
    """The pages of runs, to be made from their records. Raises TinyclfError for a run that has none."""
    one_of("dataset", dataset, DATASETS)
    records, experiments = read_records(dataset), catalog.read_experiments(dataset)
    for name in names:
        one_of(f"run on {dataset}", name, records)
    notebook = NOTEBOOKS / "7_run.ipynb"
    return [
        Experiment(name, run_title(name, experiments), notebook, {"dataset": dataset, "run_name": name})
        for name in names
    ]


def show_title(settings: Settings, run_name: str) -> None:
    """Display which run a page is of; `show_headline(record, update=True)` puts result and curves under it later."""
    title = title_of(run_name or default_name(settings), settings.dataset)
    display(Markdown(f"# {title}"), display_id=HEADLINE)
    for name in CURVES:
        display(HTML(""), display_id=name)


def show_headline(record: Record, *, update: bool = False) -> None:
    """Display which run it is, its result in one line, and its curves.

    update: in place of what `show_title` displayed. With a live kernel, they are displayed here as well, where its
    user is.
    """
    text = Markdown(f"# {title_of(record['run'], dataset_of(record))}\n\n{headline(record)}")
    accuracy_first = experiment_curves(record["run"], history_frame(record))[::-1]
    if update:
        display(text, display_id=HEADLINE, update=True)
        for name, curve in zip(CURVES, accuracy_first, strict=True):
            show(curve, display_id=name)
    if not update or widgets.live():
        display(text)
        show(*accuracy_first)


def headline(record: Record) -> str:
    """The result of a run in one line, with the interval that so many images allow; then what its data set is."""
    dataset, settings, result = dataset_of(record), record["settings"], record["evaluation"]["top1"]
    images, epochs = record["data"]["val"], len(record["history"])
    row = published(record["run"], dataset)
    judged = verdict(record["run"], dataset, result, epochs, settings["epochs"])
    facts = [
        Markup("<strong>{} top-1</strong>{} (95% interval {})").format(
            percent(result), " on held-out images" * settings["hold_out"], percent_range(*interval(result, images))
        ),
        f"published {percent(row['last'])}" if row else "",
        Markup("<strong>{}</strong>").format(verdict_mark(*judged)) if judged.text else "",
        "" if "epochs" in judged.text else f"{epochs} epoch{'s' * (epochs != 1)}",
        duration(record["seconds"]),
    ]
    line = Markup('<p class="answer result">{}</p>').format(Markup(" · ").join(filter(None, facts)))
    note = DATASETS[dataset].note
    return f'{line}\n\n<div class="banner">\n\n{note}\n\n</div>' if note else line


def dataset_of(record: Record) -> str:
    """The name of the data set of a run."""
    return str(record["settings"]["dataset"])


def title_of(run: str, dataset: str) -> str:
    """The heading of a run's page: the title of its experiment, with its seed, or its own name, and the data set."""
    return f"{run_title(run, catalog.read_experiments(dataset))}, on {DATASETS[dataset].title}"


def show_confusions(record: Record) -> None:
    """Display the confusion matrix and the commonest confusions, where the run has a table of them."""
    if table_path(record, "confusion.csv").is_file():
        show(heat_map(record))
        display(commonest(record))


def show_classes(record: Record) -> None:
    """Display the accuracy of every class, where the run has a table of it."""
    if table_path(record, "classes.csv").is_file():
        display(class_table(record))


def show_evaluation(record: Record) -> None:
    """Display what the model of the last epoch reaches on the validation images, and how far to trust it."""
    display(evaluation_table(record))
    if table_path(record, "reliability.csv").is_file():
        show(reliability(record))


def show_mistakes(record: Record, data: Packed, samples: bool = False) -> None:
    """Display the most confident mistakes as images, where these may be shown, or where `samples` asks for it."""
    from tinyclf.report import images

    if samples or DATASETS[dataset_of(record)].synthetic:
        display(images.mistakes(record, data))
    widgets.mistakes(record, data)


def show_history(record: Record) -> None:
    """Display the epochs of a run, and which was the best."""
    display(history_table(record["run"], history_frame(record)))
    best = record["result"]["best"]
    if best["epoch"] != len(record["history"]):
        accuracy = format_metric("val_accuracy", best["val_accuracy"])
        text = f"The best epoch is epoch {best['epoch']} with {accuracy}. It is chosen on the very images that it is "
        display(Markdown(f"{text}reported on, so it flatters."))


def show_provenance(record: Record) -> None:
    """Display where a run's numbers come from, and what a reader must know of its weights."""
    display(provenance(record, "../"))
    dataset = dataset_of(record)
    notes = [n for n in data_notes(dataset, [start_of(record)], "../../..") if n != DATASETS[dataset].note]
    if notes:
        display(Markdown("\n\n".join(notes)))


def settings_table(settings: Settings) -> HTML:
    """All settings, those first that differ from the published recipe; the rest opens on a click."""
    recipe = dataclasses.asdict(Settings(dataset=settings.dataset))
    values = {name: (value, recipe[name]) for name, value in dataclasses.asdict(settings).items()}
    rows = pd.DataFrame.from_dict(values, "index", columns=["value", "published recipe"], dtype=object).map(repr)
    rows, differs = rows.rename_axis("setting"), rows["value"] != rows["published recipe"]
    first = table(rows[differs]).data if differs.any() else Markup("<p>All as in the published recipe.</p>")
    return HTML(first + details(f"all {len(rows)} settings", table(rows)).data)


def metric_column(key: str) -> Column:
    """A column for a metric of a history, with its deviation and the published value where the row has those."""

    def cell(row: Any) -> str:
        published = format_metric(key, row.get(f"{key}_published", float("nan")))
        text = format_metric(key, row[key], row.get(f"{key}_std", float("nan")))
        return small_lines(text, f"published {published}" if published else "")

    return Column(key.replace("_", " "), cell)


def history_table(name: str, histories: pd.DataFrame) -> Table:
    """The epochs of an experiment's runs over the published ones; of several seeds, mean and standard deviation."""
    epochs, dataset = histories.groupby("epoch")[list(METRICS)], histories["dataset"].iloc[0]
    rows = epochs.mean().join(epochs.std().add_suffix("_std"))
    for key in METRICS:
        rows[f"{key}_published"] = published_curve(name, dataset, key)
    return table(rows, [Column("epoch", lambda row: f"{row['epoch']:.0f}"), *map(metric_column, METRICS)])


def evaluation_table(record: Record) -> Table:
    """The metrics of the model of the last epoch: at the size of its training, with flip TTA, at other sizes.

    The accuracy at one size alone is that of the headline, and left out.
    """
    own = pixels(record["settings"]["input_size"])
    results = {own: record["evaluation"]} | ({f"{own}, flip TTA": record["flip_tta"]} if record["flip_tta"] else {})
    results |= {pixels(size): result for size, result in record["other_sizes"].items()}
    metrics = EVALUATION if len(results) > 1 else {name: key for name, key in EVALUATION.items() if key != "top1"}
    rows = pd.DataFrame([{"metric": metric, "key": key} for metric, key in metrics.items()])

    def column(name: str, result: dict[str, float]) -> Column:
        return Column(f"validation, {name}", lambda row: format_metric(row["key"], result[row["key"]]))

    first = Column("", lambda row: row["metric"], number=False)
    return table(rows, [first, *(column(name, result) for name, result in results.items())])


def provenance(record: Record, runs: str) -> Table:
    """Where a record's numbers come from. runs: leads from the page to the folder of runs, to link a parent."""
    weights, recipe = record["weights"], record.get("recipe") or {}
    facts = {"command": record["command"], "settings that differ": assignments(record["overrides"])}
    facts |= {key: recipe.get(key) or "" for key in RECIPE}
    facts["data"] = f"{record['data']['name']}, sha256 {record['data']['sha256']}"
    facts["starts from"] = weights["label"]
    if weights["file"]:
        facts["weights file"] = f"{weights['file']}, sha256 {weights['sha256']}"
    if parent := weights.get("parent"):
        whose = run_link(parent["run"], record["settings"]["dataset"], runs)
        facts["weights of"] = Markup("{} after epoch {}, sha256 {}").format(whose, parent["epochs"], weights["sha256"])
    facts |= {"seed": str(record["settings"]["seed"]), "images a second": f"{record['images_per_second']:.0f}"}
    facts["training compute"] = (
        f"{record['compute']['total']:.3e} multiply-adds, ancestors included; the published baseline takes "
        f"{record['compute']['published_baseline']:.3e}"
    )
    facts |= {"time": duration(record["seconds"]), "finished": record["finished"]}
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        suffix = ", continued" * (number > 0)
        facts[f"commit{suffix}"] = commit_link(environment["commit"])
        facts[f"versions{suffix}"] = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        machine = environment["hardware"]
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
