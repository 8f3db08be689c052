"""The accuracy of all experiments and the published one: a table of numbers, and the same in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.report.format import assignments, duration, format_metric, hardware, percent, pixels, share
from tinyclf.report.html import Column, markdown
from tinyclf.report.published import PUBLISHED, published, published_at
from tinyclf.report.runs import group_runs, load_runs
from tinyclf.report.verdict import Verdict, judge, verdict
from tinyclf.utils.lazy import pd
from tinyclf.utils.paths import PROJECT, reports_dir

TITLES = {"scratch": "From scratch", "imagenet": "From ImageNet weights"}

REPRODUCED = (
    "*Reproduced* means that the two accuracies differ by at most two standard errors of their difference. Each counts "
    "as a sample of as many images as it was evaluated on; the seeds of a mean share their images."
)


def accuracy_table(dataset: str) -> pd.DataFrame:
    """The experiments that reproduce a published number or have a goal, a row each, run or not. Numbers.

    Columns: those of `group_runs`, NaN where nothing was run; `title`; `table`, one of TITLES; `size`, pixels, in the
    extra row of a model that was evaluated at another size, else 0; `goals`, pairs of text and status, if they compare;
    `published_last`, `published_best`, `published_epochs`, `published_then`, the published accuracy at the last epoch
    of the run; `difference`, to that; `verdict`, see `tinyclf.report.verdict`. Accuracies lie in 0..1.
    """
    groups, rows = group_runs(load_runs(dataset).query("split == 'val'")), []
    for name, experiment in catalog.read_experiments(dataset).items():
        goals = catalog.goals(name)
        if not (name in PUBLISHED or goals):
            continue
        run: dict[str, Any] = groups.loc[name].to_dict() if name in groups.index else {}
        start = run.get("start") or experiment.settings.weights.replace("none", "scratch")
        about = {
            "experiment": name,
            "title": experiment.title,
            "table": "scratch" if start.endswith("scratch") else "imagenet",
            "planned_epochs": experiment.settings.epochs,
            "runs": run.get("runs", []),
            "overrides": run.get("overrides", {}),
            "machines": run.get("machines", []),
        }
        status = [(goal.text, goal_status(goal, run, dataset)) for goal in goals if DATASETS[dataset].comparable]
        compared = compare_with_published(name, run, dataset)
        compared["verdict"] = row_verdict(name, dataset, run, experiment.settings.epochs)
        rows.append(run | about | {"size": 0, "goals": status} | compared)
        for size, row in PUBLISHED.get(name, {}).get("other_sizes", {}).items():
            rows.append(about | at_other_size(int(size), run, row if published(name, dataset) else {}))
    columns = dict.fromkeys([*groups, *(key for row in rows for key in row)])
    return pd.DataFrame(rows, columns=list(columns))


def compare_with_published(name: str, run: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The published side of a row, and how much more accurate `run`, a row of `group_runs`, is at its last epoch."""
    row = published(name, dataset) or {}
    then = published_at(name, dataset, run["epochs"]) if run else math.nan
    return {
        "published_last": row.get("last", math.nan),
        "published_best": row.get("best", math.nan),
        "published_epochs": row.get("epochs", math.nan),
        "published_then": then,
        "difference": run.get("accuracy", math.nan) - then,
    }


def row_verdict(name: str, dataset: str, run: dict[str, Any], planned: int) -> Verdict:
    """The verdict on a row of `group_runs`, empty where the experiment was not run."""
    return verdict(
        name, dataset, run.get("accuracy", math.nan), run.get("epochs", 0), planned, run.get("val_images", 0)
    )


def at_other_size(size: int, run: dict[str, Any], published_row: dict[str, float]) -> dict[str, Any]:
    """The row of a model that was evaluated at another size than that of its training."""
    accuracy, last = run.get("other_sizes", {}).get(size, math.nan), published_row.get("last", math.nan)
    kind = judge(accuracy, last, run.get("val_images", 0))
    return {
        "title": f"the same model, evaluated at {pixels(size)}",
        "size": size,
        "goals": [],
        "machines": [],  # it was not trained for this row
        "accuracy": accuracy,
        "val_images": run.get("val_images", math.nan),
        "published_last": last,
        "published_then": last,
        "difference": accuracy - last,
        "verdict": Verdict(kind, kind),
    }


def goal_status(goal: catalog.Goal, run: dict[str, Any], dataset: str) -> str:
    """`reached` or `missed` by the mean over seeds; empty where nothing was run or `dataset` does not compare."""
    if not run or not DATASETS[dataset].comparable:
        return ""
    within = (goal.epochs is None or run["epochs"] <= goal.epochs) and (
        goal.compute is None or run["share"] <= goal.compute
    )
    return "reached" if within and run["accuracy"] >= goal.accuracy else "missed"


def answer_in_markdown(dataset: str) -> str:
    """The sentences of `answer`, the first one bold."""
    first, *others = answer(dataset)
    return " ".join([f"**{first}**", *others])


def markdown_report(dataset: str, project: str = "../..") -> str:
    """The accuracy tables with what a reader must know of them, in Markdown; project: see `data_notes`."""
    return "\n\n".join([markdown_tables(dataset), *notes(dataset, project)])


