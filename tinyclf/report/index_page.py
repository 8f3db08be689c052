"""The front page of a data set's reports: what was tried, the results, and how to repeat them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from IPython.display import HTML, Markdown, display
from markupsafe import Markup
from nbconvert.filters.markdown import markdown2html

from tinyclf.data.registry import DATASETS
from tinyclf.report.accuracy import AccuracyTable, accuracy_table
from tinyclf.report.columns import Column
from tinyclf.report.figures import Described, Line, curve_table, curves, show, small_multiple, svg
from tinyclf.report.format import (
    duration,
    format_metric,
    hardware,
    heading,
    percent,
    percent_range,
    share,
    short_commit,
)
from tinyclf.report.html import PIECES, Table, details, link, small_lines, sparkline, table, verdict_mark
from tinyclf.report.published import PUBLISHED
from tinyclf.report.run_page import run_link
from tinyclf.report.runs import Row, group_runs, load_histories, load_runs, read_runs
from tinyclf.report.verdict import interval
from tinyclf.report.wording import (
    TITLES,
    answer,
    answer_in_markdown,
    data_notes,
    differs,
    epochs_text,
    markdown_report,
    reading_notes,
)
from tinyclf.utils.files import atomic_write, writable
from tinyclf.utils.lazy import pd
from tinyclf.utils.paths import reports_dir


def show_answer(dataset: str) -> None:
    """Display what the page is about, the answer in a line, and what a data set is whose numbers do not compare."""
    info, banner = DATASETS[dataset], ""
    if not info.comparable:
        banner = Markup(markdown2html(info.note))
    first, *others = answer(accuracy_table(dataset))
    display(HTML(PIECES.front(heading(dataset), first, " ".join(others), banner)))


def show_caveats(dataset: str) -> None:
    """Display which of the weights that the runs started from are not what their titles say."""
    starts, note = [run["start"] for run in read_runs(dataset)], DATASETS[dataset].note
    display(Markdown("\n\n".join(text for text in data_notes(dataset, starts, "../..") if text != note)))


def front_tables(dataset: str) -> dict[str, Table]:
    """The accuracy tables for the eye, by title: a row with its curve, and links to the pages of its runs."""
    rows, histories = pd.DataFrame(accuracy_table(dataset).rows), load_histories(dataset)
    columns = [
        Column("experiment", lambda row: experiment_cell(row, dataset), number=False),
        Column("published", published_cell),
        Column("ours", accuracy_cell),
        Column("verdict" if DATASETS[dataset].comparable else "", verdict_cell, number=False),
        Column("epochs", epochs_text),
        Column("compute", lambda row: share(row["share"])),
        Column("time", lambda row: small_lines(duration(row["seconds"]), hardware(row["machines"]))),
        Column("accuracy by epoch", lambda row: curve_cell(row, histories), number=False),
    ]
    if not DATASETS[dataset].comparable:
        columns.pop(1)
        if rows["accuracy"].notna().all():
            columns = [column for column in columns if column.name]
    return {title: table(rows[rows["table"] == key], columns, "glance") for key, title in TITLES.items()}


def experiment_cell(row: Any, dataset: str) -> str:
    """The title of a row, with links to the pages of its runs, or where there are none, to their records."""
    if row["size"] or not row["runs"]:
        return str(row["title"])
    texts = [row["title"], *(f"seed {run.rpartition('-')[2]}" for run in row["runs"][1:])]
    links = [run_link(run, dataset, "", text) for run, text in zip(row["runs"], texts, strict=True)]
    return small_lines(links[0], *links[1:], "; ".join(differs(row)))


def published_cell(row: Any) -> str:
    """The published accuracy after the last epoch; in small letters that of the best epoch, if it is another."""
    return small_lines(percent(row["published_last"]), best_epoch(row, row["published_best"]))


def best_epoch(row: Any, accuracy: float) -> str:
    """An accuracy of the best epoch, for rows of which the published README quotes that one."""
    return f"best {percent(accuracy)}" if row["published_best"] != row["published_last"] and accuracy > 0 else ""


def accuracy_cell(row: Any) -> str:
    """Our accuracy after the last epoch, its interval, the number of seeds, and the accuracy with flip TTA."""
    if math.isnan(row["accuracy"]):
        return ""
    text = format_metric("accuracy", row["accuracy"], row["accuracy_std"])
    seeds = f"{row['seeds']:.0f} seeds" if row["seeds"] > 1 else ""
    tta = format_metric("flip_tta", row["flip_tta"], row["flip_tta_std"])
    extent = percent_range(*interval(row["accuracy"], row["val_images"]))
    best = best_epoch(row, row["best_accuracy"]) if row["published_best"] > 0 else ""
    return small_lines(text, extent, seeds, best, f"flip TTA {tta}" * bool(tta))


def verdict_cell(row: Any) -> str:
    """The verdict on a row, what runs it, or how many of its goals it reached."""
    kind, text = row["verdict"]
    before, _, command = text.partition("`")
    if command:
        return small_lines(before.strip(" :"), PIECES.code(command.strip("`")))
    statuses = [status for _, status in row["goals"] if status]
    reached = f"{statuses.count('reached')} of {len(statuses)} goals reached" if statuses else ""
    if len(statuses) == 1:
        reached = f"goal {statuses[0]}"
    return verdict_mark(kind, text) if text else reached


def curve_cell(row: Any, histories: pd.DataFrame) -> str:
    """The small curve of a row's runs."""
    if row["size"] or not row["runs"]:
        return ""
    runs = histories[histories["run"].isin(row["runs"])]
    curve = curve_table(Line(row["title"], row["experiment"], runs, "val"), "accuracy").set_index("epoch")
    ours, published = curve["accuracy"].dropna(), curve["published"].dropna()
    text = f"validation accuracy by epoch, from {percent(ours.iloc[0])} to {percent(ours.iloc[-1])}"
    return sparkline(ours, published, text)


