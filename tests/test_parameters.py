"""The parameters of notebooks: read from their cell, given on the command line or by papermill, and checked."""

import json
import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from papermill import inspect_notebook

from tinyclf.experiments.parameters import notebook_parameters, parse_assignment, read
from tinyclf.experiments.settings import Settings, accepted_parameters, check_parameters
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS


def test_a_notebooks_parameters_are_those_that_papermill_sees_and_it_checks_them():
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        seen = {name: eval(parameter["default"]) for name, parameter in inspect_notebook(str(path)).items()}
        assert notebook_parameters(path) == seen
        assert f'check_parameters(globals(), \\"{path.name}\\")' in path.read_text()


@pytest.mark.parametrize("text", ["", "{}", '{"cells": [3]}', json.dumps({"cells": [{"metadata": {}}]})])
def test_what_is_no_notebook_with_parameters_is_refused_by_name(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(TinyclfError, match=r"x\.ipynb: expected a notebook with one cell tagged `parameters`"):
        notebook_parameters(tmp_path / "x.ipynb")


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


def test_a_copy_of_a_notebook_is_judged_by_its_own_cell(tmp_path):
    cell = {"metadata": {"tags": ["parameters"]}, "source": ["mine = 1"]}
    (tmp_path / "copy.ipynb").write_text(json.dumps({"cells": [cell]}))
    check("# Parameters\nmine = 2\n", notebook=str(tmp_path / "copy.ipynb"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("force = 'true'", "expected bool, got str (papermill's -p reads True and False"),
        ("run_name = 1", "expected str, got int (papermill's -p reads a number; to give text: -r NAME TEXT, or"),
        ("learning_rate = '1e-5'", "expected float, got str (YAML reads 1e-3 as text: write 1.0e-3)"),
        ("weight_decay = 'much'", "expected float, got str"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_to_write(line, said):
    with pytest.raises(TinyclfError, match=re.escape(said)):
        check(f"# Parameters\n{line}\n")
    if number := re.search(r"write (.*)\)", said):
        assert isinstance(yaml.safe_load(number[1]), float)


def test_an_assignment_on_the_command_line_is_a_name_and_a_text():
    assert parse_assignment("weights=a=b.pth") == ("weights", "a=b.pth")
    for text in ("epochs", "=3", "a b=3"):
        with pytest.raises(TinyclfError, match="expected NAME=VALUE"):
            parse_assignment(text)


ODD = st.sampled_from(["-" * 9999, "9" * 400, "nan", "inf", "None", "true", "3e563", "1_000", "0,001", "\u0663", ""])


@given(st.sampled_from(["epochs", "learning_rate", "flip", "run_name"]), ODD | st.text())
@example("epochs", "3")
@example("learning_rate", "1e-05")
@example("flip", "False")
def test_a_text_is_read_as_what_its_parameter_is_or_refused_in_a_line(name, text):
    default = accepted_parameters(NOTEBOOKS / "1_baseline.ipynb")[name]
    try:
        value = read(name, text, default)
    except TinyclfError as error:
        assert name in str(error) and "expected" in str(error) and len(str(error)) < 120
        wanted = {"epochs": r"-?\d{1,9}", "learning_rate": r"-?\d{1,9}(\.\d{1,9})?", "flip": "[Tt]rue|[Ff]alse"}
        assert not re.fullmatch(wanted[name], text, re.ASCII)
    else:
        assert type(value) is type(default)
        assert {"run_name": text, "flip": text.lower() == "true"}.get(name, value) == value
        if name in ("epochs", "learning_rate"):
            assert value == type(default)(text)


def test_settings_come_from_the_cells_of_parameters_alone():
    cells = [
        "epochs = 3\nrun_name = ''  # as in a notebook",
        "flip = False\nseed = 5",
        "# Parameters\nepochs = 4\n",
        "x()",
    ]
    namespace = {"In": ["", *cells], "epochs": 4, "flip": False, "seed": 5, "model": object()}
    assert Settings.from_notebook(namespace) == Settings(epochs=4)
    with pytest.raises(TinyclfError, match="epochs = 5: it was set outside the cell of parameters"):
        Settings.from_notebook(namespace | {"epochs": 5})
    with pytest.raises(TinyclfError, match="no cell of parameters ran"):
        Settings.from_notebook({"In": ["", "epochs = 3"], "epochs": 3})
    assert Settings.from_notebook({"epochs": 3, "model": object()}) == Settings(epochs=3)
