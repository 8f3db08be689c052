"""The parameters of notebooks: what their `parameters` cell lists, and what papermill or the command line gives."""

import ast
import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError, one_of, typed
from tinyclf.utils.paths import NOTEBOOKS

RUN_NAME = "run_name"  # the parameter that only notebooks have that train
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}


def notebook_parameters(notebook: Path) -> dict[str, Any]:
    """The names and defaults in a notebook's cell that is tagged `parameters`. Raises TinyclfError without one."""
    try:
        return dict(read_cell(notebook, notebook.stat().st_mtime_ns))
    except OSError as error:
        raise TinyclfError(f"{notebook}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TinyclfError(f"{notebook}: expected a notebook with one cell tagged `parameters`") from error


@functools.lru_cache
def read_cell(notebook: Path, changed: int) -> dict[str, Any]:
    """As `notebook_parameters`, read once for each time that the notebook changed."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return assigned("".join(cell["source"]))


def accepted_parameters(own: Mapping[str, Any]) -> dict[str, Any]:
    """All that a notebook takes, with a value of the right type: its own parameters, and any setting if it trains."""
    return (DEFAULTS if RUN_NAME in own else {}) | dict(own)


def check_parameters(namespace: Mapping[str, Any], notebook: str) -> None:
    """Raise TinyclfError for a parameter from papermill that the notebook does not take, or has as another type.

    namespace: the notebook's `globals()`, where IPython keeps the source of each cell that ran.
    notebook: its file under notebooks/, whose parameters cell is what counts; a copy elsewhere gives its whole path.

    papermill only warns of an unknown one and runs the default, hours of the wrong run for `-p epoch 3`; and its
    `-p force false` is a text, which is as good as True.
    """
    own = notebook_parameters(NOTEBOOKS / notebook)
    accepted = accepted_parameters(own)
    for name, value in latest_injected(namespace.get("In", []), own).items():
        one_of("parameter", name, tuple(accepted))
        typed(name, value, accepted[name])


def latest_injected(cells: Iterable[str], own: Iterable[str]) -> dict[str, Any]:
    """What papermill's last cell of parameters assigned; nothing where the notebook's own one ran after it."""
    for cell in reversed(list(cells)):
        values = assigned(cell)
        if cell.startswith("# Parameters\n"):
            return values
        if values.keys() >= set(own):
            break
    return {}


def assigned(source: str) -> dict[str, Any]:
    """The names to which a cell assigns a literal, and its value; none for a cell that is not plain Python."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a %magic
        return {}
    values = {}
    for node in body:
        match node:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                with contextlib.suppress(ValueError, TypeError):
                    values[name] = ast.literal_eval(value)
    return values


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