def show_curves(dataset: str) -> None:
    """Display the validation accuracy by epoch of the experiments with a published result that were run."""
    dotted = ", the published ones dotted" if DATASETS[dataset].comparable else ""
    text = f"Validation accuracy by epoch. Our curves are solid{dotted}."
    display(Markdown(f"{text} Of several seeds, the line is their mean, in a band of one standard deviation."))
    histories = load_histories(dataset)
    for row in accuracy_table(dataset).rows:
        if row["runs"] and row["experiment"] in PUBLISHED:
            runs = histories[histories["run"].isin(row["runs"])]
            show(small_multiple(row["title"], row["experiment"], runs))


def goals_table(rows: list[Row]) -> Table:
    """The goals of the recipes of our own, and whether they were reached. rows: those of an accuracy table."""
    goals = [(row["title"], text, status or "not run yet") for row in rows for text, status in row["goals"]]
    return table(pd.DataFrame(goals, columns=["experiment", "goal", "status"]))


def write_readme(dataset: str) -> None:
    """Write README.md into the folder of `dataset`, the accuracy tables and curves without HTML, and curves.svg."""
    folder = writable(reports_dir() / dataset)
    accuracies = accuracy_table(dataset)
    parts = [f"# {heading(dataset)}", answer_in_markdown(accuracies)]
    parts.append("All numbers come from the records of the runs. `index.html` in this folder has more.")
    if described := overview(accuracies):
        atomic_write(folder / "curves.svg", svg(described.figure))
        parts.append(f"![{described.text}](curves.svg)")
    atomic_write(folder / "README.md", "\n\n".join([*parts, markdown_report(accuracies).replace("### ", "## ")]) + "\n")


def overview(table: AccuracyTable) -> Described | None:
    """The validation accuracy by epoch of all experiments of the accuracy tables that were run; None if none was."""
    histories = load_histories(table.dataset)
    lines = [
        Line(row["title"], row["experiment"], histories[histories["run"].isin(row["runs"])], "val")
        for row in table.rows
        if row["runs"]
    ]
    if not lines:
        return None
    described = curves(lines, "accuracy", f"validation on {table.dataset}")
    described.figure.set_size_inches(7.5, described.figure.get_figheight() + 1)  # as wide as a page of text
    return described


def regenerate(dataset: str) -> str:
    """The shell commands that repeat the runs of the accuracy tables, ancestors first."""
    runs = {run["run"]: run for run in read_runs(dataset)}
    commands: dict[str, None] = {}
    for group in group_runs(run for run in runs.values() if run["title"]).values():
        for name in group["runs"]:
            line = []
            while name in runs:
                line.append(runs[name]["command"])
                name = runs[name]["parent"]
            commands |= dict.fromkeys(reversed(line))
    return "\n".join([*commands, f"tinyclf run ablations --dataset {dataset}"])


def show_details(dataset: str) -> None:
    """Display, folded, how to read the page, goals, commands, and the files of all runs."""
    accuracies = accuracy_table(dataset)
    display(details("How to read this page", HTML(markdown2html("\n\n".join(reading_notes(accuracies))))))
    if DATASETS[dataset].comparable:
        display(details("Goals of our own recipes", goals_table(accuracies.rows)))
    display(details("Commands that repeat these runs", HTML(PIECES.commands(regenerate(dataset)))))
    for which, ablations in (("runs and their files", False), ("runs of ablations", True)):
        runs = runs_table(dataset, of_ablations=ablations)
        if runs.rows:
            display(details(f"{runs.rows} {which}", runs))


def other_pages(dataset: str) -> HTML:
    """Links to the pages on `dataset` that are not those of a run."""
    folder = reports_dir() / dataset
    links = []
    for page in sorted(folder.glob("*/index.html")):
        if not page.with_name("record.json").is_file() and (title := page_title(page)):
            links.append(link(title.removesuffix(f" ({dataset})"), f"{quote(page.parent.name)}/{page.name}"))
    if (folder / "ablations.csv").is_file():
        links.append(link("all ablations as CSV", "ablations.csv"))
    return HTML(PIECES.links(links))


def page_title(page: Path) -> str:
    """The title of a page that `tinyclf` made, as the notebook beside it has it; empty for a page of anybody else."""
    try:
        title = json.loads(page.with_name("notebook.ipynb").read_text("utf-8"))["metadata"]["title"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return title if isinstance(title, str) else ""


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
