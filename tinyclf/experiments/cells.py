"""The cells of parameters of a notebook: what they assign, read without running them. Papermill adds another one."""

import ast
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclf.utils.errors import TinyclfError

RUN_NAME = "run_name"  # the parameter that only notebooks have that train
INJECTED = "# Parameters\n"  # the first line of the cell that papermill adds


@functools.cache
def notebook_parameters(notebook: Path) -> Mapping[str, Any]:
    """The names and defaults in a notebook's cell that is tagged `parameters`. Raises TinyclfError without one."""
    try:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        if values := assigned("".join(cell["source"])):
            return values
        raise ValueError("it has another line than NAME = VALUE")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TinyclfError(f"{notebook}: expected a notebook with one cell tagged `parameters` ({error})") from error


def assigned(source: str) -> dict[str, Any]:
    """The names to which a cell assigns plain values, and these; empty for a cell that does anything else as well."""
    try:
        return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in ast.parse(source).body}  # type: ignore[attr-defined]
    except (AttributeError, ValueError, SyntaxError):
        return {}


def injected(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What papermill gave a notebook, by its `globals()`, where IPython keeps the source of each cell that ran."""
    return assigned(next((cell for cell in reversed(namespace.get("In", [])) if cell.startswith(INJECTED)), ""))


def executed(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook by its `globals()`: what its cells of parameters assign, the last one that ran wins.

    Without IPython, all plain variables. Raises TinyclfError where no such cell ran, and for a parameter that has
    another plain value by now: in a notebook, `model` is the network itself.
    """
    now = {name: value for name, value in namespace.items() if isinstance(value, bool | int | float | str)}
    if not any(namespace.get("In", ())):  # IPython keeps no history where it was asked not to, as by nbval
        return now
    cells = [cell for cell in namespace["In"] if cell.startswith(INJECTED) or RUN_NAME in assigned(cell)]
    values = {name: value for cell in cells for name, value in assigned(cell).items()}
    if not values:
        raise TinyclfError("no cell of parameters ran: one that assigns run_name, other plain values, and no more")
    for name, value in values.items():
        if now.get(name, value) != value:
            raise TinyclfError(f"{name} = {now[name]!r}: it was set outside the cell of parameters; set it there")
    return values