def answer(dataset: str) -> list[str]:
    """What was reproduced and how well, from the records: sentences of text, the answer first."""
    table = accuracy_table(dataset)
    trained = table[table["size"] == 0]
    ran = trained[trained["accuracy"].notna()]
    if ran.empty:
        return ["No experiment has run yet.", f"`tinyclf report --dataset {dataset}` runs all of them."]
    if DATASETS[dataset].comparable:
        return reproduction(table[table["published_last"].notna()])
    best = ran.loc[ran["accuracy"].astype(float).idxmax()]
    highest = f"The highest validation accuracy is {percent(best['accuracy'])}, of “{best['title']}”."
    return [f"{len(ran)} of {len(trained)} experiments have run.", highest]


def reproduction(rows: pd.DataFrame) -> list[str]:
    """How many of the rows with a published accuracy reproduce it, and what the others do: sentences."""
    kinds, training = rows["verdict"].map(lambda verdict: verdict.kind), rows["size"] == 0
    whole = (rows["epochs"] == rows["published_epochs"]) | ~training
    reproduced, started = rows[training & whole & (kinds == "reproduced")], rows["epochs"].notna()
    sentences = [f"{len(reproduced)} of {training.sum()} published results reproduced within two standard errors"]
    if len(reproduced):
        farthest = reproduced["difference"].astype(float).abs().max()
        sentences.append(
            f"The largest difference of {'these' if len(reproduced) > 1 else 'it'} is {100 * farthest:.2f} points"
        )
    for (_, row), kind in zip(rows.iterrows(), kinds, strict=True):
        if kind in ("above", "below") and whole[row.name]:
            accuracies = f"{percent(row['accuracy'])}, published {percent(row['published_last'])}"
            sentences.append(f"“{full_title(row, rows)}” is {kind}: {accuracies}")
    others = {
        "not run yet": training & ~started,
        "with other numbers of epochs than published": training & started & ~whole,
    }
    sentences += [
        f"{number} {words}" for words, number in ((key, rows.sum()) for key, rows in others.items()) if number
    ]
    return [f"{sentence}." for sentence in sentences]


def full_title(row: Any, rows: pd.DataFrame) -> str:
    """The title of a row; that of another size says of which model."""
    own = rows[(rows["experiment"] == row["experiment"]) & (rows["size"] == 0)]["title"].iloc[0]
    return f"{own}, evaluated at {pixels(row['size'])}" if row["size"] else str(own)


def markdown_tables(dataset: str) -> str:
    """The accuracy tables in Markdown, each under its title: what, published, ours, verdict, epochs, time.

    One table for what started from scratch and one for what started from ImageNet weights: images of Tiny-ImageNet are
    ImageNet's own, so that a pretrained model may have seen those that it is evaluated on.
    """
    table = accuracy_table(dataset)
    columns = [
        Column("what", what, number=False),
        Column("published", lambda row: percent(row["published_last"])),
        Column("ours", ours_text),
        Column("verdict" if DATASETS[dataset].comparable else "", verdict_text, number=False),
        Column("epochs", epochs_text),
        Column("time", lambda row: duration(row["seconds"])),
    ]
    if not DATASETS[dataset].comparable:
        columns.pop(1)
    parts = [f"### {title}\n\n{markdown(table[table['table'] == key], columns)}" for key, title in TITLES.items()]
    return "\n\n".join([*parts, *order(dataset)])


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
    return overrides + ["stand-in weights"] * ("stand-in" in str(row["start"]))


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


def order(dataset: str) -> list[str]:
    """Whether the pretrained models are in the published order by their last epoch: a sentence, if there are two."""
    table, accuracies = accuracy_table(dataset), {}
    for _, row in table[table["table"] == "imagenet"].iterrows():
        known = PUBLISHED.get(row["experiment"], {})
        known = known.get("other_sizes", {}).get(str(row["size"]), {}) if row["size"] else known
        if known and not math.isnan(row["accuracy"]):
            name = f"{row['experiment']} at {pixels(row['size'])}" if row["size"] else row["experiment"]
            accuracies[name] = (known["last"], row["accuracy"])
    if len(accuracies) < 2 or DATASETS[dataset].synthetic:
        return []
    by_published, by_ours = (sorted(accuracies, key=lambda name: -accuracies[name][which]) for which in (0, 1))
    text = f"Order by the last epoch, published: {' > '.join(by_published)}."
    return [f"{text} Ours: {'the same' if by_ours == by_published else ' > '.join(by_ours)}."]


def notes(dataset: str, project: str = "../..") -> list[str]:
    """What a reader must know of the accuracy tables, in Markdown, a few sentences; project: see `data_notes`."""
    return [*reading_notes(dataset), *data_notes(dataset, load_runs(dataset)["start"], project)]


def reading_notes(dataset: str) -> list[str]:
    """What the words and numbers of the accuracy tables mean, in Markdown."""
    table = accuracy_table(dataset)
    machines = hardware(machine for machines in table["machines"] for machine in machines)
    return [
        "Validation accuracy, top-1, after the last epoch; of several seeds, mean ± standard deviation. The time is "
        "that of training with validation" + (f", on {machines}." if machines else "."),
        *[REPRODUCED] * DATASETS[dataset].comparable,
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
