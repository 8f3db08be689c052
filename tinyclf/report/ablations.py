"""What each part of a recipe contributes: every run that was evaluated on held-out images, with its command."""

from __future__ import annotations

import math
from typing import Any

from tinyclf.experiments import catalog
from tinyclf.report.figures import COLOURS, Described, percent_label, styled
from tinyclf.report.format import Column, assignments, duration, format_metric, hardware, percent, points, share
from tinyclf.report.html import small_lines, verdict_mark
from tinyclf.report.runs import GROUPED, group_seeds, read_runs
from tinyclf.report.verdict import ERRORS
from tinyclf.utils.lazy import pd, plt

EQUAL = 0.02  # compute that differs by less is called equal


def ablation_table(dataset: str) -> pd.DataFrame:
    """Every run on `dataset` that held out images, a row for those that differ in nothing but their seed.

    Accuracies lie in 0..1. run: its name without a seed; recipe, ablation: the two parts of it, where ablations.toml
    knows it; base: the ablation that it changes something of; changed: what that is, and what was changed for this run
    alone; accuracy: of the held-out images by the model of the last epoch, the mean over seeds; deviation: their
    standard deviation; held_out: how many images those are; flip_tta: the accuracy with flip TTA; multiply_adds: of its
    training, forward and backward; share: the same in parts of the published baseline's; seconds; hardware; commit;
    command: what repeats it.
    """
    runs = [run for run in read_runs(dataset) if run["split"] == "held-out"]
    groups = pd.DataFrame(group_seeds(runs), columns=GROUPED)
    facts = [catalog.ablation(name) for name in groups["experiment"]]
    return pd.DataFrame(
        {
            "run": groups["experiment"],
            "recipe": [fact.recipe if fact else "" for fact in facts],
            "ablation": [fact.label if fact else name for fact, name in zip(facts, groups["experiment"], strict=True)],
            "base": [fact.base if fact else "" for fact in facts],
            "changed": [
                assignments((fact.changes if fact else {}) | overrides)
                for fact, overrides in zip(facts, groups["overrides"], strict=True)
            ],
            "accuracy": groups["accuracy"],
            "deviation": groups["accuracy_std"],
            "held_out": groups["val_images"],
            "flip_tta": groups["flip_tta"],
            "epochs": groups["epochs"],
            "seeds": groups["seeds"],
            "multiply_adds": groups["compute_total"],
            "share": groups["share"],
            "seconds": groups["seconds"].astype(float).round().astype(int),
            "hardware": groups["machines"].map(hardware),
            "commit": groups["commit"],
            "command": groups["commands"].map("; ".join),
        }
    )


