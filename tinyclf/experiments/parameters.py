"""The parameters of notebooks: what their `parameters` cell lists, and what papermill or the command line gives."""

import ast
import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError, one_of, typed
from tinyclf.utils.paths import NOTEBOOKS

RUN_NAME = "run_name"  # the parameter that only notebooks have that train
INJECTED = "# Parameters\n"  # the first line of the cell that papermill adds


@functools.cache
def notebook_parameters(notebook: Path) -> Mapping[str, Any]:
    """The names and defaults in a notebook's cell that is tagged `parameters`. Raises TinyclfError without one."""
    try:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        return assigned("".join(cell["source"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TinyclfError(f"{notebook}: expected a notebook with one cell tagged `parameters` ({error})") from error


def assigned(source: str) -> dict[str, Any]:
    """The names to which a cell of parameters assigns, and their values."""
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assignments}


def accepted_parameters(notebook: Path) -> dict[str, Any]:
    """All that a notebook takes, with a value of the right type: its own parameters, and any setting if it trains."""
    own = notebook_parameters(notebook)
    settings = {name: getattr(Settings, name) for name in Settings.names()} if RUN_NAME in own else {}
    return settings | dict(own)


def checked(parameters: Mapping[str, Any], notebook: Path, refused: Collection[str] = ()) -> dict[str, Any]:
    """`parameters`, each as its type. Raises TinyclfError for one that the notebook does not take, or that is refused.

    Whether a setting is in its range is for `Settings` to say.
    """
    accepted = accepted_parameters(notebook)
    for name in parameters:
        one_of("parameter", name, [name for name in accepted if name not in refused])
    return {name: typed(name, value, accepted[name]) for name, value in parameters.items()}


def check_parameters(namespace: Mapping[str, Any], notebook: str) -> None:
    """Raise TinyclfError for a parameter from papermill that the notebook does not take, or has as another type.

    namespace: the notebook's `globals()`, where IPython keeps the source of each cell that ran; the last one counts.
    notebook: its file under notebooks/, whose parameters cell is what counts; a copy elsewhere gives its whole path.

    papermill only warns of an unknown one and runs the default, hours of the wrong run for `-p epoch 3`; and its
    `-p force false` is a text, which is as good as True.
    """
    for cell in [cell for cell in namespace.get("In", []) if cell.startswith(INJECTED)][-1:]:
        checked(assigned(cell), NOTEBOOKS / notebook)


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """`epochs=3` to ("epochs", 3): numbers, True and False as Python writes them, anything else as text."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.isidentifier():
        raise TinyclfError(f"parameter {assignment!r}: expected NAME=VALUE")
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    return key, value if isinstance(value, (bool, int, float)) else text
