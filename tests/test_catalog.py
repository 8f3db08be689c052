"""experiments.toml, the notebooks' parameters and the settings hold together, and what does not is refused by name."""

import inspect
import re
import tomllib

import clean_notebooks
import nbformat
import pytest
from papermill import inspect_notebook
from typer.testing import CliRunner

from tinyclf import cli, distributed, catalog as experiments, run as runs
from tinyclf.errors import TinyclfError
from tinyclf.catalog import choose, notebook_parameters, parse
from tinyclf.names import family
from tinyclf.paths import NOTEBOOKS
from tinyclf.settings import Settings
from tinyclf.registry import DATASETS
from tinyclf.accuracy import accuracy_rows


def test_every_experiment_resolves_on_every_data_set():
    for dataset in DATASETS:
        for experiment in choose([], dataset):
            assert experiment.notebook.is_file()
            assert experiment.parameters["dataset"] == dataset
            whole = notebook_parameters(experiment.notebook) | experiment.parameters  # as papermill runs it
            assert Settings.from_notebook(whole) == Settings.from_notebook(experiment.parameters)
        ablations = [name for name in experiments.read(dataset) if experiments.is_ablation(name)]
        for experiment in choose(ablations, dataset):
            assert experiment.parameters["hold_out"] and experiment.parameters["run"] == experiment.name


PUBLISHED = {
    "baseline-scratch": {},
    "baseline-imagenet": {"weights": "imagenet"},
    "preprocessing": {"weights": "imagenet", "input_size": 224, "eval_size": 64, "epochs": 7, "flip": False},
    "finetuning": {"weights": "run:preprocessing", "adapt": "input_size", "epochs": 7, "flip": False},
    "finetuning-small-stem": {
        **{"weights": "run:preprocessing", "adapt": "input_size,stem", "epochs": 7, "flip": False},
        "stem": "small",
    },
}


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "tiny-imagenet-20"])
def test_the_published_rows_are_run_with_the_published_recipe(dataset):
    runs = {each.name: each.parameters for each in choose([], dataset) if "run" in each.parameters}
    assert list(PUBLISHED) == [name for name in runs if experiments.entries()[name].get("row")]
    for name, recipe in PUBLISHED.items():
        assert Settings.from_notebook(runs[name]) == Settings(dataset=dataset, **recipe)


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
    (experiment,) = [each for each in choose([name], "mini") if each.name == name]
    assert list(parameters) == Settings.names()
    assert Settings(**parameters) == Settings.from_notebook(experiment.parameters)
    lines = re.findall(r"^    (\w+): \w+ = .*?(  # .*)?$", inspect.getsource(Settings), re.MULTILINE)
    help_of = {key: text.removeprefix("  # ") for key, text in lines}
    assert {key: each["help"] for key, each in inspect_notebook(str(path)).items() if key in parameters} == help_of


ABLATIONS = """
[recipe]
title = "Ours"
notebook = "4_recipes.ipynb"
chosen = "far"
parameters = { epochs = 2, label_smoothing = 0.1 }
mini = { batch_size = 20, epochs = 9 }
[recipe.ablations]
start = {}
large = { batch_size = 50 }
plain = { label_smoothing = 0.0 }
far = { over = "plain", epochs = 3 }
near = { over = "far", epochs = 1 }
"""


def test_an_ablation_is_its_recipe_with_changes_validated_on_held_out_images(monkeypatch):
    loads, text = tomllib.loads, ABLATIONS
    monkeypatch.setattr(experiments.tomllib, "loads", lambda _: loads(text))
    names = ["recipe", *(f"recipe.{label}" for label in ("start", "large", "plain", "far", "near"))]
    recipe, start, large, plain, far, near = (each.parameters for each in choose(names, "mini"))
    assert start["label_smoothing"] == 0.1 and start["hold_out"] and start["run"] == "recipe.start"
    assert plain == start | {"label_smoothing": 0.0, "run": "recipe.plain"}
    assert far == plain | {"epochs": 3, "run": "recipe.far"} and near == far | {"epochs": 1, "run": "recipe.near"}
    assert start["batch_size"] == 20 and large == start | {"batch_size": 50, "run": "recipe.large"}
    there = {key: value for key, value in far.items() if key != "hold_out"}
    assert recipe == there | {"epochs": 9, "run": "recipe"}  # what mini has for it is over what was chosen
    assert [each.name for each in choose([], "mini")] == ["recipe"]  # ablations only by name
    overs = {name: entry.get("over") for name, entry in experiments.entries().items()}
    assert list(overs.values()) == [None, "", "start", "start", "plain", "far"]
    (whole,) = choose(["recipe"], "tiny-imagenet")
    assert whole.parameters["epochs"] == 3 and whole.parameters["run"] == "recipe"
    text = ABLATIONS.replace('over = "plain"', 'over = "near"')
    with pytest.raises(TinyclfError, match=r"over of recipe = .*: it goes round in a circle"):
        choose(["recipe"], "mini")
    text = ABLATIONS.replace('over = "far"', 'over = "fear"')
    with pytest.raises(TinyclfError, match=r"over of recipe = 'fear': expected one of .* did you mean far\?"):
        choose(["recipe"], "mini")


