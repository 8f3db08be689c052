"""What each part of a recipe contributes: every run that was evaluated on held-out images, with its command."""

import pandas as pd

from tinyclf.experiments import catalog
from tinyclf.report.format import assignments, duration, format_metric, hardware, points, share
from tinyclf.report.html import Column
from tinyclf.report.runs import group_seeds, load_runs


def ablation_table(dataset: str) -> pd.DataFrame:
    """Every run on `dataset` that held out images, a row for those that differ in nothing but their seed.

    Accuracies lie in 0..1. run: its name without a seed; recipe, ablation: the two parts of it, where ablations.toml
    knows it; base: the ablation that it changes something of; changed: what that is, and what was changed for this run
    alone; accuracy: of the held-out images by the model of the last epoch, the mean over seeds; deviation: their
    standard deviation; held_out: how many images those are; flip_tta: the accuracy with flip TTA; multiply_adds: of its
    training, forward and backward; share: the same in parts of the published baseline's; seconds; hardware; commit;
    command: what repeats it.
    """
    groups = group_seeds(load_runs(dataset).query("split == 'held-out'"))
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


def with_gain(table: pd.DataFrame) -> pd.DataFrame:
    """The ablations of one recipe with `gain`, the accuracy less that of the base; NaN where the base was not run."""
    accuracies = table.drop_duplicates("ablation", keep=False).set_index("ablation")["accuracy"]  # no two of a name
    return table.assign(gain=table["accuracy"] - table["base"].map(accuracies))


COLUMNS = (  # for a reader, from a row of `with_gain`
    Column("ablation", lambda row: row["ablation"], number=False),
    Column("base", lambda row: row["base"], number=False),
    Column("changed", lambda row: row["changed"] or "nothing", number=False),
    Column("held-out accuracy", lambda row: format_metric("accuracy", row["accuracy"], row["deviation"])),
    Column("gain", lambda row: points(row["gain"])),
    Column("flip TTA", lambda row: format_metric("flip_tta", row["flip_tta"])),
    Column("epochs", lambda row: str(row["epochs"])),
    Column("training compute", lambda row: share(row["share"])),
    Column("seeds", lambda row: str(row["seeds"])),
    Column("time", lambda row: duration(row["seconds"])),
)


def standard_error(table: pd.DataFrame) -> str:
    """How precise the accuracies of one recipe's ablations are, from the number of held-out images: a sentence."""
    variance = (table["accuracy"] * (1 - table["accuracy"]) / table["held_out"]).max()  # of a binomial share
    return (
        f"{table['held_out'].min():,} images were held out. The standard error of an accuracy is up to "
        f"{100 * variance**0.5:.1f} points, and that of a gain up to {100 * (2 * variance) ** 0.5:.1f} points if the "
        "two models err independently; it is less if they mostly err on the same images. A gain below twice that may "
        "be chance. The deviation between seeds comes on top."
    )
