"""What each part of a recipe is worth: every run that was validated on held-out images, with its command."""

import dataclasses
import json
import statistics

import pandas as pd

from tinyclf import catalog as experiments
from tinyclf.accuracy import cost, hardware_of, percent, relative_cost, start_of
from tinyclf.commands import command, differences
from tinyclf.names import family
from tinyclf.record import Record, read_records, settings_of

MUTE = ("seed", "weights", "eval_size", "flip_tta")  # settings that change no training, or stand beside them


def ablations(dataset: str) -> pd.DataFrame:
    """Every run on `dataset` that held out images, a row for those that differ in nothing but their seed.

    Numbers as they are, accuracies in 0..1. run: its name without a seed; recipe, ablation: the two parts of it, where
    experiments.toml knows it; over: the ablation that it changes something of; changed: what that is, and what was
    changed for this run alone; accuracy: of the held-out images by the model of the last epoch, the mean over seeds;
    deviation: their standard deviation; held_out: how many images those are; mirrored: the accuracy of each image
    together with its mirror image; multiply_adds: of its training, forward and backward; of row 1: the same in parts of
    what row 1 takes; seconds; hardware; commit; command: what runs it again.
    """
    alike: dict[str, list[Record]] = {}
    for name, record in read_records(dataset).items():
        settings = settings_of(record)
        if settings.hold_out:
            same = {key: value for key, value in dataclasses.asdict(settings).items() if key not in MUTE}
            kind = json.dumps([family(name), same, start_of(record), record["data"]["sha256"]])
            alike.setdefault(kind, []).append(record)
    rows = [row(family(runs[0]["run"]), runs) for runs in alike.values()]
    places = {name: place for place, name in enumerate(experiments.entries())}
    return pd.DataFrame(sorted(rows, key=lambda row: places.get(row["run"], len(places))))


def row(name: str, runs: list[Record]) -> dict[str, object]:
    """The row of runs that differ in nothing but their seed."""
    accuracies = [run["result"]["last"]["val_accuracy"] for run in runs]
    mirrored = [run["mirrored"]["top1"] for run in runs if run.get("mirrored")]
    entry = experiments.entries().get(name, {})
    recipe, _, ablation = name.partition(".") if "over" in entry else ("", "", name)
    changed = entry.get("changed", {}) | differences(runs[0])
    return {
        "run": name,
        "recipe": recipe,
        "ablation": ablation,
        "over": entry.get("over", ""),
        "changed": ", ".join(f"{key} = {value}" for key, value in changed.items()),
        "accuracy": statistics.mean(accuracies),
        "deviation": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "held_out": runs[0]["data"]["val"],
        "mirrored": statistics.mean(mirrored) if mirrored else None,
        "epochs": len(runs[0]["history"]),
        "seeds": len(runs),
        "multiply_adds": cost(runs[0]),
        "of row 1": relative_cost(runs[0]),
        "seconds": round(statistics.mean(run["seconds"] for run in runs)),
        "hardware": hardware_of(runs),
        "commit": runs[0]["environments"][-1]["commit"],
        "command": command(name, runs),
    }


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The ablations of one recipe as text, in the order of experiments.toml, each beside the one that it goes over."""
    accuracies = table.drop_duplicates("ablation", keep=False).set_index("ablation")["accuracy"]  # no two of a name
    rows = []
    for _, each in table.iterrows():
        deviation = "" if pd.isna(each["deviation"]) else f" ± {100 * each['deviation']:.2f}"
        before = accuracies.get(each["over"])
        rows.append(
            {
                "ablation": each["ablation"],
                "over": each["over"],
                "changed": each["changed"] or "nothing",
                "accuracy": percent(each["accuracy"], more=deviation),
                "gain": "" if before is None else f"{100 * (each['accuracy'] - before):+.2f}",
                "mirrored too": "" if pd.isna(each["mirrored"]) else percent(each["mirrored"]),
                "epochs": str(each["epochs"]),
                "arithmetic, of row 1": each["of row 1"],
                "seeds": str(each["seeds"]),
                "seconds": f"{each['seconds']:,}",
            }
        )
    return pd.DataFrame(rows)


def luck(table: pd.DataFrame) -> str:
    """How far the accuracies of one recipe's ablations are known, from the number of held-out images: a sentence."""
    variance = (table["accuracy"] * (1 - table["accuracy"]) / table["held_out"]).max()  # of a binomial share
    return (
        f"{table['held_out'].min():,} images were held out: the standard error of an accuracy is up to "
        f"{100 * variance**0.5:.1f} points, that of a gain up to {100 * (2 * variance) ** 0.5:.1f} if the two models "
        "err independently, less if they mostly err on the same images. A gain below twice that may be luck; the luck "
        "of a seed comes on top."
    )