def test_what_an_experiment_starts_from_comes_before_it_and_is_run_by_its_own_settings():
    chosen = choose(["finetuning-small-stem", "finetuning"], "mini", {"epochs": 5, "processes": 2}, seeds=[0, 3])
    assert [(each.name, each.needed) for each in chosen] == [
        ("preprocessing", True),
        ("finetuning-small-stem", False),
        ("preprocessing-seed-3", True),
        ("finetuning-small-stem-seed-3", False),
        ("finetuning", False),
        ("finetuning-seed-3", False),
    ]
    parent, child = chosen[2:4]
    assert child.parameters["weights"] == "run:preprocessing-seed-3" and child.parameters["epochs"] == 5
    assert (parent.parameters["seed"], parent.parameters["epochs"], parent.parameters["processes"]) == (3, 2, 2)
    assert parent.parameters["run"] == "preprocessing-seed-3"
    own = choose(["finetuning"], "mini", {"weights": "run:mine"}, seeds=[0, 3])  # of no experiment
    assert [each.parameters["weights"] for each in own] == ["run:mine"] * 2
    both = choose(["finetuning", "preprocessing"], "mini", {"epochs": 5})
    assert [(each.name, each.needed, each.parameters["epochs"]) for each in both] == [
        ("preprocessing", False, 5),
        ("finetuning", False, 5),
    ]


def test_what_holds_out_images_is_not_started_from_what_does_not():
    with pytest.raises(
        TinyclfError, match="finetuning holds out images, and preprocessing, which it starts from, does"
    ):
        choose(["finetuning"], "mini", {"hold_out": True})
    choose(["preprocessing", "finetuning"], "mini", {"hold_out": True})


def test_recipes_that_plan_their_epochs_are_left_out_where_all_are_run_for_so_many():
    names = {each.name for each in choose([], "mini")}
    left_out = names - {each.name for each in choose([], "mini", {"epochs": 1})}
    assert left_out >= {"fast-scratch", "modern-scratch", "modern-imagenet"} and "baseline-scratch" not in left_out
    (named,) = choose(["fast-scratch"], "mini", {"epochs": 2})
    assert named.parameters["epochs"] == 2


def test_a_run_that_would_start_from_itself_is_refused():
    with pytest.raises(TinyclfError, match="finetuning from finetuning: a run cannot start from itself"):
        choose(["finetuning", "preprocessing"], "mini", {"weights": "run:finetuning"})
    for name in ("data", "preprocessing-seed-0", "preprocessing-seed-03"):
        with pytest.raises(TinyclfError, match=f"'run:{name}': there is no such run of "):
            choose(["finetuning"], "mini", {"weights": f"run:{name}"})
    with pytest.raises(TinyclfError, match="preprocessing from finetuning from preprocessing: a run cannot start"):
        choose(["preprocessing"], "mini", {"weights": "run:finetuning"})


