"""Write what README.md and docs/ show of the committed records: `python docs/results.py`.

A block goes between its marks, `<!-- NAME -->` and `<!-- end -->`. The figures are docs/results.svg and training.svg.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tinyclf.experiments import catalog
from tinyclf.experiments.names import dataset_folder, family
from tinyclf.experiments.record import read_records, read_table, table_path
from tinyclf.report.accuracy import accuracy_table, answer_in_markdown, markdown_report
from tinyclf.report.figures import Line, curve_table, draw, line_style, percent_label, styled, svg
from tinyclf.report.format import duration, percent, points
from tinyclf.report.runs import PUBLISHED, group_runs, load_histories, load_runs, published_curve, read_runs
from tinyclf.report.verdict import difference_error
from tinyclf.utils.paths import PROJECT

DATASET, PART = "tiny-imagenet", "tiny-imagenet-20"
END = "<!-- end -->"
LINKS = {  # of what the goals in experiments.toml name
    "giung2-jax": "https://github.com/cs-giung/giung2-jax",
    "AdAutoMix": "https://arxiv.org/abs/2312.11954",
}
WHOLE = "-whole-batch"  # ends the names of the runs of Step 1 whose batch norms see all images of a batch
STEP_1 = ("baseline-scratch", "baseline-imagenet")
# The successor project's runs: accuracy on the training images, and on the first 25 validation images of each class
ONE_DEVICE = {"one-device-scratch": (0.127, 0.107), "one-device-imagenet": (0.611, 0.506)}
FIRST = 25
ENLARGED = {  # three epochs of Step 2, by how its training images were enlarged
    "PIL's kernel": "step-2-pil",
    "OpenCV's": "step-2-opencv",
    "OpenCV's, saved as JPEG and read again": "step-2-jpeg",
}
QUICK = {"modern-scratch": "norms-100", "modern-imagenet": "rate-010"}  # the ablation that its quick variants change


def tables(dataset: str) -> str:
    """The accuracy tables of a data set."""
    text = markdown_report(accuracy_table(dataset))
    for name, address in LINKS.items():
        text = text.replace(name, f"[{name}]({address})")
    return text


def headline() -> str:
    """What was reproduced, in sentences."""
    return answer_in_markdown(accuracy_table(DATASET))


def mean_history(experiment: str, key: str) -> pd.Series:
    """A number of an experiment's runs by epoch, the mean of its seeds; empty where none was recorded."""
    histories = load_histories(DATASET)
    return histories[histories["run"].map(family) == experiment].groupby("epoch")[key].mean()


def published_series(experiment: str, key: str) -> pd.Series:
    """A published number by epoch."""
    return pd.Series(published_curve(experiment, DATASET, key), dtype=float)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def closeness() -> str:
    """How far each row is from the published one, in points: at the end, at most, and in training."""
    rows = []
    for name, published in PUBLISHED.items():
        points = 100 * (mean_history(name, "val_accuracy") - published_series(name, "val_accuracy")).dropna()
        train = mean_history(name, "train_accuracy").get(published["epochs"], float("nan"))
        if points.empty:
            continue
        epoch, told = points.abs().idxmax(), published["train_accuracy"][-1]
        most = f"{points[epoch]:+.2f} in epoch {epoch}"
        rows.append([f"`{name}`", f"{points.iloc[-1]:+.2f}", most, percent(train), percent(told)])
    return markdown(["row", "last epoch", "largest difference", "training accuracy", "published"], rows)


def training() -> str:
    """The training accuracy of Step 1 by epoch: published, with batch norms over halves, and over whole batches."""
    parts = []
    for name in STEP_1:
        published = published_series(name, "train_accuracy")
        halves, whole = (mean_history(run, "train_accuracy") for run in (name, name + WHOLE))
        rows = [
            [text, *(percent(curve.get(epoch, float("nan"))) for epoch in published.index)]
            for text, curve in (("published", published), ("ours, halves", halves), ("ours, whole batches", whole))
        ]
        title = catalog.read_experiments(DATASET)[name].title
        parts.append(f"{title}:\n\n{markdown(['epoch', *map(str, published.index)], rows)}")
        if far := (100 * (halves - published).dropna()).abs().to_dict():
            epoch = max(far, key=lambda epoch: far[epoch])
            parts.append(f"Halves are at most {far[epoch]:.1f} points from the published curve, in epoch {epoch}.")
    return "\n\n".join(parts)


