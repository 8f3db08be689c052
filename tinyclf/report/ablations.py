"""What each part of a recipe contributes: every run that was evaluated on held-out images, with its command."""

from __future__ import annotations

import math
from typing import Any

from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import Ablation
from tinyclf.report.format import Column, assignments, duration, format_metric, hardware, points, share
from tinyclf.report.html import small_lines, verdict_mark
from tinyclf.report.runs import GROUPED, group_seeds, read_runs
from tinyclf.report.verdict import ERRORS
from tinyclf.utils.lazy import pd

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
    facts = [catalog.ablation(name) or Ablation("", name, "", {}) for name in groups["experiment"]]
    changes = [fact.changes | overrides for fact, overrides in zip(facts, groups["overrides"], strict=True)]
    table = pd.DataFrame(
        {
            "run": groups["experiment"],
            **{"recipe": [fact.recipe for fact in facts], "ablation": [fact.label for fact in facts]},
            **{"base": [fact.base for fact in facts], "changed": list(map(assignments, changes))},
        }
    )
    same = ["accuracy", "deviation", "held_out", "flip_tta", "epochs", "seeds", "multiply_adds", "share", "seconds"]
    names = {"accuracy_std": "deviation", "val_images": "held_out", "compute_total": "multiply_adds"}
    return table.join(groups.rename(columns=names)[same]).assign(
        seconds=groups["seconds"].astype(float).round().astype(int),
        hardware=groups["machines"].map(hardware),
        commit=groups["commit"],
        command=groups["commands"].map("; ".join),
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
