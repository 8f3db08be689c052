"""The front page of a data set's reports: what was tried, what came out, and how to get it again."""

import pandas as pd
from IPython.display import HTML
from markupsafe import Markup

from tinyclf.commands import command
from tinyclf.experiments import is_ablation
from tinyclf.figures import svg, thumbnail
from tinyclf.markup import link, picture, table, two_lines
from tinyclf.naming import family
from tinyclf.paths import reports_dir
from tinyclf.records import Record, read_records
from tinyclf.tables import PRETRAINED, SCRATCH, Row, accuracy_rows, by_experiment, duration, seconds_of


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
    return {
        "experiment": two_lines(run_links(row.title, runs), "; ".join(about)),
        "published, last epoch": goals or two_lines(text["published last"], ", ".join(published)),
        "ours, last epoch": two_lines(text["ours last"], ", ".join(ours)),
        "difference": two_lines(signed(text["difference"]), same_epoch) if text["difference"] else "",
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
        folder = reports_dir() / run["settings"]["dataset"] / run["run"]
        page = "index.html" if (folder / "index.html").is_file() else "record.json"
        links.append(link(title if not place else f"seed {run['settings']['seed']}", f"{run['run']}/{page}"))
    return Markup(", ").join(links) if links else title


def signed(difference: str) -> Markup:
    """A difference in a colour and with an arrow for its sign."""
    kind, arrow = ("below", "▼") if difference.startswith("-") else ("above", "▲")
    return Markup('<span class="{}">{} {}</span>').format(kind, arrow, difference)


def regenerate(dataset: str) -> str:
    """The lines that make all that the tables show again, in a shell."""
    lines = [command(name, runs, "run") for name, runs in by_experiment(read_records(dataset)).items()]
    return "\n".join([*lines, f"tinyclf run ablations --dataset {dataset}"])


def runs_table(dataset: str) -> pd.DataFrame:
    """Every run on `dataset` but ablations, with links to its files, the newest last."""
    rows = []
    for name, record in sorted(read_records(dataset).items(), key=lambda pair: pair[1]["finished"]):
        if is_ablation(name):
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