def test_a_stand_in_reaches_what_an_experiment_starts_from(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    parent, child = choose(["finetuning"], "tiny-imagenet", imagenet=str(path))
    assert (parent.parameters["weights"], child.parameters["weights"]) == (str(path), "run:preprocessing")


def test_an_experiment_is_run_only_on_the_data_sets_that_it_is_for():
    assert "data" not in [each.name for each in choose([], "tiny-imagenet-20")]
    with pytest.raises(TinyclfError, match="experiment = 'data': expected one of"):
        choose(["data"], "tiny-imagenet-20")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("command", ["run", "train"])
def test_what_is_only_started_from_is_run_unless_it_has_finished(finished, command, monkeypatch):
    ran = []
    monkeypatch.setattr(cli, "is_finished", lambda name, dataset: finished)
    monkeypatch.setattr(cli.reports, "run", lambda experiment: ran.append(experiment.name))
    monkeypatch.setattr(runs, "train_experiment", lambda name, parameters: ran.append(name))
    front = ["summary"] * (command == "run")  # made anew after what was run
    done = CliRunner().invoke(cli.app, [command, "finetuning"])
    assert done.exit_code == 0, done.output
    assert ran == ["preprocessing"] * (not finished) + ["finetuning", *front]
    ran.clear()
    several = type("Process", (), {"num_processes": 2, "destroy_process_group": lambda self: None})
    monkeypatch.setattr(distributed, "this_process", several)
    CliRunner().invoke(cli.app, ["train", "finetuning"])  # as torchrun has it
    assert ran == ["preprocessing"] * (not finished) + ["finetuning"]
    ran.clear()
    monkeypatch.undo()
    monkeypatch.setattr(cli.reports, "run", lambda experiment: ran.append(experiment.name))
    monkeypatch.setattr(runs, "train_experiment", lambda name, parameters: ran.append(name))
    CliRunner().invoke(cli.app, [command, "preprocessing"])
    assert ran == ["preprocessing", *front]  # asked for by name, a finished one is shown again


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_clean(path):
    assert clean_notebooks.fault(path) == ""
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in nbformat.read(path, 4).cells) == 1


def test_a_notebook_that_ran_is_not_clean_and_cleaning_it_gives_it_back(tmp_path):
    path, before = tmp_path / "ran.ipynb", NOTEBOOKS / "9_summary.ipynb"
    notebook = nbformat.read(before, 4)
    ran = next(cell for cell in notebook.cells if cell.cell_type == "code")
    ran.execution_count, ran.outputs = 1, [nbformat.v4.new_output("stream", text="printed")]
    nbformat.write(notebook, path)
    assert re.search(rf"is not clean: .* in cells 2. .* --clean {path} && git add {path}$", clean_notebooks.fault(path))
    clean_notebooks.clean(path)
    assert clean_notebooks.fault(path) == "" and path.read_text() == before.read_text()
    notebook.metadata["kernelspec"]["name"] = "another"
    nbformat.write(notebook, path)
    assert "metadata of its own" in clean_notebooks.fault(path)


def test_a_stand_in_takes_the_place_of_imagenet_weights_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    scratch, imagenet = choose(["baseline-scratch", "baseline-imagenet"], "tiny-imagenet", imagenet=str(path))
    assert (scratch.parameters["weights"], imagenet.parameters["weights"]) == ("none", str(path))


def test_an_override_reaches_the_notebooks_that_take_it():
    by_name = {each.name: each.parameters for each in choose([], "mini", {"epochs": 2})}
    assert by_name["baseline-scratch"]["epochs"] == by_name["baseline-imagenet"]["epochs"] == 2
    assert "epochs" not in by_name["data"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["baseline"], "mini"), "experiment = 'baseline'"),
        ((["baseline-scratch"], "nope"), "dataset = 'nope'"),
        ((["baseline-scratch"], "mini", {"epoch": 9}), "did you mean epochs?"),
        ((["baseline-scratch"], "mini", {"epochs": "many"}), "epochs = 'many': expected int"),
        ((["baseline-scratch"], "mini", {"epochs": 0}), "epochs = 0"),
        ((["baseline-scratch"], "mini", {"batch_size": -1}), "batch_size = -1"),
        ((["baseline-scratch"], "mini", {"weights": "imagenett"}), "did you mean imagenet?"),
        ((["baseline-scratch"], "mini", {"weights": "nothing-here.pth"}), "no file nothing-here.pth"),
        ((["data"], "mini", {"epochs": 2}), "parameter = 'epochs'"),
        (([], "mini", {"dataset": "tiny-imagenet"}), "parameter dataset"),
        (([], "mini", {"run": "x"}), "parameter run"),
    ],
)
def test_what_is_unknown_or_of_the_wrong_type_is_refused_by_name(arguments, said):
    with pytest.raises(TinyclfError) as error:
        choose(*arguments)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x]\nparamters = {}", "did you mean parameters?"),
        ('[x]\ntitle = "t"\nnotebook = "none.ipynb"', "x needs a title, and a notebook that is there"),
        ("[x", "experiments.toml"),
        ('[x]\ndatasets = ["tiny"]', "datasets of x = 'tiny'"),
        ('[x]\ngoals = [{ txt = "40 %" }]', "key of a goal of x = 'txt'"),
        ('[x]\ngoals = [{ text = "40 %" }]', "a goal of x needs a text and an accuracy"),
    ],
)
def test_a_slip_in_the_file_is_refused_by_name(tmp_path, monkeypatch, text, said):
    (tmp_path / "experiments.toml").write_text(text)
    monkeypatch.setattr(experiments, "NOTEBOOKS", tmp_path)
    with pytest.raises(TinyclfError) as error:
        choose([], "mini")
    assert said in str(error.value)