def one_device() -> str:
    """The successor's runs on one device beside ours: training accuracy, and that on its validation images."""
    rows, records = [], read_records(DATASET)
    for name, (train, val) in ONE_DEVICE.items():
        accuracies = ["not run yet", "not run yet"]
        if name in records and table_path(records[name], "predictions.csv.gz").is_file():
            predictions = read_table(records[name], "predictions.csv.gz")
            first = predictions.groupby("wnid").head(FIRST)
            share = (first["wnid"] == first["predicted"]).mean()
            accuracies = [percent(records[name]["history"][-1]["train_accuracy"]), percent(share)]
        rows.append([f"`{name}`", percent(train), accuracies[0], percent(val), accuracies[1]])
    return markdown(["run", "training, published", "ours", "validation, published", "ours"], rows)


def enlarging() -> str:
    """What kernel and JPEG step change in Step 2 on every tenth class: the mean over seeds, and its standard error."""
    runs = load_runs(PART)
    groups = [100 * runs[runs["experiment"] == name][["accuracy", "resized"]] for name in ENLARGED.values()]
    rows = []
    for text, group in zip(ENLARGED, groups, strict=True):
        cells = [f"{group[key].mean():.2f} ± {group[key].sem():.2f}%" for key in group]
        rows.append([text, str(len(group)), *cells])
    told = []
    for before, after in pairwise(groups):
        change, error = after.mean() - before.mean(), (before.sem() ** 2 + after.sem() ** 2) ** 0.5
        parts = [
            f"{change[key]:+.2f} points ({abs(change[key]) / error[key]:.1f} standard errors)" for key in change.index
        ]
        told.append(f"{parts[0]} at 224 and {parts[1]} at 64")
    table = markdown(["training images", "seeds", "validation at 224", "at 64"], rows)
    return f"{table}\n\nOpenCV's kernel changes the accuracy by {told[0]}, the JPEG step by {told[1]}."


def halves_and_whole() -> str:
    """Each row on every tenth class, with batch norms over halves and over whole batches: accuracies at the end."""
    runs, rows = load_runs(PART).set_index("run"), []
    trained = load_histories(PART).groupby("run")["train_accuracy"].last()
    for name in PUBLISHED:
        pair = (name, name + WHOLE)
        cells = [percent(values.get(run, math.nan)) for values in (trained, runs["accuracy"]) for run in pair]
        rows.append([f"`{name}`", *cells])
    return markdown(["row", "training, halves", "whole", "validation, halves", "whole"], rows)


def quick_variants() -> str:
    """The quick variants of two recipes, the best first, and how far each is from the one that it changes."""
    table, rows = pd.read_csv(dataset_folder(PART) / "ablations.csv").set_index("run"), []
    for recipe, label in QUICK.items():
        base, kind = table.loc[f"{recipe}.{label}"], f"{recipe}.{label.partition('-')[0]}-"
        for run, row in table[table.index.str.startswith(kind)].sort_values("accuracy", ascending=False).iterrows():
            error = difference_error(row["accuracy"], base["accuracy"], row["held_out"], base["held_out"])
            change = "" if run == base.name else f"{points(row['accuracy'] - base['accuracy'])} ± {100 * error:.1f}"
            rows.append([f"`{run}`", percent(row["accuracy"], std=row["deviation"]), str(row["seeds"]), change])
    return markdown(["ablation", "held-out accuracy", "seeds", "points, ± standard error"], rows)


