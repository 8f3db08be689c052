"""The README says what the records, the notebooks and the experiments say."""

import math
import shutil
import subprocess
import tomllib

import nbformat
import pandas as pd
import pytest

from tinyclf.accuracy import markdown_tables
from tinyclf.figures import Line, curve_table
from tinyclf.paths import NOTEBOOKS, PROJECT
from tinyclf.runs import load_histories

README = (PROJECT / "README.md").read_text()


def accuracy_curves(name):
    """The validation and the training accuracy of a committed run by epoch, and the published ones."""
    histories = load_histories("tiny-imagenet")
    histories = histories[histories["run"] == name]
    return [curve_table(Line(split, name, histories, split), "accuracy") for split in ("val", "train")]


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "tiny-imagenet-20"])
def test_its_tables_are_those_of_the_committed_records(dataset, monkeypatch):
    changed = ["git", "-C", str(PROJECT), "status", "--porcelain", "--", f"reports/{dataset}"]
    if shutil.which("git") and subprocess.run(changed, capture_output=True, text=True).stdout:
        pytest.skip(f"reports/{dataset} was changed since the last commit: README.md goes with that commit")
    monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / "reports"))
    assert README.split(f"<!-- {dataset} -->\n")[1].split("\n<!-- end -->")[0] == markdown_tables(dataset)


def test_it_tells_where_the_curve_of_row_1_leaves_the_published_one(monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / "reports"))
    tables = accuracy_curves("baseline-scratch")
    val, train = (each.dropna(subset=["accuracy", "published"]) for each in tables)
    points = (100 * (val["accuracy"] - val["published"])).set_axis(val["epoch"])
    outside = points[points.abs() > 2]
    epochs = " and ".join(", ".join(map(str, outside.index)).rsplit(", ", 1))
    below = " and ".join(", ".join(f"{-each:.1f}" for each in outside).rsplit(", ", 1))
    told = " ".join(README.split("Row 1 ends ")[1].split("\n\n")[0].split())
    assert f"epochs {epochs} lie {below} points below" in told
    assert told.startswith(f"{-points.iloc[-1]:.2f} points below")
    assert points.loc[8:].abs().max() <= 0.5 and "from epoch 8 on" in told and "within half a point" in told
    most = 100 * (train["accuracy"] - train["published"]).abs().max()
    assert f"within {most:.1f} of the published one" in told


def test_it_tells_how_far_row_2_lies_from_the_published_curves(monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / "reports"))
    tables = accuracy_curves("baseline-imagenet")
    val, train = (100 * each.dropna(subset=["accuracy", "published"])[["accuracy", "published"]] for each in tables)
    told = " ".join(README.split("Row 2 ends ")[1].split("\n\n")[0].split())
    points = val["accuracy"] - val["published"]
    assert told.startswith(f"{-points.iloc[-1]:.2f} points below")
    assert f"within {math.ceil(10 * points.abs().max()) / 10} points of it all along" in told
    assert "{:.1f} % of them, published {:.1f} %".format(*train.iloc[-1]) in told


def test_it_tells_what_the_choice_of_fast_scratch_cost_on_held_out_images():
    accuracy = pd.read_csv(PROJECT / "reports/tiny-imagenet/ablations.csv", index_col="ablation")["accuracy"] * 100
    told = " ".join(README.split("`fast-scratch` is past row 1")[1].split("\n\n")[0].split())
    for ablation, over in (("late-peak", "slower"), ("four-from-16", "four")):
        assert f"{accuracy[over] - accuracy[ablation]:.1f} points below `{over}`" in told


def test_the_steps_stand_in_the_order_and_wording_of_the_notebooks():
    steps = README.split("## The steps")[1].split("##")[0]
    titles = [nbformat.read(path, 4).cells[0].source.splitlines()[0] for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    places = [steps.index(f"**{title.removeprefix('# ')}**") for title in titles]
    assert places == sorted(places) and steps.count("| [`") == len(titles)


def test_every_dependency_earns_its_place_in_it():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    stands_on = README.split("## What it stands on")[1]
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert [name for name in (each.split(">=")[0] for each in needed) if name not in stands_on] == []
