"""The accuracy table in words: the answer, tables in Markdown, and what a reader must know. Imports no pandas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.report.accuracy import AccuracyTable
from tinyclf.report.columns import Column, markdown
from tinyclf.report.format import assignments, duration, format_metric, hardware, percent, pixels, share
from tinyclf.report.published import PUBLISHED
from tinyclf.report.runs import Row
from tinyclf.utils.paths import PROJECT, reports_dir

TITLES = {"scratch": "From scratch", "imagenet": "From ImageNet weights"}

REPRODUCED = (
    "*Reproduced* means that the two accuracies differ by at most two standard errors of their difference. Each counts "
    "as a sample of as many images as it was evaluated on; the seeds of a mean share their images."
)


def answer_in_markdown(table: AccuracyTable) -> str:
    """The sentences of `answer`, the first one bold."""
    first, *others = answer(table)
    return " ".join([f"**{first}**", *others])


def markdown_report(table: AccuracyTable, project: str = "../..") -> str:
    """The accuracy tables with what a reader must know of them, in Markdown; project: see `data_notes`."""
    notes = [*reading_notes(table), *data_notes(table.dataset, table.starts, project)]
    return "\n\n".join([markdown_tables(table), *notes])


def answer(table: AccuracyTable) -> list[str]:
    """What was reproduced and how well, from the records: sentences of text, the answer first."""
    ran = [row for row in table.rows if row["runs"]]
    if not ran:
        return ["No experiment has run yet.", f"`tinyclf report --dataset {table.dataset}` runs all of them."]
    if DATASETS[table.dataset].comparable:
        return reproduction([row for row in table.rows if not math.isnan(row["published_last"])])
    best, experiments = max(ran, key=lambda row: row["accuracy"]), sum(not row["size"] for row in table.rows)
    highest = f"The highest validation accuracy is {percent(best['accuracy'])}, of “{best['title']}”."
    return [f"{len(ran)} of {experiments} experiments have run.", highest]


def reproduction(rows: list[Row]) -> list[str]:
    """How many of the rows with a published accuracy reproduce it, and what the others do: sentences."""
    trained = [row for row in rows if not row["size"]]
    started = [row for row in trained if row["runs"]]
    whole = [row for row in started if row["epochs"] == row["published_epochs"]]
    reproduced = [row for row in whole if row["verdict"].kind == "reproduced"]
    sentences = [f"{len(reproduced)} of {len(trained)} published results reproduced within two standard errors"]
    if reproduced:
        farthest = max(abs(row["difference"]) for row in reproduced)
        sentences.append(
            f"The largest difference of {'these' if len(reproduced) > 1 else 'it'} is {100 * farthest:.2f} points"
        )
    for row in rows:
        kind = row["verdict"].kind
        if kind in ("above", "below") and (row["size"] or row["epochs"] == row["published_epochs"]):
            accuracies = f"{percent(row['accuracy'])}, published {percent(row['published_last'])}"
            sentences.append(f"“{full_title(row, rows)}” is {kind}: {accuracies}")
    others = {
        "not run yet": len(trained) - len(started),
        "with other numbers of epochs than published": len(started) - len(whole),
    }
    sentences += [f"{number} {words}" for words, number in others.items() if number]
    return [f"{sentence}." for sentence in sentences]


def full_title(row: Row, rows: list[Row]) -> str:
    """The title of a row; that of another size says of which model."""
    own = next(each["title"] for each in rows if each["experiment"] == row["experiment"] and not each["size"])
    return f"{own}, evaluated at {pixels(row['size'])}" if row["size"] else str(own)


def markdown_tables(table: AccuracyTable) -> str:
    """The accuracy tables in Markdown, each under its title: what, published, ours, verdict, epochs, time.

    One table for what started from scratch and one for what started from ImageNet weights: images of Tiny-ImageNet are
    ImageNet's own, so that a pretrained model may have seen those that it is evaluated on.
    """
    comparable = DATASETS[table.dataset].comparable
    columns = [
        Column("what", what, number=False),
        Column("published", lambda row: percent(row["published_last"])),
        Column("ours", ours_text),
        Column("verdict" if comparable else "", verdict_text, number=False),
        Column("epochs", epochs_text),
        Column("time", lambda row: duration(row["seconds"])),
    ]
    if not comparable:
        columns.pop(1)
    parts = [
        f"### {title}\n\n{markdown([row for row in table.rows if row['table'] == key], columns)}"
        for key, title in TITLES.items()
    ]
    return "\n\n".join([*parts, *order(table)])


def what(row: Any) -> str:
    """The title of a row, and in brackets what its runs have other than it says."""
    more = differs(row)
    if row["goals"] and row["runs"]:
        more.append(f"{share(row['share'])} of the baseline's training compute")
    return f"{row['title']} ({'; '.join(more)})" if more else str(row["title"])


def differs(row: Any) -> list[str]:
    """What the runs of a row have other than its title says: settings, and weights that are not ImageNet's."""
    if row["size"]:
        return []
    overrides = [assignments(row["overrides"])] if row["overrides"] else []
    return overrides + ["stand-in weights"] * ("stand-in" in row["start"])


