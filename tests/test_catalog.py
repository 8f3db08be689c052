"""experiments.toml, ablations.toml, the notebooks and the settings hold together; what does not is refused by name."""

import inspect
import json
import re
import shlex
from itertools import pairwise

import pytest
from papermill import inspect_notebook

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import read_experiments, select
from tinyclf.experiments.names import family
from tinyclf.experiments.parameters import notebook_parameters, parse_assignment
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS


def test_every_experiment_resolves_on_every_data_set():
    for dataset in DATASETS:
        for experiment in select([], dataset):
            assert experiment.notebook.is_file()
            assert experiment.parameters["dataset"] == dataset
            whole = notebook_parameters(experiment.notebook) | experiment.parameters  # as papermill runs it
            assert Settings.of(whole) == Settings.of(experiment.parameters)
        ablations = [name for name in read_experiments(dataset) if catalog.ablation(name)]
        for experiment in select(ablations, dataset):
            assert experiment.parameters["hold_out"] and experiment.parameters["run_name"] == experiment.name


SHORT = {"epochs": 7, "flip": False}
TUNED = SHORT | {"weights": "run:preprocessing", "adapt": "input_size"}
PUBLISHED = {
    "baseline-scratch": {},
    "baseline-imagenet": {"weights": "imagenet"},
    "preprocessing": SHORT | {"weights": "imagenet", "input_size": 224, "eval_size": 64, "kernel": "opencv"},
    "finetuning": TUNED,
    "finetuning-small-stem": TUNED | {"adapt": "input_size,stem", "stem": "small"},
}


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "tiny-imagenet-20"])
def test_the_published_experiments_are_run_with_the_published_recipe(dataset):
    runs = {each.name: each.parameters for each in select([], dataset) if "run_name" in each.parameters}
    for name, recipe in PUBLISHED.items():
        assert Settings.of(runs[name]) == Settings(dataset=dataset, **recipe)


@pytest.mark.parametrize(
    ("notebook", "name"),
    [
        ("1_baseline", "baseline-scratch"),
        ("2_preprocessing", "preprocessing"),
        ("3_finetuning", "finetuning"),
        ("4_recipes", "fast-scratch"),
    ],
)
def test_a_notebooks_parameters_are_the_settings_with_their_help_and_run_on_mini_by_default(notebook, name):
    path = NOTEBOOKS / f"{notebook}.ipynb"
    parameters = {key: value for key, value in notebook_parameters(path).items() if key in Settings.names()}
    (experiment,) = [each for each in select([name], "mini") if each.name == name]
    assert list(parameters) == [name for name in Settings.names() if name in parameters]
    assert Settings(**parameters) == experiment.settings
    lines = r"(?:^    # (.*)\n)?^    (\w+): [^=]+ = \S+(?:  # (.*))?$"  # the help stands after a setting, or above it
    found = re.findall(lines, inspect.getsource(Settings), re.MULTILINE)
    help_there = {key: each["help"] for key, each in inspect_notebook(str(path)).items() if key in parameters}
    assert help_there == {key: above or after for above, key, after in found if key in parameters}


