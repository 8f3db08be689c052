"""experiments.toml, ablations.toml, the notebooks and the settings hold together; what does not is refused by name."""

import dataclasses
import inspect
import json
import re
import shlex
from itertools import pairwise

import clean_notebooks
import nbformat
import pytest
from papermill import inspect_notebook
from typer.testing import CliRunner

from tinyclf import cli
from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import read_experiments, select
from tinyclf.experiments.names import family
from tinyclf.experiments.parameters import notebook_parameters, parse_assignment
from tinyclf.experiments.settings import BEFORE, Settings
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS, PROJECT


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


PUBLISHED = {
    "baseline-scratch": {},
    "baseline-imagenet": {"weights": "imagenet"},
    "preprocessing": {
        **{"weights": "imagenet", "input_size": 224, "eval_size": 64, "epochs": 7, "flip": False},
        "kernel": "opencv",
    },
    "finetuning": {"weights": "run:preprocessing", "adapt": "input_size", "epochs": 7, "flip": False},
    "finetuning-small-stem": {
        **{"weights": "run:preprocessing", "adapt": "input_size,stem", "epochs": 7, "flip": False},
        "stem": "small",
    },
}


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "tiny-imagenet-20"])
def test_the_published_experiments_are_run_with_the_published_recipe(dataset):
    runs = {each.name: each.parameters for each in select([], dataset) if "run_name" in each.parameters}
    for name, recipe in PUBLISHED.items():
        assert Settings.of(runs[name]) == Settings(dataset=dataset, **recipe)


STEPS = {
    **{"1_baseline": "baseline-scratch", "2_preprocessing": "preprocessing"},
    **{"3_finetuning": "finetuning", "4_recipes": "fast-scratch"},
}


@pytest.mark.parametrize("notebook", STEPS)
def test_a_notebooks_parameters_are_the_settings_with_their_help_and_run_on_mini_by_default(notebook):
    path, name = NOTEBOOKS / f"{notebook}.ipynb", STEPS[notebook]
    parameters = {key: value for key, value in notebook_parameters(path).items() if key in Settings.names()}
    (experiment,) = [each for each in select([name], "mini") if each.name == name]
    assert list(parameters) == [name for name in Settings.names() if name in parameters]
    assert Settings(**parameters) == experiment.settings
    lines = r"(?:^    # (.*)\n)?^    (\w+): [^=]+ = \S+(?:  # (.*))?$"  # the help stands after a setting, or above it
    help_of = {
        key: above or after for above, key, after in re.findall(lines, inspect.getsource(Settings), re.MULTILINE)
    }
    help_there = {key: each["help"] for key, each in inspect_notebook(str(path)).items() if key in parameters}
    assert help_there == {key: text for key, text in help_of.items() if key in parameters}


COMMITTED = sorted((PROJECT / "reports").glob("*/*/record.json"))


def test_a_committed_record_differs_from_its_experiment_in_its_overrides_alone():
    for path in COMMITTED:
        record = json.loads(path.read_text())
        name, settings = record["run"], Settings(**BEFORE | record["settings"])
        known = read_experiments(settings.dataset).get(family(name))
        experiment = known.settings if known else Settings(dataset=settings.dataset)
        values = dataclasses.asdict(settings)
        newer = values.keys() - record["settings"].keys()  # settings that are newer than the run
        since = {key: values[key] for key in newer if getattr(experiment, key) != values[key]}
        said = {key: value for key, value in record["overrides"].items() if key in values}
        assert catalog.overrides(name, settings) == said | since
        kept = {"seed": settings.seed, "weights": settings.weights}
        assert dataclasses.replace(experiment, **said | since | kept) == settings
        as_then = dataclasses.replace(settings, **{key: getattr(experiment, key) for key in since})
        command = catalog.command(name, as_then, record["weights"].get("parent"))
        assert record["command"] == ("" if record.get("own_code") else command)
        assert record.get("own_code", False) == (said != record["overrides"])


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
    source = (NOTEBOOKS / "1_baseline.ipynb").read_text()
    for name, expected in (("", "my-copy"), ("mine", "mine")):
        (tmp_path / "my-copy.ipynb").write_text(source.replace('\\"baseline-scratch\\"', f'\\"{name}\\"', 1))
        notebook_parameters.cache_clear()
        (run,) = select([str(tmp_path / "my-copy.ipynb")], "mini", {"epochs": "3"})
        assert (run.name, run.notebook, run.settings.epochs) == (expected, tmp_path / "my-copy.ipynb", 3)
    with pytest.raises(TinyclfError, match="its cell of parameters lacks one of nesterov"):
        select([str(tmp_path / "my-copy.ipynb")], "mini", {"nesterov": "true"})
    (tmp_path / "my-copy.ipynb").write_text(source.replace('dataset = \\"mini', 'dataset = \\"tiny-imagenet'))
    notebook_parameters.cache_clear()
    with pytest.raises(TinyclfError, match="give --dataset tiny-imagenet"):
        select([str(tmp_path / "my-copy.ipynb")], "mini")
    for command in ("train", "run --processes 2"):
        done = CliRunner().invoke(cli.app, [*command.split(), str(NOTEBOOKS / "1_baseline.ipynb")])
        assert done.exit_code == 2 and "is run by `tinyclf run`, in one process" in done.output


def test_own_images_have_the_experiments_of_tiny_imagenet_that_train(tmp_path):
    folder = str(tmp_path / "birds")
    (run,) = select(["baseline-imagenet"], folder)
    assert run.settings.dataset == folder and run.settings.input_size == 64 and run.page_folder.parent.name == "birds"
    assert catalog.command(run.name, run.settings).startswith(f"tinyclf train baseline-imagenet --dataset {folder} ")
    names = {each.name for each in select([], folder)}
    assert "summary" in names and not names & {"data", "ablations"}
    assert not any(each.goals for each in read_experiments(folder).values())