def compare(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The ablations of one recipe, the least compute first, compared with their base and with those of equal compute.

    Adds `group`, a number for all whose compute is within EQUAL of the least among them, and its `group_size`;
    `behind`, the accuracy of the best of the group less the own; `gain`, the accuracy less that of the base, and
    `times`, the compute in parts of the base's, both NaN where the base was not run; `error`, the standard error of
    the accuracy; `chosen`, whether the recipe has these settings on `dataset`.
    """
    table = table.sort_values("share", kind="stable")
    starts: list[float] = []
    for value in table["share"]:
        starts.append(starts[-1] if starts and value <= starts[-1] * (1 + EQUAL) else value)
    table = table.assign(group=starts, error=(table["accuracy"] * (1 - table["accuracy"]) / table["held_out"]) ** 0.5)
    groups = table.groupby("group")["accuracy"]
    bases = table.drop_duplicates("ablation", keep=False).set_index("ablation")  # no two of a name
    table = table.assign(
        group_size=table["group"].map(groups.size()),
        behind=table["group"].map(groups.max()) - table["accuracy"],
        gain=table["accuracy"] - table["base"].map(bases["accuracy"]),
        times=table["share"] / table["base"].map(bases["share"]),
        chosen=table["ablation"] == (catalog.chosen(table["recipe"].iloc[0], dataset) if len(table) else ""),
    )
    return table.sort_values(["group", "accuracy"], ascending=[True, False], kind="stable")


def name_cell(row: Any) -> str:
    """The name of an ablation; in small letters that it was chosen, and what it changed of which base."""
    changed = " with ".join(filter(None, [row["base"], row["changed"]]))
    return small_lines(row["ablation"], "chosen as the recipe" * bool(row["chosen"]), changed)


def gain_cell(row: Any) -> str:
    """The gain over the base, in a colour beyond two standard errors; where compute is not equal, how much it is."""
    if math.isnan(row["gain"]):
        return ""
    equal = abs(math.log(row["times"])) <= math.log(1 + EQUAL)
    beyond = abs(row["gain"]) > ERRORS * 2**0.5 * row["error"]
    kind = ("above" if row["gain"] > 0 else "below") if beyond and equal else ""
    return small_lines(verdict_mark(kind, points(row["gain"])), "" if equal else f"at {row['times']:.2f}x the compute")


def behind_cell(row: Any) -> str:
    """How far an ablation is behind the best of equal compute, of how many."""
    if row["group_size"] == 1:
        return "the only one"
    return f"best of {row['group_size']}" if row["behind"] == 0 else points(-row["behind"])


COLUMNS = (  # for a reader, from a row of `compare`
    Column("ablation", name_cell, number=False),
    Column("compute", lambda row: share(row["share"])),
    Column("held-out accuracy", lambda row: format_metric("accuracy", row["accuracy"], row["deviation"])),
    Column("at equal compute", behind_cell),
    Column("over its base", gain_cell),
    Column("flip TTA", lambda row: format_metric("flip_tta", row["flip_tta"])),
    Column("epochs", lambda row: str(row["epochs"])),
    Column("seeds", lambda row: str(row["seeds"])),
    Column("time", lambda row: duration(row["seconds"])),
)


def summary(table: pd.DataFrame) -> str:
    """Which ablation became the recipe, and the best of all: a sentence, in Markdown. table: from `compare`."""
    best, chosen = table.loc[table["accuracy"].idxmax()], table[table["chosen"]]

    def told(row: Any) -> str:
        accuracy = format_metric("accuracy", row["accuracy"], row["deviation"])
        return f"**{row['ablation']}** has {accuracy} at {share(row['share'])} of the published baseline's compute"

    texts = [f"The best of {len(table)}, {told(best)}." if len(table) > 1 else f"{told(best)}."]
    if len(chosen) and not chosen["ablation"].eq(best["ablation"]).any():
        texts.append(f"The chosen one, {told(chosen.iloc[0])}.")
    elif len(chosen):
        texts.append("It was chosen as the recipe.")
    return " ".join(texts)


def precision(table: pd.DataFrame) -> str:
    """How precise the accuracies of one recipe's ablations are, from the number of held-out images: sentences."""
    error = table["error"].max()
    return (
        f"{table['held_out'].min():,} images were held out. The standard error of an accuracy is up to "
        f"{100 * error:.1f} points, and that of a difference up to {100 * 2**0.5 * error:.1f} points if the two models "
        "err independently; it is less if they mostly err on the same images. A colour means more than two standard "
        f"errors. Compute is called equal within {EQUAL:.0%}. The deviation between seeds comes on top."
    )


@styled
def compute_figure(table: pd.DataFrame) -> Described:
    """Held-out accuracy against training compute, with a standard error on either side. table: from `compare`.

    Named are the chosen one, and each that is better than all with less compute.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for label, which, marker in (("ablation", ~table["chosen"], "o"), ("chosen as the recipe", table["chosen"], "*")):
        if len(rows := table[which]):
            style: dict[str, Any] = {"linestyle": "none", "capsize": 2, "elinewidth": 1, "marker": marker}
            style |= {"color": COLOURS[marker == "*"], "markersize": 12 if marker == "*" else 5}
            label += ", ± 1 standard error"
            axes.errorbar(rows["share"], rows["accuracy"], yerr=rows["error"], label=label, **style)
    by_compute = table.sort_values(["share", "accuracy"], ascending=[True, False])
    ahead = by_compute["accuracy"] > by_compute["accuracy"].cummax().shift(fill_value=0)
    for _, row in by_compute[ahead | by_compute["chosen"]].iterrows():  # names of others would overlap
        place = row["share"], row["accuracy"]
        axes.annotate(row["ablation"], place, xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.set(xlabel="training compute, in parts of the published baseline's", ylabel="held-out accuracy (top-1)")
    axes.yaxis.set_major_formatter(percent_label)
    axes.xaxis.set_major_formatter(percent_label)
    axes.margins(0.12, 0.1)
    figure.legend(loc="outside lower center", ncols=2)
    plt.close(figure)
    named = ", ".join(
        f"{row['ablation']} {percent(row['accuracy'], 1)} at {percent(row['share'], 1)}" for _, row in table.iterrows()
    )
    text = f"Held-out accuracy of the ablations of {table['recipe'].iloc[0]} by their training compute: {named}."
    return Described(figure, text, table[["ablation", "base", "share", "accuracy", "error", "deviation", "chosen"]])