def test_what_the_command_of_a_run_selects_has_its_settings(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    for names, given, imagenet in [
        (["fast-scratch"], {"epochs": 3, "stem": "small", "stem_init": "random"}, ""),
        (["baseline-imagenet"], {}, str(path)),
        (["baseline-imagenet"], {"weights": "imagenet"}, ""),
        (["preprocessing", "finetuning"], {"flip": True}, ""),
        (["modern-scratch.quick"], {"cutmix": 0.5}, ""),
    ]:
        *_, run = select(names, "mini", given, imagenet, seeds=[3])
        assert catalog.overrides(run.name, run.settings) == given
        words = shlex.split(catalog.command(run.name, run.settings))
        assert words[:5] == ["tinyclf", "train", names[-1], "--dataset", "mini"] and words[-2:] == ["--seeds", "3"]
        assert ("--imagenet x.safetensors" in " ".join(words)) == bool(imagenet)
        texts = dict(parse_assignment(after) for word, after in pairwise(words) if word == "-p")
        *_, again = select(names, "mini", texts, imagenet, seeds=[3])
        assert again == run


def test_the_command_of_a_run_of_no_experiment_repeats_it_under_its_very_name():
    settings = Settings(dataset="tiny-imagenet", epochs=3, adapt="stem, classes", weights="run:other", seed=4)
    assert catalog.overrides("mine", settings) == {"weights": "run:other", "adapt": "stem, classes", "epochs": 3}
    for name in ("mine", "mine-seed-4", "3e563"):  # whatever its name looks like
        words = shlex.split(catalog.command(name, settings))
        assert words[:5] == ["tinyclf", "train", "baseline-scratch", "--dataset", "tiny-imagenet"]
        given = dict(parse_assignment(after) for word, after in pairwise(words) if word == "-p")
        (run,) = select(["baseline-scratch"], "tiny-imagenet", given)
        assert run.settings == settings and run.name == run.parameters["run_name"] == name


def test_a_copy_of_a_notebook_is_run_under_its_own_name_by_its_own_cell(tmp_path):
    source, copy = (NOTEBOOKS / "1_baseline.ipynb").read_text(), tmp_path / "my-copy.ipynb"
    for name, expected in (("", "my-copy"), ("mine", "mine")):
        copy.write_text(source.replace('\\"baseline-scratch\\"', f'\\"{name}\\"', 1))
        notebook_parameters.cache_clear()
        (run,) = select([str(copy)], "mini", {"epochs": "3"})
        assert (run.name, run.notebook, run.settings.epochs) == (expected, copy, 3)
    with pytest.raises(TinyclfError, match="its cell of parameters lacks one of nesterov"):
        select([str(copy)], "mini", {"nesterov": "true"})
    copy.write_text(source.replace('dataset = \\"mini', 'dataset = \\"tiny-imagenet'))
    notebook_parameters.cache_clear()
    with pytest.raises(TinyclfError, match="give --dataset tiny-imagenet"):
        select([str(copy)], "mini")


def test_own_images_have_the_experiments_of_tiny_imagenet_that_train(tmp_path):
    folder = str(tmp_path / "birds")
    (run,) = select(["baseline-imagenet"], folder)
    assert run.settings.dataset == folder and run.settings.input_size == 64 and run.page_folder.parent.name == "birds"
    assert catalog.command(run.name, run.settings).startswith(f"tinyclf train baseline-imagenet --dataset {folder} ")
    names = {each.name for each in select([], folder)}
    assert "summary" in names and not names & {"data", "ablations"}
    assert not any(each.goals for each in read_experiments(folder).values())


def test_what_an_experiment_starts_from_comes_before_it_and_is_run_by_its_own_settings():
    chosen = select(["finetuning"], "mini", {"epochs": 5}, seeds=[0, 3])
    assert [each.name for each in chosen[::2]] == ["preprocessing", "preprocessing-seed-3"]
    assert [each.name for each in chosen[1::2]] == ["finetuning", "finetuning-seed-3"]
    assert [each.needed for each in chosen] == [True, False, True, False]
    parent, child = chosen[2:]
    assert child.parameters["weights"] == "run:preprocessing-seed-3" and child.parameters["epochs"] == 5
    assert (parent.parameters["seed"], parent.parameters["epochs"]) == (3, 4)
    assert parent.parameters["run_name"] == "preprocessing-seed-3"
    own = select(["finetuning"], "mini", {"weights": "run:mine"}, seeds=[0, 3])  # of no experiment
    assert [each.parameters["weights"] for each in own] == ["run:mine"] * 2
    line = select(["finetuning"], "mini", {"weights": "run:finetuning-small-stem"})
    assert [each.name for each in line] == ["preprocessing", "finetuning-small-stem", "finetuning"]
    both = select(["finetuning", "preprocessing"], "mini", {"epochs": 5})
    assert [(each.name, each.needed) for each in both] == [("preprocessing", False), ("finetuning", False)]
    assert [each.parameters["epochs"] for each in both] == [5, 5]
    siblings = select(["finetuning-small-stem", "finetuning"], "mini")
    assert [each.name for each in siblings] == ["preprocessing", "finetuning-small-stem", "finetuning"]


def test_what_holds_out_images_is_not_started_from_what_does_not():
    with pytest.raises(TinyclfError, match="finetuning holds out images, and preprocessing, which"):
        select(["finetuning"], "mini", {"hold_out": True})
    select(["preprocessing", "finetuning"], "mini", {"hold_out": True})


def test_recipes_that_plan_their_epochs_are_left_out_where_all_are_run_for_so_many():
    names = {each.name for each in select([], "mini")}
    left_out = names - {each.name for each in select([], "mini", {"epochs": 1})}
    assert left_out >= {"fast-scratch", "modern-scratch", "modern-imagenet"} and "baseline-scratch" not in left_out
    by_name = {each.name: each.parameters for each in select([], "mini", {"epochs": 2})}
    assert by_name["baseline-scratch"]["epochs"] == 2 and "epochs" not in by_name["data"]
    (named,) = select(["fast-scratch"], "mini", {"epochs": 2})
    assert named.parameters["epochs"] == 2


def test_one_experiment_can_be_run_under_a_name_of_its_own():
    own, other = select(["baseline-scratch"], "mini", {"run_name": "mine"}, seeds=[0, 2])
    assert (own.name, other.name, other.parameters["run_name"]) == ("mine", "mine-seed-2", "mine-seed-2")
    for names in ([], ["baseline-scratch", "preprocessing"]):
        with pytest.raises(TinyclfError, match="parameter run_name: it is for one experiment that trains"):
            select(names, "mini", {"run_name": "mine"})


def test_a_run_that_would_start_from_itself_is_refused():
    with pytest.raises(TinyclfError, match="finetuning from finetuning: a run cannot start from itself"):
        select(["finetuning", "preprocessing"], "mini", {"weights": "run:finetuning"})
    with pytest.raises(TinyclfError, match="'run:preprocessing-seed-03': there is no such run of "):
        select(["finetuning"], "mini", {"weights": "run:preprocessing-seed-03"})
    with pytest.raises(TinyclfError, match="preprocessing from finetuning from preprocessing: a run cannot start"):
        select(["preprocessing"], "mini", {"weights": "run:finetuning"})


def test_a_stand_in_reaches_what_an_experiment_starts_from(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    parent, child = select(["finetuning"], "tiny-imagenet", imagenet=str(path))
    assert (parent.parameters["weights"], child.parameters["weights"]) == (str(path), "run:preprocessing")
    scratch, imagenet = select(["baseline-scratch", "baseline-imagenet"], "tiny-imagenet", imagenet=str(path))
    assert (scratch.parameters["weights"], imagenet.parameters["weights"]) == ("none", str(path))


def test_each_seed_is_a_run_of_its_own_with_a_name_of_its_own():
    runs = select(["baseline-scratch", "data"], "mini", {"epochs": 1}, seeds=[0, 1, 2, 1])
    names = [run.name for run in runs]
    assert names == ["baseline-scratch", "baseline-scratch-seed-1", "baseline-scratch-seed-2", "data"]
    assert [run.parameters["seed"] for run in runs[:3]] == [0, 1, 2]
    assert [run.parameters["run_name"] for run in runs[:3]] == names[:3]
    assert {family(name) for name in names[:3]} == {"baseline-scratch"}
    with pytest.raises(TinyclfError, match="given twice"):
        select(["baseline-scratch"], "mini", {"seed": 1}, seeds=[1, 2])
    with pytest.raises(TinyclfError, match="seed = -1: expected"):
        select(["baseline-scratch"], "mini", seeds=[-1])


EXPERIMENTS = """
[recipe]
title = "Ours"
notebook = "4_recipes.ipynb"
goals = [{ text = "40%", accuracy = 0.4, epochs = 3, compute = 0.5 }]
parameters = { epochs = 3, label_smoothing = 0.1 }
mini = { batch_size = 20, epochs = 9 }
"""
ABLATIONS = """
[recipe]
start = { base = "recipe", learning_rate = 0.1 }
plain = { base = "start", label_smoothing = 0.0 }
far = { base = "plain", epochs = 5 }
final = { base = "start", learning_rate = 0.001 }
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes the two files of a folder that has the real notebooks, and has the catalog read them."""
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        (tmp_path / notebook.name).symlink_to(notebook)
    monkeypatch.setattr(catalog, "NOTEBOOKS", tmp_path)

    def write(experiments=EXPERIMENTS, ablations=ABLATIONS):
        (tmp_path / "experiments.toml").write_text(experiments)
        (tmp_path / "ablations.toml").write_text(ablations)
        return tmp_path

    write()
    return write


def test_an_ablation_is_its_base_with_changes_validated_on_held_out_images(files):
    names = ["recipe", *(f"recipe.{label}" for label in ("start", "plain", "far", "final"))]
    recipe, start, plain, far, final = (each.parameters for each in select(names, "mini"))
    assert start == recipe | {"learning_rate": 0.1, "hold_out": True, "run_name": "recipe.start"}
    assert (recipe["batch_size"], recipe["epochs"], recipe["label_smoothing"]) == (20, 9, 0.1)
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
SLIPS = {
    "experiments": {
        "[x": "Expected ']' at the end of a table",
        "[x]\ntitle = 't'": "x: 'notebook' is missing",
        "[x]\nparamters = {}": "x: key = 'paramters': did you mean parameters?",
        "[x]\ntitle = 't'\nnotebook = 'none.ipynb'": "none.ipynb: expected a notebook with one cell",
        f"[x]\n{GOOD}goals = {GOAL}": "x: ",
        f"[x]\n{GOOD}goals = [{GOAL}, {{ text = '1' }}]": "x: ",
        f"[x]\n{GOOD}goals = [{GOAL.replace('0.4', '40')}]": "x: ",
        f"[x]\n{GOOD}datasets = ['tiny']": "x: dataset = 'tiny': expected one of mini",
        f"[x]\n{GOOD}mini.epoch = 3": "x: parameter = 'epoch': did you mean epochs?",
        f"[x]\n{GOOD}parameters.epochs = 2.5": "x: epochs = 2.5: expected int",
        f"[x]\n{GOOD}parameters.dataset = 'mini'": "x: parameter = 'dataset'",
        f"[x-seed-3]\n{GOOD}": "x-seed-3: 'x-seed-3' cannot name a run",
    },
    "ablations": {
        "[recip.start]\nbase = 'recip'": "recipe = 'recip': did you mean recipe?",
        "[recipe]\nstart = 3": "recipe.start: ",
        "[recipe.a]\nbase = 'b'\n[recipe.b]\nbase = 'recipe'": "recipe.a: base = 'b': expected one of recipe",
        "[recipe.x]\nbase = 'recipe'\nhold_out = false": "recipe.x: parameter = 'hold_out'",
        "[recipe.'a b']\nbase = 'recipe'": "recipe.a b: 'a b' cannot name a run",
    },
}


def test_a_slip_is_refused_by_file_entry_and_key(files):
    for file, slips in SLIPS.items():
        for text, said in slips.items():
            files(**{"ablations": "", file: text})
            with pytest.raises(TinyclfError, match=rf"^{file}\.toml: .*{re.escape(said)}"):
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
    assert x.notebook.name == "4_recipes.ipynb" and x.settings == Settings(weight_decay=0.1)


def test_an_experiment_at_the_end_of_the_file_is_run_before_what_is_made_of_the_records(files):
    files((NOTEBOOKS / "experiments.toml").read_text() + f'[mine]\n{GOOD}datasets = ["mini"]', "")
    assert [each.name for each in select([], "mini")][-3:] == ["mine", "ablations", "summary"]
    assert "mine" not in read_experiments("tiny-imagenet")
