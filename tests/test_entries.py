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
    assert catalog.chosen("recipe", "mini") == catalog.chosen("recipe", "tiny-imagenet") == "final"
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
        ("[x", "experiments.toml: "),
        ("[x]\ntitle = 't'\ntitle = 't'", "experiments.toml: "),
        (b"[x]\ntitle = '\xff'", "experiments.toml: not UTF-8 at byte 13"),
        ("x = 3", "experiments.toml: x = 3: expected a table"),
        ("title = 'x'", "experiments.toml: title = 'x': expected a table"),
        ("[[x]]\ntitle = 't'", "experiments.toml: x = [{'title': 't'}]: expected a table"),
        ("[x]", "experiments.toml: x: title is missing"),
        ("[x]\ntitle = 't'", "experiments.toml: x: notebook is missing"),
        ("[x]\nparamters = {}", "experiments.toml: x: key = 'paramters': did you mean parameters?"),
        ("[x]\nrow = 'row-1'", "experiments.toml: x: key = 'row'"),
        ("[x]\ntitle = 3", "experiments.toml: x: title = 3: expected a text"),
        ("[x]\ntitle = ''", "experiments.toml: x: title = '': expected a text"),
        ("[x]\nnotebook = 3", "experiments.toml: x: notebook = 3: expected a text"),
        ("[x]\ntitle = 't'\nnotebook = 'none.ipynb'", "experiments.toml: x: notebook = 'none.ipynb': /"),
        ("[x]\ntitle = 't'\nnotebook = 'experiments.toml'", "experiments.toml: x: notebook = 'experiments.toml': /"),
        (f"[x]\n{GOOD}goals = [3]", "experiments.toml: x: goals = [3]: expected a list, each entry a table"),
        (f"[x]\n{GOOD}goals = 'x'", "experiments.toml: x: goals = 'x'"),
        (f"[x]\n{GOOD}goals = []", "experiments.toml: x: goals = []"),
        (f"[x]\n{GOOD}goals = {GOAL}", "experiments.toml: x: goals = {'accuracy'"),
        (
            f"[x]\n{GOOD}goals = [{{ txt = '40%' }}]",
            "experiments.toml: x: goals, number 1: key = 'txt': did you mean text?",
        ),
        (f"[x]\n{GOOD}goals = [{GOAL}, {{ text = '1' }}]", "experiments.toml: x: goals, number 2: accuracy is missing"),
        (
            f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', '40')}]",
            "x: goals, number 1: accuracy = 40: expected a number from",
        ),
        (f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', 'nan')}]", "x: goals, number 1: accuracy = nan"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', 'true')}]", "x: goals, number 1: accuracy = True"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', '[0.4]')}]", "x: goals, number 1: accuracy = [0.4]"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', repr('40%'))}]", "x: goals, number 1: accuracy = '40%'"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace(' }', ', epochs = 2.5 }')}]", "x: goals, number 1: epochs = 2.5"),
        (f"[x]\n{GOOD}goals = [{GOAL.replace(' }', ', compute = 0 }')}]", "x: goals, number 1: compute = 0"),
        (f"[x]\n{GOOD}datasets = 'mini'", "experiments.toml: x: datasets = 'mini': expected a list"),
        (
            f"[x]\n{GOOD}datasets = ['tiny']",
            "x: datasets = ['tiny']: expected a list, each entry one of mini",
        ),
        (f"[x]\n{GOOD}datasets = [['mini']]", "experiments.toml: x: datasets = [['mini']]"),
        (f"[x]\n{GOOD}datasets = []", "experiments.toml: x: datasets = []"),
        (f"[x]\n{GOOD}mini = 3", "experiments.toml: x: mini = 3: expected a table"),
        (f"[x]\n{GOOD}minni = {{}}", "experiments.toml: x: key = 'minni': did you mean mini?"),
        (f"[x]\n{GOOD}parameters = 'x'", "experiments.toml: x: parameters = 'x': expected a table"),
        (
            f"[x]\n{GOOD}parameters.epoch = 3",
            "experiments.toml: x: parameters: parameter = 'epoch': did you mean epochs?",
        ),
        (f"[x]\n{GOOD}mini.epoch = 3", "experiments.toml: x: mini: parameter = 'epoch': did you mean epochs?"),
        (f"[x]\n{GOOD}parameters.epochs = 'many'", "experiments.toml: x: parameters: epochs = 'many': expected int"),
        (f"[x]\n{GOOD}parameters.epochs = 2.5", "experiments.toml: x: parameters: epochs = 2.5: expected int"),
        (f"[x]\n{GOOD}parameters.epochs = 0", "experiments.toml: x, on mini: epochs = 0"),
        (f"[x]\n{GOOD}tiny-imagenet.epochs = 0", "experiments.toml: x, on tiny-imagenet: epochs = 0"),
        (f"[x]\n{GOOD}parameters.learning_rate = nan", "experiments.toml: x, on mini: learning_rate = nan"),
        (f"[x]\n{GOOD}parameters.stem = 'smal'", "experiments.toml: x, on mini: stem = 'smal': did you mean small?"),
        (
            f"[x]\n{GOOD}parameters.weights = 'run:../y'",
            "experiments.toml: x, on mini: weights = run:NAME, NAME = '../y'",
        ),
        (f"[x]\n{GOOD}parameters.dataset = 'mini'", "experiments.toml: x: parameters: parameter = 'dataset'"),
        (f"[x]\n{GOOD}parameters.run_name = 'y'", "experiments.toml: x: parameters: parameter = 'run_name'"),
        (
            "[x]\ntitle = 't'\nnotebook = '5_ablations.ipynb'\nparameters.epochs = 3",
            "x: parameters: parameter = 'epochs'",
        ),
        (f"['x.y']\n{GOOD}", "experiments.toml: x.y: 'x.y' cannot name a run"),
        (f"['x y']\n{GOOD}", "experiments.toml: x y: 'x y' cannot name a run"),
        (f"[x-seed-3]\n{GOOD}", "experiments.toml: x-seed-3: 'x-seed-3' cannot name a run"),
    ],
)
def test_a_slip_in_experiments_toml_is_refused_by_file_entry_and_key(files, text, said):
    files(text, "")
    with pytest.raises(TinyclfError) as error:
        read_experiments("mini")
    assert said in str(error.value) and "experiments.toml: " in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recipe", "ablations.toml: "),
        (b"\xff", "ablations.toml: not UTF-8 at byte 0"),
        ("recipe = 3", "ablations.toml: recipe = 3: expected a table"),
        ("[recip.start]\nbase = 'recip'", "ablations.toml: name of a recipe = 'recip': did you mean recipe?"),
        ("[recipe]\nstart = 3", "ablations.toml: recipe.start = 3: expected a table"),
        ("[recipe.start]", "ablations.toml: recipe.start: base is missing: expected a text"),
        ("[recipe.start]\nbase = 3", "ablations.toml: recipe.start: base = 3: expected a text"),
        ("[recipe.start]\nbase = ['recipe']", "ablations.toml: recipe.start: base = ['recipe']"),
        ("[recipe.start]\nbase = 'recip'", "ablations.toml: recipe.start: base = 'recip': did you mean recipe?"),
        ("[recipe.recipe]\nbase = 'recipe'", "ablations.toml: recipe.recipe: expected a label other than the name"),
        ("[recipe.x]\nbase = 'recipe'\nhold_out = false", "ablations.toml: recipe.x: parameter = 'hold_out'"),
        ("[recipe.start]\nbase = 'start'", "ablations.toml: recipe.start: base goes round in a circle: start"),
        ("[recipe.a]\nbase = 'b'\n[recipe.b]\nbase = 'a'", "ablations.toml: recipe.a: base goes round in a circle"),
        (
            "[recipe.start]\nbase = 'recipe'\nepoch = 3",
            "ablations.toml: recipe.start: parameter = 'epoch': did you mean",
        ),
        ("[recipe.start]\nbase = 'recipe'\nepochs = '3'", "ablations.toml: recipe.start: epochs = '3': expected int"),
        ("[recipe.start]\nbase = 'recipe'\nover = 'recipe'", "ablations.toml: recipe.start: parameter = 'over'"),
        ("[recipe.start]\nbase = 'recipe'\nepochs = 0", "ablations.toml: recipe.start, on mini: epochs = 0"),
        ("[recipe.'a b']\nbase = 'recipe'", "ablations.toml: recipe.a b: 'a b' cannot name a run"),
        ("[recipe.x.y]\nbase = 'recipe'", "ablations.toml: recipe.x: base is missing"),
    ],
)
def test_a_slip_in_ablations_toml_is_refused_by_file_entry_and_key(files, text, said):
    files(ablations=text)
    with pytest.raises(TinyclfError) as error:
        read_experiments("mini")
    assert said in str(error.value)


def test_a_file_that_cannot_be_read_is_refused_by_name(files):
    (files() / "ablations.toml").unlink()
    with pytest.raises(TinyclfError, match=r"ablations.toml: cannot be read: No such file"):
        read_experiments("mini")


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
