"""Every held-out run in one table, each with what it changed, over which other one, and the command that repeats it."""

import dataclasses
import json
import tomllib

import numpy as np
import pandas as pd
import pytest

from tinyclf import catalog as experiments
from tinyclf.ablations import ablations, luck, readable
from tinyclf.flops import training_cost
from tinyclf.catalog import choose, notebook_parameters, parse
from tinyclf.figures import bars
from tinyclf.paths import NOTEBOOKS, PROJECT
from tinyclf.settings import Settings

LOADS = tomllib.loads
FILE = """
[recipe]
title = "Ours"
notebook = "4_recipes.ipynb"
chosen = "slower"
parameters = { epochs = 2, label_smoothing = 0.1, flip_tta = true }
[recipe.ablations]
start = {}
plain = { label_smoothing = 0.0 }
slower = { over = "plain", learning_rate = 0.01, epochs = 3 }
"""
ENVIRONMENT = {"commit": "abc", "hardware": {"device": "cpu", "name": "A processor", "threads": 2}}


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    monkeypatch.setattr(experiments.tomllib, "loads", lambda _: LOADS(FILE))
    return tmp_path / "mini"


def leave(reports, run, accuracy, settings, **more):
    """The record of a run, as far as the table of ablations reads it."""
    folder = reports / run
    folder.mkdir(parents=True)
    record = {
        "run": run,
        "settings": dataclasses.asdict(settings),
        "data": {"classes": 20, "train": 360, "val": 40, "sha256": "abc"},
        "weights": {"label": "nothing"},
        "environments": [ENVIRONMENT],
        "history": [{}] * settings.epochs,
        "result": {"last": {"val_accuracy": accuracy}},
        "seconds": 12.4,
    }
    (folder / "record.json").write_text(json.dumps(record | more))


def leave_all(reports):
    for name, accuracies in {"recipe.slower": (0.5,), "recipe.start": (0.3, 0.4), "recipe.plain": (0.25,)}.items():
        for each, accuracy in zip(choose([name], "mini", seeds=list(range(len(accuracies)))), accuracies, strict=True):
            leave(reports, each.name, accuracy, Settings.from_notebook(each.parameters), mirrored={"top1": 0.6})
    changed = Settings(hold_out=True, epochs=2, learning_rate=0.5, label_smoothing=0.1, seed=3)
    leave(reports, "recipe.plain-again", 0.1, changed)  # of a name that no entry has
    leave(reports, "recipe", 0.9, Settings(label_smoothing=0.1))  # told on the validation images: no ablation


def test_each_held_out_run_is_a_row_with_its_seeds_and_a_command_that_repeats_it(reports):
    leave_all(reports)
    table = ablations("mini").set_index("run")
    assert set(table.index) == {"recipe.start", "recipe.plain", "recipe.slower", "recipe.plain-again"}
    start, slower = table.loc["recipe.start"], table.loc["recipe.slower"]
    assert start["accuracy"] == pytest.approx(0.35) and start["deviation"] == pytest.approx(0.0707, abs=1e-4)
    assert (start["seeds"], start["epochs"], start["seconds"], start["mirrored"]) == (2, 2, 12, 0.6)
    assert start["command"] == "tinyclf train recipe.start --dataset mini --seeds 0 1"
    assert (slower["over"], slower["changed"]) == ("plain", "learning_rate = 0.01, epochs = 3")
    assert slower["multiply_adds"] == training_cost(Settings(epochs=3), 20, 360)
    assert pd.isna(slower["deviation"]) and slower["hardware"] == "A processor, 2 threads"


def test_a_run_that_no_entry_names_is_repeated_by_its_settings(reports):
    leave_all(reports)
    row = ablations("mini").set_index("run").loc["recipe.plain-again"]
    assert row["ablation"] == "recipe.plain-again" and not row["recipe"] and not row["over"]
    words = row["command"].split()
    assert words[:2] == ["papermill", "notebooks/4_recipes.ipynb"]
    given = {words[place + 1]: words[place + 2] for place, word in enumerate(words) if word == "-p"}
    assert given.pop("run") == "recipe.plain-again" and given.pop("dataset") == "mini"
    parameters = notebook_parameters(NOTEBOOKS / "4_recipes.ipynb") | dict(parse(f"{k}={v}") for k, v in given.items())
    repeated = Settings.from_notebook(parameters | {"dataset": "mini"})
    assert (
        dataclasses.asdict(repeated)
        == json.loads((reports / "recipe.plain-again" / "record.json").read_text())["settings"]
    )


