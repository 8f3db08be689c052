"""The parameters of notebooks: read from their cell, given on the command line or by papermill, and checked."""

import json

import pytest
from papermill import inspect_notebook

from tinyclf.experiments.parameters import check_parameters, notebook_parameters, parse_assignment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebooks_parameters_are_those_that_papermill_sees(path):
    seen = {name: eval(parameter["default"]) for name, parameter in inspect_notebook(str(path)).items()}
    assert notebook_parameters(path) == seen


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"cells": [3]}', '{"cells": []}', json.dumps({"cells": [{"metadata": {}}]})]
)
def test_what_is_no_notebook_with_parameters_is_refused_by_name(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(TinyclfError, match=r"x\.ipynb: expected a notebook with one cell tagged `parameters`"):
        notebook_parameters(tmp_path / "x.ipynb")


def test_a_notebook_that_changed_is_read_again(tmp_path):
    path = tmp_path / "x.ipynb"
    for value in (1, 2):
        path.write_text(json.dumps({"cells": [{"metadata": {"tags": ["parameters"]}, "source": [f"x = {value}"]}]}))
        notebook_parameters(path)["x"] = 3  # a copy
        assert notebook_parameters(path) == {"x": value}


def test_a_parameter_that_the_notebook_does_not_take_is_refused():
    own = "epochs = 15  # of them\nname = ''"
    check_parameters({"In": ["", own, "# Parameters\nepochs = 3\nname = 'x'\n", "x = 1"]})
    check_parameters({"In": ["", own, "other = 1"]})  # a cell of the user's own
    check_parameters({"In": ["", "epochs: int = 15", "# Parameters\nepochs = 3\n"]})
    check_parameters({"In": ["", "%pwd", "# Parameters\nepochs = 3\n"]})  # run in another order, by hand
    check_parameters({"In": ["", "for number in ():\n    pass", "# Parameters\nepochs = 3\n"]})
    check_parameters({})
    with pytest.raises(TinyclfError, match=r"parameter = 'epoch': did you mean epochs\?"):
        check_parameters({"In": ["", own, "# Parameters\nname = 'x'\nepoch = 9\n"]})
    with pytest.raises(TinyclfError, match="force = 'false': expected bool, got str"):
        check_parameters({"In": ["", "force = False", "# Parameters\nforce = 'false'\n"]})


def test_a_notebook_that_trains_takes_every_setting():
    check_parameters({"In": ["", "run_name = ''", "# Parameters\nweight_decay = 0.1\n"]})
    with pytest.raises(TinyclfError, match="weight_decay = 'much': expected float, got str"):
        check_parameters({"In": ["", "run_name = ''", "# Parameters\nweight_decay = 'much'\n"]})
    with pytest.raises(TinyclfError, match="parameter = 'weight_decay'"):
        check_parameters({"In": ["", "dataset = 'mini'", "# Parameters\nweight_decay = 0.1\n"]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("learning_rate=1e-3", ("learning_rate", 0.001)),
        ("flip=false", ("flip", False)),
        ("weights=a=b.pth", ("weights", "a=b.pth")),
        ("weights=none", ("weights", "none")),
        ("run_name=", ("run_name", "")),
    ],
)
def test_an_assignment_on_the_command_line_is_read_as_python_writes_values(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["epochs", "=3", "a b=3"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(TinyclfError, match="expected NAME=VALUE"):
        parse_assignment(text)
