"""A slip in experiments.toml or ablations.toml is refused by file, entry and key; what is right is resolved."""

import json

import pytest

from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import read_experiments, select
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS

EXPERIMENTS = """
[recipe]
title = "Ours"
notebook = "4_recipes.ipynb"
goals = [{ text = "40%", accuracy = 0.4, epochs = 3, compute = 0.5 }]
parameters = { epochs = 3, label_smoothing = 0.1 }
mini = { batch_size = 20, epochs = 9 }
"""
ABLATIONS = """
[recipe.start]
base = "recipe"
learning_rate = 0.1
[recipe.large]
base = "start"
batch_size = 50
[recipe.plain]
base = "start"
label_smoothing = 0.0
[recipe.far]
base = "plain"
epochs = 5
[recipe.final]
base = "start"
learning_rate = 0.001
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes the two files of a folder that has the real notebooks, and has the catalog read them."""
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        (tmp_path / notebook.name).symlink_to(notebook)
    monkeypatch.setattr(catalog, "NOTEBOOKS", tmp_path)

    def write(experiments=EXPERIMENTS, ablations=ABLATIONS):
        for name, text in (("experiments.toml", experiments), ("ablations.toml", ablations)):
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    write()
    return write


def test_an_ablation_is_its_base_with_changes_validated_on_held_out_images(files):
    names = ["recipe", *(f"recipe.{label}" for label in ("start", "large", "plain", "far", "final"))]
    recipe, start, large, plain, far, final = (each.parameters for each in select(names, "mini"))
    assert start == recipe | {"learning_rate": 0.1, "hold_out": True, "run_name": "recipe.start"}
    assert (recipe["batch_size"], recipe["epochs"], recipe["label_smoothing"]) == (20, 9, 0.1)
    assert large == start | {"batch_size": 50, "run_name": "recipe.large"}
    assert plain == start | {"label_smoothing": 0.0, "run_name": "recipe.plain"}
    assert far == plain | {"epochs": 5, "run_name": "recipe.far"}
    assert final == recipe | {"hold_out": True, "run_name": "recipe.final"}
    assert [each.name for each in select([], "mini")] == ["recipe"]  # ablations only by name
    assert list(read_experiments("mini")) == names
    assert catalog.ablation("recipe.far-seed-3") == catalog.Ablation("recipe", "far", "plain", {"epochs": 5})
    assert catalog.ablation("recipe") is None and catalog.ablation("mine.far") is None
    assert catalog.find_experiment("recipe").goals == (catalog.Goal("40%", 0.4, 3, 0.5),)
    assert catalog.find_experiment("recipe.far").goals == ()


