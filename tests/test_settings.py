"""Settings and parameters: what cannot be is refused by name; so are names of runs that are other places."""

import dataclasses

import numpy as np
import pytest
import torch
from papermill import inspect_notebook

from tinyclf.experiments.names import check_name
from tinyclf.experiments.parameters import notebook_parameters, parse_assignment, read
from tinyclf.experiments.settings import Settings, accepted_parameters, check_parameters
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS


def test_the_defaults_are_the_published_recipe():
    published = {"epochs": 15, "batch_size": 100, "learning_rate": 0.001, "momentum": 0.9, "step_size": 7, "gamma": 0.1}
    recipe = Settings(dataset="tiny-imagenet")
    assert {name: getattr(recipe, name) for name in published} == published
    assert recipe.flip and (recipe.stem, recipe.kernel, recipe.ghost_batches) == ("imagenet", "pil", 2)
    on_mini = {"dataset": "mini", "batch_size": 10, "input_size": 24}
    assert dataclasses.asdict(Settings()) == dataclasses.asdict(recipe) | on_mini


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epochs": 0}, "epochs = 0: expected greater than or equal to 1"),
        ({"epochs": True}, "epochs = True: expected int, got bool"),
        ({"learning_rate": float("nan")}, "learning_rate = nan: expected a finite number"),
        ({"learning_rate": "1e-3"}, r"expected float, got str \(YAML reads 1e-3 as text: write 1\.0e-3\)"),
        ({"weights": "imagenett"}, "weights = 'imagenett': did you mean imagenet?"),
        ({"weights": "run:../y"}, "weights = run:NAME, NAME = '../y'"),
        ({"dataset": "nope"}, "dataset = 'nope': expected one of mini, tiny-imagenet"),
        ({"seed": 2**31}, "seed = 2147483648: expected less than or equal"),
        ({"start_size": 25}, "start_size = 25: .*from 16 to 24"),
        ({"adapt": "input_sise"}, "did you mean input_size?"),
        ({"epoch": 3}, "did you mean epochs?"),
        ({"stem_init": "shrunk"}, "stem_init"),
        ({"stem_init": "whitened", "normalization": "imagenet", "weights": "mini"}, "stem_init"),
        ({"shallow": 0.5, "weights": "mini"}, "shallow"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0: expected less than"),
        ({"start_size": 16, "epochs": 1}, "a run that grows"),
    ],
)
def test_impossible_settings_and_those_that_do_not_go_together_are_refused_by_name(values, said):
    with pytest.raises(TinyclfError, match=said):
        Settings(**values)


def test_an_int_stands_for_a_float_and_0_for_what_the_data_set_has():
    assert isinstance(Settings(learning_rate=1).learning_rate, float)
    assert Settings(input_size=0, batch_size=0, start_size=0) == Settings()


def test_a_run_has_a_name_that_is_no_other_place_page_or_table():
    for name in ("fast-scratch.ema", "lr=0.1+flip", "a" * 100, "3e563", "data-1"):
        check_name(name)
    taken = ("data", "Comparisons", "index.html", "x.md", "x.svg", "x.csv", "x.json", "x.ipynb", "x.lock", "x.partial")
    for name in (*taken, "", "..", "a/b", "-x", "a b", "\u00e4", "x\n", "x.", "a" * 101):
        with pytest.raises(TinyclfError, match=r"^run = "):
            check_name(name)


def test_a_notebooks_parameters_are_those_that_papermill_sees_and_it_checks_them():
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        seen = {name: eval(parameter["default"]) for name, parameter in inspect_notebook(str(path)).items()}
        assert notebook_parameters(path) == seen
        assert f'check_parameters(globals(), \\"{path.name}\\")' in path.read_text()


def check(*cells, notebook="1_baseline.ipynb"):
    check_parameters({"In": ["", *cells]}, notebook)


def test_a_parameter_that_the_notebook_does_not_take_is_refused():
    check_parameters({}, "1_baseline.ipynb")
    check("# Parameters\nweight_decay = 0.1\n")  # what trains takes every setting
    check("# Parameters\nepochs = 3\nrun_name = 'x'\n", "epoch = 1", "%pwd")  # cells of the user's own
    check("# Parameters\nepoch = 3\n", "# Parameters\nepochs = 3\n")  # the latest counts
    with pytest.raises(TinyclfError, match=r"parameter = 'epoch': did you mean epochs\?"):
        check("%pwd", "# Parameters\nrun_name = 'x'\nepoch = 9\n", "x = 1")
    with pytest.raises(TinyclfError, match="parameter = 'weight_decay'"):
        check("# Parameters\nweight_decay = 0.1\n", notebook="0_data.ipynb")


def test_a_value_of_another_type_is_refused_with_what_to_write():
    for line, said in (
        ("force = 'true'", r"expected bool, got str \(papermill's -p reads True and False"),
        ("run_name = 1", r"expected str, got int \(papermill's -p reads a number; to give text: -r NAME TEXT"),
    ):
        with pytest.raises(TinyclfError, match=said):
            check(f"# Parameters\n{line}\n")


def test_an_assignment_is_a_name_and_a_text():
    assert parse_assignment("weights=a=b.pth") == ("weights", "a=b.pth")
    with pytest.raises(TinyclfError, match="expected NAME=VALUE"):
        parse_assignment("epochs")


def test_a_text_is_read_as_what_its_parameter_is_or_refused_in_a_line():
    defaults = accepted_parameters(NOTEBOOKS / "1_baseline.ipynb")
    for name, value in {"epochs": 3, "learning_rate": 1e-05, "flip": False, "run_name": "3e563"}.items():
        made = read(name, str(value), defaults[name])
        assert made == value and type(made) is type(value)
    for name, texts in {
        "epochs": ("3.5", "-" * 9999, "None", ""),
        "learning_rate": ("0,001", "3e", ""),
        "flip": ("2", "flip", ""),
    }.items():
        for text in texts:
            with pytest.raises(TinyclfError, match=f"^{name} = .{{,60}}: expected .{{,60}}$"):
                read(name, text, defaults[name])


def test_settings_of_a_notebook_are_its_variables_but_for_a_network():
    namespace = {"epochs": 4, "flip": False, "other": [], "model": torch.nn.Identity()}
    assert Settings.from_notebook(namespace) == Settings(epochs=4, flip=False)
    for odd in (3.0, [3], np.int64(3)):
        with pytest.raises(TinyclfError, match="epochs = "):
            Settings.from_notebook(namespace | {"epochs": odd})
