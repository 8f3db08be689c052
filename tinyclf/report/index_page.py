"""The front page of a data set's reports: what was tried, the results, and how to repeat them."""

import json
import math
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown, display
from markupsafe import Markup

from tinyclf.data.registry import DATASETS
from tinyclf.report.accuracy import READING_ERROR, TITLES, accuracy_table, epochs_text, markdown_report
from tinyclf.report.figures import Described, Line, curves, experiment_curves, show, svg, thumbnail
from tinyclf.report.format import assignments, duration, format_metric, hardware, percent, points, share, short_commit
from tinyclf.report.html import PIECES, Column, Table, link, picture, small_lines, table
from tinyclf.report.run_page import history_table, run_link
from tinyclf.report.runs import group_runs, load_histories, load_runs
from tinyclf.utils.files import atomic_write, writable
from tinyclf.utils.paths import reports_dir


def front_tables(dataset: str) -> dict[str, Table]:
    """The accuracy tables for the eye, by title: a row with its curve, and links to the pages of its runs."""
    rows, histories = accuracy_table(dataset), load_histories(dataset)
    columns = [
        Column("experiment", lambda row: experiment_cell(row, dataset), number=False),
        Column("published, last epoch", published_cell),
        Column("this project, last epoch", accuracy_cell),
        Column("difference", difference_cell),
        Column("epochs", epochs_text),
        Column("time", lambda row: small_lines(duration(row["seconds"]), hardware(row["machines"]))),
        Column("training compute", lambda row: share(row["share"])),
        Column("validation accuracy", lambda row: curve_cell(row, histories), number=False),
    ]
    if not DATASETS[dataset].comparable:
        columns = [column for column in columns if column.name not in ("published, last epoch", "difference")]
    return {title: table(rows[rows["table"] == key], columns, "glance") for key, title in TITLES.items()}


def experiment_cell(row: Any, dataset: str) -> str:
    """The title of a row, with links to the pages of its runs, or where there are none, to their records."""
    if row["size"] or not row["runs"]:
        return str(row["title"])
    texts = [row["title"], *row["runs"][1:]]
    links = [run_link(run, dataset, "", text) for run, text in zip(row["runs"], texts, strict=True)]
    differs = assignments(row["overrides"])
    return small_lines(Markup(", ").join(links), f"settings that differ: {differs}" * bool(differs), row["start"])


def published_cell(row: Any) -> str:
    """What was published of a row, or its goals."""
    goals = [f"goal: {text}" + f": {status}" * bool(status) for text, status in row["goals"]]
    best = percent(row["published_best"])
    return small_lines(percent(row["published_last"]), f"best {best}" * bool(best), *goals)


def accuracy_cell(row: Any) -> str:
    """Our accuracy after the last epoch; in small letters the seeds, the best epoch's and that with flip TTA."""
    if math.isnan(row["accuracy"]):
        return "" if row["size"] else "not run"
    best, tta = (format_metric(key, row[key], row[f"{key}_std"]) for key in ("best_accuracy", "flip_tta"))
    text = format_metric("accuracy", row["accuracy"], row["accuracy_std"])
    seeds = f"{row['seeds']:.0f} seeds" if row["seeds"] > 1 else ""
    return small_lines(text, seeds, f"best {best}" * bool(best), f"flip TTA {tta}" * bool(tta))


def difference_cell(row: Any) -> str:
    """The difference to the published accuracy, in a colour for its sign unless it is within the reading error."""
    difference = row["difference"]
    if math.isnan(difference):
        return ""
    read_off = not row["size"] and row["epochs"] != row["published_epochs"]
    text: str = points(difference)
    if abs(difference) > READING_ERROR * read_off:
        text = PIECES.signed(text, "below" if difference < 0 else "above")
    return small_lines(text, f"to {percent(row['published_then'])}" * read_off)


def curve_cell(row: Any, histories: pd.DataFrame) -> str:
    """The small curve of a row's runs."""
    if row["size"] or not row["runs"]:
        return ""
    figure, text, _ = thumbnail(row["experiment"], histories[histories["run"].isin(row["runs"])])
    return picture(svg(figure), text)


