"""The parameters that notebooks take, and checks of what papermill, a TOML file or the command line gives."""

import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tinyclf.experiments.cells import RUN_NAME, injected, notebook_parameters
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError, one_of, typed
from tinyclf.utils.paths import NOTEBOOKS

# How a text is read as a value of a type, and what to call it. Any text is a text.
READ: dict[type, tuple[str, Any, str]] = {
    bool: ("true|false", lambda text: text.lower() == "true", "true or false"),
    int: (r"[+-]?\d{1,18}", int, "a whole number"),
    float: (r"[+-]?(\d{1,99}(\.\d{0,99})?|\.\d{1,99})(e[+-]?\d{1,4})?", float, "a number, as 0.001 or 1e-3"),
}
OTHER_WORDS = {"lr": "learning_rate", "wd": "weight_decay", "arch": "model", "scheduler": "schedule"}
Convert = Callable[[str, Any, Any], Any]  # of a name, a value, and one of the type that it shall have
OWN_CODE = ("optimizer", "loss", "criterion", "transform", "augmentation")


def accepted_parameters(notebook: Path, *refused: str) -> dict[str, Any]:
    """What a notebook takes, with a value of the right type: its own parameters, and any setting if it trains.

    refused: those that are not given in this way.
    """
    own = notebook_parameters(notebook)
    settings = {name: getattr(Settings, name) for name in Settings.names()} if RUN_NAME in own else {}
    return {name: value for name, value in (settings | dict(own)).items() if name not in refused}


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


def check_parameters(namespace: Mapping[str, Any], notebook: str) -> None:
    """Raise TinyclfError for a parameter from papermill that the notebook does not take, or has as another type.

    namespace: the notebook's `globals()`. notebook: its file under notebooks/, whose parameters cell is what counts; a
    copy elsewhere gives its whole path.

    papermill only warns of an unknown one and runs the default, hours of the wrong run for `-p epoch 3`; and its
    `-p force false` is a text, which is as good as True.
    """
    if given := injected(namespace):
        checked(given, accepted_parameters(NOTEBOOKS / notebook))


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
    pattern, as_type, expected = READ[type(default)]
    if not re.fullmatch(pattern, value, re.ASCII | re.IGNORECASE):
        raise TinyclfError(f"{name} = {reprlib.repr(value)}: expected {expected}")
    return as_type(value)