def test_what_an_experiment_starts_from_comes_before_it_and_is_run_by_its_own_settings():
    chosen = select(["finetuning-small-stem", "finetuning"], "mini", {"epochs": 5}, seeds=[0, 3])
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
    assert (parent.parameters["seed"], parent.parameters["epochs"]) == (3, 4)
    assert parent.parameters["run_name"] == "preprocessing-seed-3"
    own = select(["finetuning"], "mini", {"weights": "run:mine"}, seeds=[0, 3])  # of no experiment
    assert [each.parameters["weights"] for each in own] == ["run:mine"] * 2
    line = select(["finetuning"], "mini", {"weights": "run:finetuning-small-stem"})
    assert [each.name for each in line] == ["preprocessing", "finetuning-small-stem", "finetuning"]
    both = select(["finetuning", "preprocessing"], "mini", {"epochs": 5})
    assert [(each.name, each.needed, each.parameters["epochs"]) for each in both] == [
        ("preprocessing", False, 5),
        ("finetuning", False, 5),
    ]


def test_what_holds_out_images_is_not_started_from_what_does_not():
    with pytest.raises(
        TinyclfError, match="finetuning holds out images, and preprocessing, which it starts from, does"
    ):
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
    (run,) = select(["baseline-scratch"], "mini", {"model": "resnet34", "run_name": "mine"})
    assert run.name == run.parameters["run_name"] == "mine" and run.parameters["model"] == "resnet34"
    own, other = select(["baseline-scratch"], "mini", {"run_name": "mine"}, seeds=[0, 2])
    assert (own.name, other.name, other.parameters["run_name"]) == ("mine", "mine-seed-2", "mine-seed-2")
    for names in ([], ["baseline-scratch", "preprocessing"]):
        with pytest.raises(TinyclfError, match="parameter run_name: it is for one experiment that trains"):
            select(names, "mini", {"run_name": "mine"})


def test_a_run_that_would_start_from_itself_is_refused():
    with pytest.raises(TinyclfError, match="finetuning from finetuning: a run cannot start from itself"):
        select(["finetuning", "preprocessing"], "mini", {"weights": "run:finetuning"})
    for name in ("preprocessing-seed-0", "preprocessing-seed-03"):
        with pytest.raises(TinyclfError, match=f"'run:{name}': there is no such run of "):
            select(["finetuning"], "mini", {"weights": f"run:{name}"})
    with pytest.raises(TinyclfError, match="preprocessing from finetuning from preprocessing: a run cannot start"):
        select(["preprocessing"], "mini", {"weights": "run:finetuning"})


def test_a_stand_in_reaches_what_an_experiment_starts_from(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    parent, child = select(["finetuning"], "tiny-imagenet", imagenet=str(path))
    assert (parent.parameters["weights"], child.parameters["weights"]) == (str(path), "run:preprocessing")
    scratch, imagenet = select(["baseline-scratch", "baseline-imagenet"], "tiny-imagenet", imagenet=str(path))
    assert (scratch.parameters["weights"], imagenet.parameters["weights"]) == ("none", str(path))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("command", ["run", "train"])
def test_what_is_only_started_from_is_run_unless_it_has_finished(finished, command, monkeypatch):
    ran = []
    monkeypatch.setattr("tinyclf.experiments.parent.is_finished", lambda name, dataset: finished)
    monkeypatch.setattr("tinyclf.report.notebook.run", lambda experiment: ran.append(experiment.name))
    monkeypatch.setattr("tinyclf.experiments.run.train", lambda experiment: ran.append(experiment.name))
    front = ["summary"] * (command == "run")  # made anew after what was run
    done = CliRunner().invoke(cli.app, [command, "finetuning"])
    assert done.exit_code == 0, done.output
    assert ran == ["preprocessing"] * (not finished) + ["finetuning", *front]
    ran.clear()
    CliRunner().invoke(cli.app, [command, "preprocessing"])
    assert ran == ["preprocessing", *front]  # asked for by name, a finished one is shown again


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["fast-scratch.emma"], "mini"), "did you mean fast-scratch.ema? Expected one of data, base"),
        ((["baseline-scratch"], "mini", {"lr": 0.1}), "did you mean learning_rate?"),
        ((["baseline-scratch"], "mini", {"optimizer": "adamw"}), "no setting chooses it; build it in a copy"),
        ((["data"], "mini", {"epochs": 2}), "parameter = 'epochs'"),
        ((["data"], "tiny-imagenet-20"), "experiment = 'data'"),
        (([], "mini", {"dataset": "tiny-imagenet"}), "parameter = 'dataset'"),
    ],
)
def test_what_is_unknown_or_of_the_wrong_type_is_refused_by_name(arguments, said):
    with pytest.raises(TinyclfError) as error:
        select(*arguments)
    assert said in str(error.value)


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


def test_the_command_line_takes_seeds_one_after_another(monkeypatch):
    ran = []
    monkeypatch.setattr("tinyclf.report.notebook.run", ran.append)
    for arguments in ("--seeds 0 1 2 baseline-scratch", "--seeds 0 --seeds 1 baseline-scratch --seeds 2"):
        done = CliRunner().invoke(cli.app, ["run", *arguments.split()])
        assert done.exit_code == 0, done.output
        assert ran.pop().name == "summary" and [run.parameters["seed"] for run in ran] == [0, 1, 2]
        ran.clear()
    assert CliRunner().invoke(cli.app, ["run", "baseline-scratch", "--seeds"]).exit_code == 2  # of none