def times() -> str:
    """What the runs took on a GPU."""
    runs = load_runs(DATASET)
    runs = runs[runs["machines"].map(lambda machines: {machine["name"] for machine in machines} == {"NVIDIA H200"})]
    rows = []
    for name, group in runs.groupby(runs["run"].map(family), sort=False):
        ends = dict.fromkeys([duration(group["seconds"].min()), duration(group["seconds"].max())])
        seeds = f", each of {len(group)} seeds" if len(group) > 1 else ""
        precision, epochs = group["settings.precision"].iloc[0], group["epochs"].iloc[0]
        rows.append([f"`{name}`{seeds}", precision, str(epochs), " to ".join(ends)])
    return markdown(["run", "precision", "epochs", "time"], rows)


@styled
def results_figure() -> Figure:
    """Validation accuracy by epoch: ours solid, the mean of seeds in a band of one deviation; published dotted."""
    runs, histories = group_runs(read_runs(DATASET)), load_histories(DATASET)
    figure, axes = plt.subplots(figsize=(8, 4.8))
    handles = []
    for number, name in enumerate(PUBLISHED):
        style, title = line_style(number), catalog.read_experiments(DATASET)[name].title
        counted = histories[histories["run"].isin(runs[name]["runs"] if name in runs else [])]
        draw(axes, curve_table(Line(title, name, counted, "val"), "accuracy"), style, title)
        handles.append(Line2D([], [], label=title, **style))
    ink = axes.xaxis.label.get_color()
    handles += [Line2D([], [], color=ink, label="ours"), Line2D([], [], color=ink, linestyle=":", label="published")]
    axes.set(xlabel="epoch", ylabel="validation accuracy (top-1)", ylim=0)
    finish(figure, handles)
    return figure


@styled
def training_figure() -> Figure:
    """Training accuracy of Step 1 by epoch: published, halves, whole batches."""
    figure, both = plt.subplots(1, 2, figsize=(8, 3.6))
    for axes, name in zip(both, STEP_1, strict=True):
        published = published_series(name, "train_accuracy")
        lines = {"ours, batch norms over halves": name, "ours, batch norms over whole batches": name + WHOLE}
        handles = [axes.plot(published, "k:", label="published")[0]]
        for number, (text, run) in enumerate(lines.items()):
            handles += axes.plot(mean_history(run, "train_accuracy"), label=text, **line_style(number), markersize=3)
        axes.set(xlabel="epoch", title=catalog.read_experiments(DATASET)[name].title, ylim=0)
    both[0].set_ylabel("training accuracy (top-1)")
    finish(figure, handles)
    return figure


def finish(figure: Figure, handles: list[Line2D]) -> None:
    """Axes of whole epochs and of per cent, and a legend below."""
    for axes in figure.axes:
        axes.locator_params("x", integer=True)
        axes.yaxis.set_major_formatter(percent_label)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    plt.close(figure)


FIGURES: dict[str, Callable[[], Figure]] = {"results.svg": results_figure, "training.svg": training_figure}
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"headline": headline, "tiny-imagenet": lambda: tables(DATASET)},
    "docs/results.md": {
        "headline": headline,
        "tiny-imagenet": lambda: tables(DATASET),
        "closeness": closeness,
        "training": training,
        "one-device": one_device,
        "enlarging": enlarging,
        "halves": halves_and_whole,
        "tiny-imagenet-20": lambda: tables(PART),
    },
    "docs/recipes.md": {"quick": quick_variants},
    "docs/running.md": {"times": times},
}


def page(path: str) -> str:
    """The text of a page, with its blocks made anew."""
    text = Path(PROJECT, path).read_text("utf-8")
    for name, block in PAGES[path].items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}{mark}{block()}\n{END}{rest.partition(END)[2]}"
    return text


if __name__ == "__main__":
    for name, make in FIGURES.items():
        Path(PROJECT, "docs", name).write_text(svg(make()), "utf-8")
    for path in PAGES:
        Path(PROJECT, path).write_text(page(path), "utf-8")