def verdict_text(row: Any) -> str:
    """The verdict on a row, or whether it reached its goals."""
    goals = [f"goal: {text}" + f" ({status})" * bool(status) for text, status in row["goals"]]
    return "; ".join(filter(None, [row["verdict"].text, *goals]))


def ours_text(row: Any) -> str:
    """Our accuracy, with its deviation where there are several seeds, and with flip TTA."""
    text = format_metric("accuracy", row["accuracy"], row["accuracy_std"])
    text += f", {row['seeds']:.0f} seeds" if row["seeds"] > 1 else ""
    tta = format_metric("flip_tta", row["flip_tta"], row["flip_tta_std"])
    return f"{text}; with flip TTA {tta}" if tta else text


def epochs_text(row: Any) -> str:
    """How many epochs were trained, and out of how many if not all; empty for a row without a run."""
    if math.isnan(row["epochs"]):
        return ""
    return f"{row['epochs']:.0f}" + (f" of {row['planned_epochs']}" if row["epochs"] < row["planned_epochs"] else "")


def order(table: AccuracyTable) -> list[str]:
    """Whether the pretrained models are in the published order by their last epoch: a sentence, if there are two."""
    accuracies = {}
    for row in table.rows:
        known = PUBLISHED.get(row["experiment"], {})
        known = known.get("other_sizes", {}).get(str(row["size"]), {}) if row["size"] else known
        if known and row["table"] == "imagenet" and not math.isnan(row["accuracy"]):
            name = f"{row['experiment']} at {pixels(row['size'])}" if row["size"] else row["experiment"]
            accuracies[name] = (known["last"], row["accuracy"])
    if len(accuracies) < 2 or DATASETS[table.dataset].synthetic:
        return []
    by_published, by_ours = (sorted(accuracies, key=lambda name: -accuracies[name][which]) for which in (0, 1))
    text = f"Order by the last epoch, published: {' > '.join(by_published)}."
    return [f"{text} Ours: {'the same' if by_ours == by_published else ' > '.join(by_ours)}."]


def reading_notes(table: AccuracyTable) -> list[str]:
    """What the words and numbers of the accuracy tables mean, in Markdown."""
    machines = hardware(machine for row in table.rows for machine in row["machines"])
    return [
        "Validation accuracy, top-1, after the last epoch; of several seeds, mean ± standard deviation. The time is "
        "that of training with validation" + (f", on {machines}." if machines else "."),
        *[REPRODUCED] * DATASETS[table.dataset].comparable,
        "Flip TTA averages the predictions for an image and its mirror image. Training compute is the number of "
        "multiply-adds, forward and backward, of a run and its ancestors, relative to the published baseline of Step "
        "1 on as many images. It does not include the training of ImageNet weights.",
    ]


def data_notes(dataset: str, starts: Iterable[str], project: str) -> list[str]:
    """What the numbers of `dataset` do not show, and which weights are not ImageNet's: a note each, in Markdown.

    starts: what the runs started from; project: leads from the page to the folder that has docs/.
    """
    info = DATASETS[dataset]
    notes = [info.note] if info.note else []
    if info.synthetic:  # the note tells of its weights as well
        return notes
    here = PROJECT is not None and reports_dir() == PROJECT / "reports"  # else the link leads nowhere
    page = f"[docs/weights.md]({project}/docs/weights.md#stand-in-weights)" if here else "tinyclf's docs/weights.md"
    labels = {match[0] for match in (re.search(r"ImageNet \(.*\)$", start) for start in starts) if match}
    escaped = (re.sub(r"([\\`*_\[\]])", r"\\\1", escape(label)) for label in sorted(labels))
    return notes + [
        f"{label}: these are not torchvision's ImageNet weights. {page} describes them." for label in escaped
    ]
