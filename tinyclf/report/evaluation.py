"""What a run's model does on the validation images: classes, confusions, mistakes, calibration."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib import colors

from tinyclf.experiments.record import Record, read_table
from tinyclf.report.figures import COLOURS, Described, percent_label, styled
from tinyclf.report.format import Column, format_metric, percent, pixels
from tinyclf.report.html import Table, gallery, table

# One colour of growing opacity, so that the page's own paper shows through, light or dark.
SHADES = ("#d55e0000", "#d55e00ff")
FULL = 0.25  # a share that has the full colour
NAMED = 25  # class names that fit beside the heat map
EVALUATION = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "loss": "loss"}
EVALUATION["calibration_error"] = "expected calibration error"


def confusion_shares(record: Record) -> pd.DataFrame:
    """The share of each class's validation images that was predicted as each class, 0..1: rows true, by wnid."""
    classes = read_table(record, "classes.csv").set_index("wnid")
    counts = read_table(record, "confusion.csv").pivot(index="wnid", columns="predicted", values="images")
    counts = counts.reindex(index=classes.index, columns=classes.index).fillna(0.0)
    counts += np.diag(classes["correct"])
    return counts.div(classes["images"], axis=0).fillna(0.0)


@styled
def heat_map(record: Record) -> Described:
    """The confusion matrix in shares of the true class, in the order of WordNet ids: animals, things, food, places."""
    shares, words = confusion_shares(record), class_words(record)
    figure, axes = plt.subplots(figsize=(5.9, 5))
    shades = colors.LinearSegmentedColormap.from_list("shades", SHADES, N=24)
    norm = colors.PowerNorm(0.5, 0, FULL, clip=True)  # by the square root, or only the diagonal would show
    image = axes.imshow(shares, cmap=shades, norm=norm, interpolation="none")
    bar = figure.colorbar(image, shrink=0.5, label="share of the class's images", ticks=[0, 0.02, 0.1, FULL])
    bar.ax.set_yticklabels(["0%", "2%", "10%", f"{percent(FULL, 0)} or more"])
    places = range(0, len(shares), -(-len(shares) // NAMED))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(places, [words[shares.index[place]] for place in places], fontsize=6.5)
    axes.tick_params(axis="x", rotation=90)
    axes.grid(visible=False)
    axes.set(xlabel="predicted", ylabel="class")
    plt.close(figure)
    cells = shares.rename_axis(index="wnid", columns="predicted").stack().rename("share").reset_index()
    worst = cells[cells["wnid"] != cells["predicted"]].sort_values("share", ascending=False, kind="stable")[:3]
    most = [f"{words[true]} as {words[guess]}, {percent(share, 0)}" for true, guess, share in worst.to_numpy()]
    text = f"Confusion matrix of {len(shares)} classes, in the order of their WordNet ids. The most: "
    return Described(figure, f"{text}{'; '.join(most)}.", cells[cells["share"] > 0])


def class_words(record: Record) -> dict[str, str]:
    """The first of the words of each class by wnid, cut to what fits next to a figure."""
    classes = read_table(record, "classes.csv")
    first = [words.split(",")[0] for words in classes["words"]]
    return dict(zip(classes["wnid"], [word if len(word) <= 24 else word[:23] + "…" for word in first], strict=True))


def commonest(record: Record, count: int = 10) -> Table:
    """The commonest confusions of a run's model on the validation images."""
    words, shares = class_words(record), confusion_shares(record)
    rows = read_table(record, "confusion.csv").sort_values("images", ascending=False, kind="stable")[:count]
    columns = [
        Column("class", lambda row: words[row["wnid"]], number=False),
        Column("taken for", lambda row: words[row["predicted"]], number=False),
        Column("share", lambda row: percent(shares.loc[row["wnid"], row["predicted"]], 0)),
    ]
    return table(rows, columns)


def class_table(record: Record) -> Table:
    """All classes with their accuracy, the worst first; in a browser they can be sorted and searched."""
    words, shares = class_words(record), confusion_shares(record)
    rows = read_table(record, "classes.csv").sort_values("accuracy", kind="stable")

    def taken_for(row: Any) -> str:
        others = shares.loc[row["wnid"]].drop(row["wnid"])
        return f"{words[others.idxmax()]}, {percent(others.max(), 0)}" if others.max() > 0 else ""

    columns = [
        Column("class", lambda row: words[row["wnid"]], number=False),
        Column("accuracy", lambda row: percent(row["accuracy"], 0)),
        Column("correct", lambda row: str(row["correct"])),
        Column("images", lambda row: str(row["images"])),
        Column("most often taken for", taken_for, number=False),
        Column("WordNet id", lambda row: row["wnid"], number=False),
    ]
    return table(rows, columns, "sortable")


def evaluation_table(record: Record) -> Table:
    """The metrics of the model of the last epoch: at the size of its training, with flip TTA, at other sizes.

    The accuracy at one size alone is that of the headline, and left out.
    """
    own = pixels(record["settings"]["input_size"])
    results = {own: record["evaluation"]} | ({f"{own}, flip TTA": record["flip_tta"]} if record["flip_tta"] else {})
    results |= {pixels(size): result for size, result in record["other_sizes"].items()}
    rows = pd.DataFrame(results).rename_axis("key").reset_index()
    rows = rows[rows["key"].isin(list(EVALUATION)[len(results) == 1 :])]

    def column(name: str) -> Column:
        return Column(f"validation, {name}", lambda row: format_metric(row["key"], row[name]))

    return table(rows, [Column("metric", lambda row: EVALUATION[row["key"]], number=False), *map(column, results)])


@styled
def reliability(record: Record) -> Described:
    """Accuracy by confidence of a run's model on the validation images, and how many images have each confidence."""
    bins = read_table(record, "reliability.csv")
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(4.5, 3.8), sharex=True, height_ratios=(3, 1))
    bars = {"x": bins["from"], "width": bins["to"] - bins["from"], "align": "edge", "edgecolor": "#24292f"}
    top.bar(height=bins["accuracy"], color=COLOURS[1], alpha=0.6, linewidth=0.6, **bars)
    top.plot([0, 1], [0, 1], "--", color="#24292f", linewidth=1, label="confidence = accuracy")
    top.plot(bins["confidence"], bins["accuracy"], "o", color=COLOURS[1], label="mean of each bin")
    error = f"expected calibration error {percent(record['evaluation']['calibration_error'])}"
    top.set(ylabel="accuracy", ylim=(0, 1), title=error)
    bottom.bar(height=bins["images"] / bins["images"].sum(), color="#888888", linewidth=0.6, **bars)
    bottom.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
        axis.set_major_formatter(percent_label)
    figure.legend(loc="outside lower center", ncols=2)
    plt.close(figure)
    pairs = bins[["confidence", "accuracy"]].to_numpy()
    told = ", ".join(f"{percent(confidence, 0)} to {percent(accuracy, 0)}" for confidence, accuracy in pairs)
    return Described(figure, f"Reliability diagram, {error}: confidence to accuracy by bin: {told}.", bins)


def mistakes(record: Record, images: np.ndarray, count: int = 12) -> HTML:
    """The most confident mistakes among the validation images: true and predicted words, and the confidence."""
    words, rows = class_words(record), read_table(record, "mistakes.csv")[:count]
    cells = rows[["wnid", "predicted", "confidence"]].to_numpy()
    texts = [f"{words[true]} → {words[guess]}, {percent(sure, 0)}" for true, guess, sure in cells]
    return gallery([images[image] for image in rows["image"]], texts)
