"""The exceptions that this package raises on purpose, and checks of a value that somebody chose."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

MANY = 20  # names, from which on a list fills a terminal
# How papermill is given a value of the first type, where it gave one of the second
HINTS = {
    (bool, str): " (papermill's -p reads True and False, and takes true and false as text)",
    (str, int): " (papermill's -p reads a number; to give text: -r NAME TEXT, or quotes in a YAML file)",
    (float, str): " (YAML reads 1e-3 as text: write 1.0e-3)",
}


class TinyclfError(Exception):
    """Says what is wrong, where, and what to do about it; the command line prints it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the message, as there is nothing to debug."""
        return [f"TinyclfError: {self}"]


class UsageError(TinyclfError):
    """Something was asked for that cannot be: the command line ends with status 2, and with 1 for all others."""


def one_of(name: str, value: str, accepted: Iterable[str], also: str = "") -> None:
    """Raise TinyclfError unless `value` is one of `accepted`; it names the nearest one first. also: ends the list.

    Of more than MANY it names the nearest alone, where there are any.
    """
    accepted = list(accepted)
    if not accepted:
        raise TinyclfError(f"{name} = {value!r}: there are none to choose from")
    if value not in accepted:
        nearest, many = difflib.get_close_matches(value, accepted, 3), len(accepted) > MANY
        if nearest and many:
            raise TinyclfError(f"{name} = {value!r}: did you mean {' or '.join(nearest)}?")
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
        hint = HINTS.get((wanted, type(value)), "")
        raise TinyclfError(f"{name} = {value!r}: expected {wanted.__name__}, got {type(value).__name__}{hint}")
    return value