def show_curves(dataset: str) -> None:
    """Display the curves and the history of every experiment that was run."""
    groups, histories = group_runs(load_runs(dataset).query("split == 'val' and title != ''")), load_histories(dataset)
    for name, row in groups.iterrows():
        epochs = histories[histories["run"].isin(row["runs"])]
        display(Markdown(f"### {row['title']}"))
        show(*experiment_curves(str(name), epochs))
        display(history_table(str(name), epochs))


def write_readme(dataset: str) -> None:
    """Write README.md into the folder of `dataset`, the accuracy tables and curves without HTML, and curves.svg."""
    folder, parts = writable(reports_dir() / dataset), [f"# Results on {dataset}"]
    parts.append(
        "The accuracy of every experiment, from the records of its runs. `index.html` in this folder has more."
    )
    if described := overview(dataset):
        atomic_write(folder / "curves.svg", svg(described.figure))
        parts.append(f"![{described.text}](curves.svg)")
    atomic_write(folder / "README.md", "\n\n".join([*parts, markdown_report(dataset).replace("### ", "## ")]) + "\n")


def overview(dataset: str) -> Described | None:
    """The validation accuracy by epoch of all experiments of the accuracy tables that were run; None if none was."""
    rows, histories = accuracy_table(dataset), load_histories(dataset)
    lines = [
        Line(row["title"], row["experiment"], histories[histories["run"].isin(row["runs"])], "val")
        for _, row in rows[rows["size"] == 0].iterrows()
        if row["runs"]
    ]
    if not lines:
        return None
    described = curves(lines, "accuracy", f"validation on {dataset}")
    described.figure.set_size_inches(7.5, described.figure.get_figheight() + 1)  # as wide as a page of text
    return described


def regenerate(dataset: str) -> str:
    """The shell commands that repeat the runs of the accuracy tables, ancestors first."""
    runs = load_runs(dataset).set_index("run", drop=False)
    commands: dict[str, None] = {}
    for names in group_runs(runs.query("split == 'val' and title != ''"))["runs"]:
        for name in names:
            line = []
            while name in runs.index:
                line.append(runs["command"][name])
                name = runs["parent"][name]
            commands |= dict.fromkeys(reversed(line))
    return "\n".join([*commands, f"tinyclf run ablations --dataset {dataset}"])


def other_pages(dataset: str) -> HTML:
    """Links to the pages on `dataset` that are not those of a run."""
    folder = reports_dir() / dataset
    links = []
    for page in sorted(folder.glob("*/index.html")):
        if not page.with_name("record.json").is_file():
            title = json.loads(page.with_name("notebook.ipynb").read_text("utf-8"))["metadata"]["title"]
            links.append(link(title, f"{page.parent.name}/{page.name}"))
    if (folder / "ablations.csv").is_file():
        links.append(link("all ablations as CSV", "ablations.csv"))
    return HTML(PIECES.links(links))


def runs_table(dataset: str, *, of_ablations: bool = False) -> Table:
    """Every run on `dataset` that is no ablation, or every one that is, with links to its files, the newest last."""
    runs = load_runs(dataset)
    runs = runs[runs["is_ablation"] == of_ablations].sort_values("finished")
    return table(
        runs,
        [
            Column("run", lambda row: row["run"], number=False),
            Column("files", lambda row: file_links(dataset, row["run"]), number=False),
            Column("epochs", lambda row: str(row["epochs"])),
            Column("finished", lambda row: f"{row['finished']:%Y-%m-%d %H:%M:%S}", number=False),
            Column("commit", lambda row: short_commit(row["commit"]), number=False),
        ],
    )


def file_links(dataset: str, run: str) -> Markup:
    """Links to the files of a run, as far as it has them."""
    files = {"page": "index.html", "record": "record.json", "history": "history.csv"}
    folder = reports_dir() / dataset / run
    return Markup(", ").join(link(name, f"{run}/{file}") for name, file in files.items() if (folder / file).is_file())