def test_an_experiment_at_the_end_of_the_file_is_run_before_what_is_made_of_the_records(monkeypatch):
    entries = experiments.entries()
    entries["mine"] = {"title": "t", "notebook": "1_baseline.ipynb", "datasets": ["mini"], "row": "row-1"}
    monkeypatch.setattr(experiments, "entries", lambda: entries)
    assert [each.name for each in choose([], "mini")][-3:] == ["mine", "ablations", "summary"]
    assert "mine" in [row.title for row in accuracy_rows("mini")]
    assert "mine" not in [row.title for row in accuracy_rows("tiny-imagenet")]


def test_a_parameter_of_the_file_that_the_notebook_does_not_take_is_refused(monkeypatch):
    entries = experiments.entries()
    entries["baseline-scratch"]["parameters"]["epoch"] = 3
    monkeypatch.setattr(experiments, "entries", lambda: entries)
    with pytest.raises(TinyclfError, match="parameter of baseline-scratch = 'epoch'"):
        choose(["baseline-scratch"], "mini")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("learning_rate=1e-3", ("learning_rate", 0.001)),
        ("flip=false", ("flip", False)),
        ("weights=a=b.pth", ("weights", "a=b.pth")),
        ("weights=none", ("weights", "none")),
        ("run=", ("run", "")),
    ],
)
def test_an_assignment_on_the_command_line_is_read_as_python_writes_values(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["epochs", "=3", "a b=3"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(TinyclfError, match="expected NAME=VALUE"):
        parse(text)


def test_each_seed_is_a_run_of_its_own_with_a_name_of_its_own():
    runs = choose(["baseline-scratch", "data"], "mini", {"epochs": 1}, seeds=[0, 1, 2, 1])
    names = [run.name for run in runs]
    assert names == ["baseline-scratch", "baseline-scratch-seed-1", "baseline-scratch-seed-2", "data"]
    assert [run.parameters["seed"] for run in runs[:3]] == [0, 1, 2]
    assert [run.parameters["run"] for run in runs[:3]] == names[:3]
    assert {family(name) for name in names[:3]} == {"baseline-scratch"}
    with pytest.raises(TinyclfError, match="given twice"):
        choose(["baseline-scratch"], "mini", {"seed": 1}, seeds=[1, 2])
    with pytest.raises(TinyclfError, match="seed = -1: expected"):
        choose(["baseline-scratch"], "mini", seeds=[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "0", "1", "2", "baseline-scratch"],
        ["baseline-scratch", "--seeds", "0", "1", "2", "--dataset", "mini"],
        ["--seeds", "0", "--seeds", "1", "baseline-scratch", "--seeds", "2"],
    ],
)
def test_the_command_line_takes_seeds_one_after_another(arguments, monkeypatch):
    ran = []
    monkeypatch.setattr(cli, "run_each", lambda experiments, do: ran.extend(experiments))
    done = CliRunner().invoke(cli.app, ["run", *arguments, "--processes", "2"])
    assert done.exit_code == 0, done.output
    assert ran.pop().name == "summary" and [run.parameters["seed"] for run in ran] == [0, 1, 2]
    assert {run.parameters["processes"] for run in ran} == {2}
    assert CliRunner().invoke(cli.app, ["run", "baseline-scratch", "--seeds"]).exit_code == 2  # of none