GOOD = 'title = "t"\nnotebook = "1_baseline.ipynb"\n'
GOAL = '{ text = "40%", accuracy = 0.4 }'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x", ": "),
        (b"[x]\ntitle = '\xff'", "'utf-8' codec can't decode byte 0xff in position 13"),
        ("x = 3", "x = 3: expected dict"),
        ("[x]\ntitle = 't'", "x: notebook is missing"),
        ("[x]\nparamters = {}", "x: key = 'paramters': did you mean parameters?"),
        ("[x]\ntitle = ''\nnotebook = 'y'", "x: title = '': "),
        ("[x]\ntitle = 't'\nnotebook = 'none.ipynb'", "none.ipynb: expected a notebook with one cell"),
        (f"[x]\n{GOOD}goals = {GOAL}", "x: goals = {'text': '40%', 'accuracy': 0.4}: expected a valid list"),
        (f"[x]\n{GOOD}goals = [{{ txt = '40%' }}]", "x: key = 'txt': did you mean text?"),
        (f"[x]\n{GOOD}goals = [{GOAL}, {{ text = '1' }}]", "x: accuracy is missing"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', '40')}]", "accuracy = 40: expected less than or equal to 1"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace(' }', ', compute = 0 }')}]", "compute = 0: expected greater than 0"),
        (f"[x]\n{GOOD}datasets = ['tiny']", "x: dataset = 'tiny': expected one of mini"),
        (f"[x]\n{GOOD}datasets = []", "x: datasets = []: "),
        (f"[x]\n{GOOD}parameters = 'x'", "x: parameters = 'x': expected a valid dictionary"),
        (f"[x]\n{GOOD}mini.epoch = 3", "x: parameter = 'epoch': did you mean epochs?"),
        (f"[x]\n{GOOD}parameters.epochs = 2.5", "x: epochs = 2.5: expected int"),
        (f"[x]\n{GOOD}tiny-imagenet.epochs = 0", "x: epochs = 0"),
        (f"[x]\n{GOOD}parameters.dataset = 'mini'", "x: parameter = 'dataset'"),
        (f"[x-seed-3]\n{GOOD}", "x-seed-3: 'x-seed-3' cannot name a run"),
    ],
)
def test_a_slip_in_experiments_toml_is_refused_by_file_entry_and_key(files, text, said):
    files(text, "")
    with pytest.raises(TinyclfError) as error:
        read_experiments("mini")
    assert said in str(error.value) and str(error.value).startswith("experiments.toml: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recip.start]\nbase = 'recip'", "recipe = 'recip': did you mean recipe?"),
        ("[recipe]\nstart = 3", "recipe.start: "),
        ("[recipe.start]", "recipe.start: base = '': expected one of recipe"),
        ("[recipe.a]\nbase = 'b'\n[recipe.b]\nbase = 'recipe'", "recipe.a: base = 'b': expected one of recipe"),
        ("[recipe.x]\nbase = 'recipe'\nhold_out = false", "recipe.x: parameter = 'hold_out'"),
        ("[recipe.x]\nbase = 'recipe'\nepoch = 3", "recipe.x: parameter = 'epoch': did you mean epochs?"),
        ("[recipe.x]\nbase = 'recipe'\nepochs = 0", "recipe.x: epochs = 0"),
        ("[recipe.'a b']\nbase = 'recipe'", "recipe.a b: 'a b' cannot name a run"),
    ],
)
def test_a_slip_in_ablations_toml_is_refused_by_file_ablation_and_key(files, text, said):
    files(ablations=text)
    with pytest.raises(TinyclfError) as error:
        read_experiments("mini")
    assert said in str(error.value) and str(error.value).startswith("ablations.toml: ")


def test_a_setting_of_the_recipe_that_a_step_does_not_show_has_it_run_by_the_notebook_of_recipes(files):
    folder = files(f"[x]\n{GOOD}[y]\n{GOOD}parameters.nesterov = true", "")
    cell = {"metadata": {"tags": ["parameters"]}, "source": ["run_name = ''\n", "dataset = 'mini'\n", "gamma = 0.2\n"]}
    (folder / "1_baseline.ipynb").unlink()
    (folder / "1_baseline.ipynb").write_text(json.dumps({"cells": [cell]}))
    x, y = select([], "mini", {"gamma": 0.5, "flip": False})
    assert (x.notebook.name, y.notebook.name) == ("1_baseline.ipynb", "4_recipes.ipynb")
    assert x.parameters == {"run_name": "x", "dataset": "mini", "gamma": 0.5, "flip": False}
    assert y.parameters["nesterov"] and y.parameters["learning_rate"] == 0.001  # not the notebook's own default
    (x,) = select(["x"], "mini", {"weight_decay": 0.1})
    assert x.notebook.name == "4_recipes.ipynb"
    assert x.settings == Settings(weight_decay=0.1)


def test_an_experiment_at_the_end_of_the_file_is_run_before_what_is_made_of_the_records(files):
    files((NOTEBOOKS / "experiments.toml").read_text() + f'[mine]\n{GOOD}datasets = ["mini"]', "")
    assert [each.name for each in select([], "mini")][-3:] == ["mine", "ablations", "summary"]
    assert "mine" not in read_experiments("tiny-imagenet")
