"""The front page of a data set's reports: what was tried, the results, and how to repeat them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from IPython.display import HTML, Markdown, display
from markupsafe import Markup
from nbconvert.filters.markdown import markdown2html

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.names import seed_of
from tinyclf.report.accuracy import (
    accuracy_table,
    answer,
    answer_in_markdown,
    data_notes,
    markdown_report,
    reading_notes,
)
from tinyclf.report.figures import Line, curve_table, curves, show, small_multiple, svg
from tinyclf.report.format import Cell, Column, heading, percent, short_commit
from tinyclf.report.html import PIECES, Table, details, link, small_lines, sparkline, table, verdict_mark
from tinyclf.report.run_page import run_link
from tinyclf.report.runs import PUBLISHED, group_runs, load_histories, load_runs, read_runs
from tinyclf.utils.files import atomic_write, writable
from tinyclf.utils.lazy import pd
from tinyclf.utils.paths import reports_dir


def show_answer(dataset: str) -> None:
    """Display what the page is about, the answer in a line, and what a data set is whose numbers do not compare."""
    info = DATASETS[dataset]
    banner = "" if info.comparable else Markup(markdown2html(info.note))
    first, *others = answer(accuracy_table(dataset))
    display(HTML(PIECES.front(heading(dataset), first, " ".join(others), banner)))


def show_caveats(dataset: str) -> None:
    """Display which of the weights that the runs started from are not what their titles say."""
    notes = data_notes(dataset, accuracy_table(dataset).starts, "../..")
    display(Markdown("\n\n".join(note for note in notes if note != DATASETS[dataset].note)))


def front_tables(dataset: str) -> dict[str, Table]:
    """The accuracy tables for the eye, by title: a row with its curve, and links to the pages of its runs."""
    accuracies, histories = accuracy_table(dataset), load_histories(dataset)
    columns = [Column(name, as_html(cell, dataset), number) for name, cell, number in accuracies.columns()]
    columns.append(Column("accuracy by epoch", lambda row: curve_cell(row, histories), number=False))
    return {title: table(pd.DataFrame(rows), columns, "glance") for title, rows in accuracies.parts().items()}


def as_html(cell_of: Callable[[Any], Cell], dataset: str) -> Callable[[Any], Markup]:
    """A cell of the accuracy table as HTML: notes in small letters, verdicts in colour, code and links as such."""

    def cell(row: Any) -> Markup:
        text, notes, kind, runs = cell_of(row)
        lines = [Markup(PIECES.code(note.strip("`"))) if note.startswith("`") else note for note in notes]
        links = [run_link(run, dataset, "", f"seed {seed_of(run)}") for run in runs[1:]]
        first = run_link(runs[0], dataset, "", text) if runs else verdict_mark(kind, text)
        return small_lines(first, *links, *lines)

    return cell


def curve_cell(row: Any, histories: pd.DataFrame) -> str:
    """The small curve of a row's runs."""
    if not row["runs"]:
        return ""
    curve = curve_table(validation_line(row, histories), "accuracy").set_index("epoch")
    ours, published = curve["accuracy"].dropna(), curve["published"].dropna()
    text = f"validation accuracy by epoch, from {percent(ours.iloc[0])} to {percent(ours.iloc[-1])}"
    return sparkline(ours, published, text)


def validation_line(row: Any, histories: pd.DataFrame) -> Line:
    """The validation curve of a row's runs, the mean over seeds."""
    return Line(row["title"], row["experiment"], histories[histories["run"].isin(row["runs"])], "val")


def show_curves(dataset: str) -> None:
    """Display the validation accuracy by epoch of the experiments with a published result that were run."""
    dotted = ", the published ones dotted" if DATASETS[dataset].comparable else ""
    text = f"Validation accuracy by epoch. Our curves are solid{dotted}."
    display(Markdown(f"{text} Of several seeds, the line is their mean, in a band of one standard deviation."))
    histories = load_histories(dataset)
    for row in accuracy_table(dataset).rows:
        if row["runs"] and row["experiment"] in PUBLISHED:
            show(small_multiple(*validation_line(row, histories)[:3]))


