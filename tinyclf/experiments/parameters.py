"""The parameters of notebooks: what their cells assign, read without running them, and values that are given for them.

Values come from a TOML file, the command line, or papermill, which adds a cell of its own.
"""

import ast
import functools
import json
import reprlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tinyclf.utils.errors import TinyclfError, one_of, typed

RUN_NAME = "run_name"  # the parameter that only notebooks have that train
INJECTED = "# Parameters\n"  # the first line of the cell that papermill adds
EXPECTED = {bool: "true or false", int: "a whole number", float: "a number, as 0.001 or 1e-3"}  # of a text that is read
OTHER_WORDS = {"lr": "learning_rate", "wd": "weight_decay", "arch": "model", "scheduler": "schedule"}
OWN_CODE = ("optimizer", "loss", "criterion", "transform", "augmentation")
Convert = Callable[[str, Any, Any], Any]  # of a name, a value, and one of the type that it shall have


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


def refuse_unknown(name: str, accepted: Collection[str]) -> None:
    """Raise TinyclfError for a parameter that is not among those accepted."""
    if name not in accepted and OTHER_WORDS.get(name) in accepted:
        raise TinyclfError(f"parameter = {name!r}: did you mean {OTHER_WORDS[name]}?")
    if name not in accepted and name in OWN_CODE:
        how = "build it in a copy of a notebook, and run that by `tinyclf run PATH.ipynb`"
        raise TinyclfError(f"parameter = {name!r}: no setting chooses it; {how}")
    one_of("parameter", name, accepted)


def checked(parameters: Mapping[str, Any], accepted: Mapping[str, Any], convert: Convert = typed) -> dict[str, Any]:
    """`parameters`, each as the type of its value in `accepted`. Raises TinyclfError for another one.

    convert: `typed`, or `read` for texts of the command line. Whether a setting is in its range is for `Settings` to
    say.
    """
    for name in parameters:
        refuse_unknown(name, accepted)
    return {name: convert(name, value, accepted[name]) for name, value in parameters.items()}


def parse_assignment(assignment: str) -> tuple[str, str]:
    """`epochs=3` to ("epochs", "3")."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.isidentifier():
        raise TinyclfError(f"parameter {reprlib.repr(assignment)}: expected NAME=VALUE")
    return key, text


def read(name: str, value: Any, default: Any) -> Any:
    """A value as the type of `default`: a text of the command line is read as one. Raises TinyclfError."""
    if not isinstance(value, str) or isinstance(default, str):
        return typed(name, value, default)
    try:
        return TypeAdapter(type(default)).validate_strings(value)
    except ValidationError as error:
        raise TinyclfError(f"{name} = {reprlib.repr(value)}: expected {EXPECTED[type(default)]}") from error
