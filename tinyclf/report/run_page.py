"""The page of one run, made from its record: results, evaluation, confusions, and where the numbers come from."""

import dataclasses
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import HTML, Markdown, display
from markupsafe import Markup

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.identity import default_name
from tinyclf.experiments.names import family
from tinyclf.experiments.record import Record, read_records, read_table
from tinyclf.experiments.settings import Settings
from tinyclf.report.accuracy import data_notes
from tinyclf.report.figures import class_extremes, experiment_curves, reliability, show
from tinyclf.report.format import assignments, duration, format_metric, hardware, percent, pixels
from tinyclf.report.html import Column, Table, details, link, small_lines, table
from tinyclf.report.published import published, published_curve
from tinyclf.report.runs import RECIPE, history_frame, start_of
from tinyclf.utils.checks import one_of
from tinyclf.utils.paths import NOTEBOOKS, reports_dir

if TYPE_CHECKING:
    from tinyclf.data.cache import Packed

HEADLINE = "headline"  # identifies the output of a notebook that has title and result
CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
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
    titles = {name: experiments[family(name)].title if family(name) in experiments else name for name in names}
    notebook = NOTEBOOKS / "7_run.ipynb"
    return [Experiment(name, titles[name], notebook, {"dataset": dataset, "run_name": name}) for name in names]


def show_title(settings: Settings, run_name: str) -> None:
    """Display which run a page is of; `show_headline(record, update=True)` puts the result under it later."""
    title = title_of(run_name or default_name(settings), settings.dataset)
    display(Markdown(f"# {title}"), display_id=HEADLINE)


def show_headline(record: Record, *, update: bool = False) -> None:
    """Display which run it is, and its result in one line, with the interval that so many images allow.

    The interval is that of a binomial share: 1.96 standard errors on either side. update: in place of what `show_title`
    displayed.
    """
    name, dataset, result = family(record["run"]), record["settings"]["dataset"], record["evaluation"]["top1"]
    error = 1.96 * (result * (1 - result) / record["data"]["val"]) ** 0.5
    interval = f"{100 * (result - error):.1f} to {100 * (result + error):.1f}"
    row = published(name, dataset)
    facts = [
        f"**{percent(result)} top-1** (95% interval {interval})",
        *([f"published {percent(row['last'])}"] if row else []),
        f"{len(record['history'])} epochs",
        duration(record["seconds"]),
        f"seed {record['settings']['seed']}",
    ]
    text = Markdown(f"# {title_of(record['run'], dataset)}\n\n{' · '.join(facts)}")
    display(text, display_id=HEADLINE, update=update)


def title_of(run: str, dataset: str) -> str:
    """The heading of a run's page: the title of its experiment, or its own name, and the data set."""
    experiments, name = catalog.read_experiments(dataset), family(run)
    return f"{experiments[name].title if name in experiments else run}, on {dataset}"


def show_results(record: Record) -> None:
    """Display the last and the best epoch of a run, its curves and its history."""
    histories = history_frame(record)
    display(result_table(record))
    show(*experiment_curves(record["run"], histories))
    display(history_table(record["run"], histories))


def show_evaluation(record: Record) -> None:
    """Display what the model of the last epoch reaches on the validation images, and the accuracy by class."""
    display(evaluation_table(record))
    show(reliability(record), class_extremes(record))


def show_mistakes(record: Record, data: "Packed", samples: bool = False) -> None:
    """Display the most confident mistakes: as images where these may be shown, or where `samples` asks for it."""
    from tinyclf.report import images, widgets

    if samples or DATASETS[record["settings"]["dataset"]].synthetic:
        display(images.mistakes(record, data))
    else:
        print("not shown, as images of Tiny-ImageNet are not ours to pass on; mistakes.csv lists them")
    widgets.mistakes(record, data)


def show_provenance(record: Record) -> None:
    """Display where a run's numbers come from, and what a reader must know of its data and weights."""
    display(provenance(record, "../"))
    if notes := data_notes(record["settings"]["dataset"], [start_of(record)], "../../.."):
        display(Markdown("\n\n".join(notes)))