def write_readme(dataset: str) -> None:
    """Write README.md into the folder of `dataset`, the accuracy tables and curves without HTML, and curves.svg."""
    folder = writable(reports_dir() / dataset)
    accuracies, histories = accuracy_table(dataset), load_histories(dataset)
    parts = [f"# {heading(dataset)}", answer_in_markdown(accuracies)]
    parts.append("All numbers come from the records of the runs. `index.html` in this folder has more.")
    if lines := [validation_line(row, histories) for row in accuracies.rows if row["runs"]]:
        figure, text, _ = curves(lines, "accuracy", f"validation on {dataset}")
        figure.set_size_inches(7.5, figure.get_figheight() + 1)  # as wide as a page of text
        atomic_write(folder / "curves.svg", svg(figure))
        parts.append(f"![{text}](curves.svg)")
    atomic_write(folder / "README.md", "\n\n".join([*parts, markdown_report(accuracies).replace("### ", "## ")]) + "\n")


def regenerate(dataset: str) -> str:
    """The shell commands that repeat the runs of the accuracy tables, ancestors first."""
    runs = {run["run"]: run for run in read_runs(dataset)}

    def commands(name: str) -> list[str]:
        return [*commands(runs[name]["parent"]), runs[name]["command"]] if name in runs else []

    groups = group_runs(run for run in runs.values() if run["title"]).values()
    lines = dict.fromkeys(line for group in groups for name in group["runs"] for line in commands(name))
    return "\n".join([*lines, f"tinyclf run ablations --dataset {dataset}"])


def show_details(dataset: str) -> None:
    """Display, folded, how to read the page, the commands, and the files of all runs."""
    display(details("How to read this page", HTML(markdown2html("\n\n".join(reading_notes(dataset))))))
    display(details("Commands that repeat these runs", HTML(PIECES.commands(regenerate(dataset)))))
    for which, ablations in (("runs and their files", False), ("runs of ablations", True)):
        runs = runs_table(dataset, of_ablations=ablations)
        if runs.rows:
            display(details(f"{runs.rows} {which}", runs))


def runs_table(dataset: str, *, of_ablations: bool = False) -> Table:
    """Every run on `dataset` that is no ablation, or every one that is, with links to its files, the newest last."""
    runs = load_runs(dataset)
    columns = [
        Column("run", lambda row: row["run"], number=False),
        Column("files", lambda row: file_links(dataset, row["run"]), number=False),
        Column("epochs", lambda row: str(row["epochs"])),
        Column("finished", lambda row: f"{row['finished']:%Y-%m-%d %H:%M:%S}", number=False),
        Column("commit", lambda row: short_commit(row["commit"]), number=False),
    ]
    return table(runs[runs["is_ablation"] == of_ablations].sort_values("finished"), columns)


def file_links(dataset: str, run: str) -> Markup:
    """Links to the files of a run, as far as it has them."""
    files = {"page": f"{run}/index.html", "record": f"{run}/record.json", "history": f"{run}/history.csv"}
    there = (link(name, path) for name, path in files.items() if (reports_dir() / dataset / path).is_file())
    return Markup(", ").join(there)


def other_pages(dataset: str) -> HTML:
    """Links to the pages on `dataset` that are not those of a run."""
    folder = reports_dir() / dataset
    pages = [page for page in sorted(folder.glob("*/index.html")) if not page.with_name("record.json").is_file()]
    titles = {page: title.removesuffix(f" ({dataset})") for page in pages if (title := page_title(page))}
    links = [link(title, f"{quote(page.parent.name)}/{page.name}") for page, title in titles.items()]
    if (folder / "ablations.csv").is_file():
        links.append(link("all ablations as CSV", "ablations.csv"))
    return HTML(PIECES.links(links))


def page_title(page: Path) -> str:
    """The title of a page that `tinyclf` made, as the notebook beside it has it; empty for a page of anybody else."""
    try:
        return str(json.loads(page.with_name("notebook.ipynb").read_text("utf-8"))["metadata"]["title"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