def test_what_was_changed_for_a_run_stands_in_its_command(reports):
    (each,) = choose(["recipe.start"], "mini", {"momentum": 0.8})
    leave(reports, "recipe.start", 0.2, Settings.from_notebook(each.parameters))
    (row,) = ablations("mini").to_dict("records")
    assert row["changed"] == "momentum = 0.8"
    assert row["command"] == "tinyclf train recipe.start --dataset mini -p momentum=0.8 --seeds 0"


@pytest.mark.parametrize(
    ("name", "settings", "command"),
    [
        ("recipe", {"hold_out": True}, "tinyclf train recipe --dataset mini -p hold_out=True --seeds 0"),
        (
            "recipe.start",
            {"weights": "other.pth"},
            "tinyclf train recipe.start --dataset mini -p weights=other.pth --seeds 0",
        ),
    ],
)
def test_the_command_has_whatever_was_put_over_an_experiment(reports, name, settings, command):
    planned = Settings.from_notebook(choose([name], "mini")[0].parameters)
    leave(reports, name, 0.2, dataclasses.replace(planned, **settings))
    (row,) = ablations("mini").to_dict("records")
    assert row["command"] == command


def test_a_stand_in_for_imagenet_weights_is_no_change(reports, monkeypatch):
    monkeypatch.setattr(
        experiments.tomllib, "loads", lambda _: LOADS(FILE.replace("epochs = 2", 'weights = "imagenet"'))
    )
    planned = experiments.read("mini")["recipe.start"].parameters
    leave(reports, "recipe.start", 0.2, Settings.from_notebook(planned | {"weights": "standin.pth"}))
    (row,) = ablations("mini").to_dict("records")
    assert row["command"] == "tinyclf train recipe.start --dataset mini --imagenet standin.pth --seeds 0"
    assert row["changed"] == ""


def test_for_a_reader_each_stands_beside_the_one_that_it_goes_over(reports):
    leave_all(reports)
    table = ablations("mini")
    rows = readable(table[table["recipe"] == "recipe"]).set_index("ablation")
    assert list(rows.index) == ["start", "plain", "slower"]  # as experiments.toml has them
    assert list(rows["gain"]) == ["", "-10.00", "+25.00"]
    assert rows.loc["start", "accuracy"] == "35.00 ± 7.07\u00a0%" and rows.loc["start", "changed"] == "nothing"
    figure, text, data = bars(table[table["recipe"] == "recipe"])
    assert text == "Accuracy of the ablations of recipe, per cent: slower 50.0, start 35.0, plain 25.0."
    assert list(data["ablation"]) == ["plain", "start", "slower"] and len(figure.axes[0].containers) == 3


def test_how_far_an_accuracy_is_known_is_what_drawing_other_images_shows(reports):
    leave_all(reports)
    table = ablations("mini")
    table = table[table["recipe"] == "recipe"]  # 40 images each; of the accuracies, the one at 0.5 is known the least
    drawn = np.random.default_rng(0).binomial(40, 0.5, (2, 200_000)) / 40
    one, two = 100 * drawn[0].std(), 100 * (drawn[0] - drawn[1]).std()
    assert "40 images were held out" in luck(table)
    assert f"of an accuracy is up to {one:.1f} points, that of a gain up to {two:.1f} if" in luck(table)


def test_without_a_run_there_is_no_row(reports):
    assert ablations("mini").empty


@pytest.mark.parametrize(
    "folder", sorted((PROJECT / "reports").glob("*/ablations.csv")), ids=lambda path: path.parent.name
)
def test_the_committed_table_is_that_of_the_committed_records(folder, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("TINYCLF_REPORTS", raising=False)
    assert folder.read_text() == ablations(folder.parent.name).to_csv(index=False)
