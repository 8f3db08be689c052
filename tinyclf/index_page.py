"""The front page of a data set's reports: what was tried, what came out, and how to get it again."""

import json
from pathlib import Path

import pandas as pd
from IPython.display import HTML
from markupsafe import Markup

from tinyclf.accuracy import PRETRAINED, READING_ERROR, SCRATCH, Row, accuracy_rows, by_experiment, duration, seconds_of
from tinyclf.catalog import is_ablation
from tinyclf.commands import command
from tinyclf.figures import svg, thumbnail
from tinyclf.html import join, link, picture, table, two_lines
from tinyclf.names import family
from tinyclf.paths import reports_dir
from tinyclf.record import Record, read_records
from tinyclf.run_page import run_link


def glance(dataset: str) -> dict[str, HTML]:
    """The accuracy tables for the eye, by title: each row with its curve, and links to the pages of its runs."""
    rows = accuracy_rows(dataset)
    return {
        title: table(pd.DataFrame([cells(row) for row in rows if row.table == title]), "glance")
        for title in (SCRATCH, PRETRAINED)
    }


def cells(row: Row) -> dict[str, str | Markup]:
    """A row in few cells: under what matters most, the rest in small letters."""
    text, runs = row.cells, row.runs
    about = [f"changed: {row.changed}"] if row.changed else []
    about += [f"from {text['starts from']}"] if runs else []
    published = [f"best {text['published best']}"] if text["published best"] else []
    published += [f"README {text['README']}"] if text["README"] else []
    goals = Markup("<small>to reach: {}</small>").format("; ".join(row.goals)) if row.goals else ""
    ours = [f"best {text['ours best']}"] if text["ours best"] else []
    ours += [f"mirrored too {text['mirrored too']}"] if text["mirrored too"] else []
    same_epoch = f"published {text['published, same epoch']} there" if text["published, same epoch"] else ""
    error = READING_ERROR if text["published, same epoch"] not in ("", text["published last"]) else 0
    return {
        "experiment": two_lines(run_links(row.title, runs), "; ".join(about)),
        "published, last epoch": goals or two_lines(text["published last"], ", ".join(published)),
        "ours, last epoch": two_lines(text["ours last"], ", ".join(ours)),
        "difference": two_lines(signed(text["difference"], error), same_epoch) if text["difference"] else "",
        "epochs": text["epochs"] if text["epochs"] != "0" else "",
        "seeds": text["seeds"],
        "time": two_lines(duration(seconds_of(runs)), text["hardware"]) if runs else "",
        "arithmetic, of row 1": text["arithmetic"].replace(" ", ""),
        "validation accuracy": picture(*thumbnail_of(runs)) if runs else "",
    }


def thumbnail_of(runs: list[Record]) -> tuple[str, str]:
    """The small curve of an experiment as SVG, and in words."""
    figure, text, _ = thumbnail(family(runs[0]["run"]), runs)
    return svg(figure), text


def run_links(title: str, runs: list[Record]) -> str | Markup:
    """The title of a row; with links to the pages of its runs, or where there is none, to their records."""
    links = []
    for place, run in enumerate(runs):
        text = title if not place else f"seed {run['settings']['seed']}"
        links.append(run_link(run["run"], run["settings"]["dataset"], "", text))
    return Markup(", ").join(links) if links else title


def signed(difference: str, error: float) -> Markup:
    """A difference in a colour and with an arrow for its sign; without, if it is no more than an error of reading."""
    if abs(float(difference)) <= error:
        return Markup("≈ {}").format(difference)
    kind, arrow = ("below", "▼") if difference.startswith("-") else ("above", "▲")
    return Markup('<span class="{}">{} {}</span>').format(kind, arrow, difference)


def regenerate(dataset: str) -> str:
    """The lines that make all that the tables show again, in a shell."""
    commands = [command(name, runs, "run") for name, runs in by_experiment(read_records(dataset)).items()]
    lines = dict.fromkeys(line for each in commands for line in each.split(" && "))  # what several start from, once
    return "\n".join([*lines, f"tinyclf run ablations --dataset {dataset}"])


def other_pages(dataset: str) -> HTML:
    """Links to the pages on `dataset` that are of no single run."""
    pages = [each for each in sorted((reports_dir() / dataset).glob("*/index.html")) if not is_run(each.parent)]
    titles = [json.loads(each.with_name("notebook.ipynb").read_text())["metadata"]["title"] for each in pages]
    links = [link(title, f"{each.parent.name}/{each.name}") for title, each in zip(titles, pages, strict=True)]
    if (reports_dir() / dataset / "ablations.csv").is_file():
        links.append(link("all ablations as CSV", "ablations.csv"))
    return HTML(Markup("<ul>{}</ul>").format(join(Markup("<li>{}</li>").format(each) for each in links)))


def is_run(folder: Path) -> bool:
    """Whether a folder under reports is that of a run."""
    return (folder / "record.json").is_file()


def runs_table(dataset: str, *, of_ablations: bool = False) -> pd.DataFrame:
    """Every run on `dataset` that is no ablation, or every one that is, with links to its files, the newest last."""
    rows = []
    for name, record in sorted(read_records(dataset).items(), key=lambda pair: pair[1]["finished"]):
        if is_ablation(name) != of_ablations:
            continue
        folder = reports_dir() / dataset / name
        files = {"page": "index.html", "record": "record.json", "history": "history.csv"}
        found = [link(what, f"{name}/{file}") for what, file in files.items() if (folder / file).is_file()]
        rows.append(
            {
                "run": name,
                "files": Markup(", ").join(found),
                "epochs": str(len(record["history"])),
                "finished": record["finished"].replace("T", " ").removesuffix("+00:00"),
                "commit": (record["environments"][-1]["commit"] or "")[:10],
            }
        )
    return pd.DataFrame(rows)
