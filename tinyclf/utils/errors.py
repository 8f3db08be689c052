"""The exceptions that this package raises on purpose, and checks of a value that somebody chose."""

import contextlib
import difflib
import math
from collections.abc import Iterable
from typing import Any


class TinyclfError(Exception):
    """Says what is wrong, where, and what to do about it; the command line prints it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the message, as there is nothing to debug."""
        return [f"TinyclfError: {self}"]


class NewerVersionError(TinyclfError):
    """A file is whole, and was written by a later version: not to be replaced as if it were damaged."""


class UsageError(TinyclfError):
    """Something was asked for that cannot be: the command line ends with status 2, and with 1 for all others."""


def one_of(name: str, value: str, accepted: Iterable[str], also: str = "") -> None:
    """Raise TinyclfError unless `value` is one of `accepted`; it names the nearest one first. also: ends the list."""
    accepted = list(accepted)
    if not accepted:
        raise TinyclfError(f"{name} = {value!r}: there are none to choose from")
    if value not in accepted:
        nearest = difflib.get_close_matches(value, accepted, 1)
        expected = f"did you mean {nearest[0]}? Expected" if nearest else "expected"
        raise TinyclfError(f"{name} = {value!r}: {expected} one of {', '.join(accepted)} {also}".rstrip())


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise TinyclfError unless low <= value <= high."""
    if not (math.isfinite(value) and low <= value <= high):
        raise TinyclfError(f"{name} = {value!r}: expected a number from {low} to {high}")


def typed(name: str, value: Any, default: Any) -> Any:
    """`value` if it is of the default's type (an int may stand for a float), else TinyclfError."""
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        hint = type_hint(name, value, wanted)
        raise TinyclfError(f"{name} = {value!r}: expected {wanted.__name__}, got {type(value).__name__}{hint}")
    return value


def type_hint(name: str, value: Any, wanted: type) -> str:
    """How papermill is given a value of the type that is wanted, in brackets; empty where there is nothing to say."""
    if wanted is bool:
        return " (papermill's -p reads True and False, and takes true and false as text)"
    if wanted is str and isinstance(value, int | float):
        return f" (papermill's -p reads a number; to give text: -r {name} TEXT, or quotes in a YAML file)"
    if wanted is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = repr(float(value))
            number = number if "." in number else number.replace("e", ".0e")
            return f" (YAML reads {value} as text: write {number})"
    return ""