def settings_table(settings: Settings) -> HTML:
    """All settings, those first that differ from the published recipe; the rest opens on a click."""
    recipe = dataclasses.asdict(Settings(dataset=settings.dataset))
    values = {name: (value, recipe[name]) for name, value in dataclasses.asdict(settings).items()}
    rows = pd.DataFrame.from_dict(values, "index", columns=["value", "published recipe"], dtype=object).map(repr)
    rows, differs = rows.rename_axis("setting"), rows["value"] != rows["published recipe"]
    first = table(rows[differs]).data if differs.any() else Markup("<p>All as in the published recipe.</p>")
    return HTML(first + details(f"all {len(rows)} settings", table(rows)).data)


def result_table(record: Record) -> Table:
    """The last and the best epoch of a run."""
    rows = pd.DataFrame.from_dict({name: record["result"][name] for name in ("last", "best")}, "index")
    metrics = [metric_column(key) for key in CURVES]
    return table(
        rows.rename_axis("which").reset_index(),
        [Column("", lambda row: row["which"], number=False), Column("epoch", lambda row: str(row["epoch"])), *metrics],
    )


def metric_column(key: str) -> Column:
    """A column for a metric of a history, with its deviation and the published value where the row has those."""

    def cell(row: Any) -> str:
        published = format_metric(key, row.get(f"{key}_published", float("nan")))
        text = format_metric(key, row[key], row.get(f"{key}_std", float("nan")))
        return small_lines(text, f"published {published}" if published else "")

    return Column(key.replace("_", " "), cell)


def history_table(name: str, histories: pd.DataFrame) -> Table:
    """The epochs of an experiment's runs over the published ones; of several seeds, mean and standard deviation."""
    epochs, dataset = histories.groupby("epoch")[list(CURVES)], histories["dataset"].iloc[0]
    rows = epochs.mean().join(epochs.std().add_suffix("_std"))
    for key in CURVES:
        rows[f"{key}_published"] = published_curve(name, dataset, key)
    return table(rows, [Column("epoch", lambda row: f"{row['epoch']:.0f}"), *map(metric_column, CURVES)])


def evaluation_table(record: Record) -> Table:
    """The metrics of the model of the last epoch: at the size of its training, with flip TTA, at other sizes."""
    own = pixels(record["settings"]["input_size"])
    results = {own: record["evaluation"]} | ({f"{own}, flip TTA": record["flip_tta"]} if record["flip_tta"] else {})
    results |= {pixels(size): result for size, result in record["other_sizes"].items()}
    rows = pd.DataFrame([{"metric": metric, "key": key} for metric, key in EVALUATION.items()])

    def column(name: str, result: dict[str, float]) -> Column:
        return Column(f"validation, {name}", lambda row: format_metric(row["key"], result[row["key"]]))

    first = Column("", lambda row: row["metric"], number=False)
    return table(rows, [first, *(column(name, result) for name, result in results.items())])


def confusions(record: Record, count: int = 10) -> Table:
    """The commonest confusions of a run's model on the validation images, in words."""
    classes = read_table(record, "classes.csv").set_index("wnid")
    rows = read_table(record, "confusion.csv").sort_values("images", ascending=False, kind="stable")[:count]
    rows["share"] = rows["images"] / rows["wnid"].map(classes["images"])
    return table(
        rows,
        [
            Column("class", lambda row: classes["words"][row["wnid"]], number=False),
            Column("predicted", lambda row: classes["words"][row["predicted"]], number=False),
            Column("images", lambda row: str(row["images"])),
            Column("of the class", lambda row: percent(row["share"], 0)),
        ],
    )


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
    facts |= {"time": duration(record["seconds"]), "finished": record["finished"]}
    for number, environment in enumerate(record["environments"]):  # several, if it was continued elsewhere
        suffix = ", continued" * (number > 0)
        facts[f"commit{suffix}"] = environment["commit"] or "not a git checkout"
        facts[f"versions{suffix}"] = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        machine = environment["hardware"]
        facts[f"hardware{suffix}"] = f"{machine['device']}: {hardware([machine])}"
    return table(pd.DataFrame([fact for fact in facts.items() if fact[1]], columns=["run", record["run"]]))


def run_link(run: str, dataset: str, runs: str, text: str = "") -> Markup:
    """A link to a run on `dataset`, to its page where it has one, else to its record; `text` stands for its name.

    runs: leads from where the link is to the folder of runs.
    """
    page = reports_dir() / dataset / run / "index.html"
    return link(text or run, f"{runs}{run}/{page.name if page.is_file() else 'record.json'}")
