"""TOML and JSON files, checked by rules: an error names the file and the place in it."""

import datetime
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyclf.utils.errors import TinyclfError, one_of

Rule = tuple[str, Callable[[Any], bool]]  # what a value is expected to be, in words and as a test
# Of a value with values in it: a rule; a function of place and value that raises TinyclfError; the shape of every entry
# of a list, or of a table, as {ANY: shape}; or the shapes of a table's keys, of which one that ends in ? may be missing
# or null. A table may have more keys than these.
Shape = Rule | Callable[[str, Any], object] | list[Any] | dict[str, Any]
ANY = "*"
HUGE = 1e300  # no number of ours is as large, and arithmetic with it stays finite


def is_number(value: Any) -> bool:
    """Whether a value is a number above 0; NaN and True are none."""
    return type(value) in (int, float) and 0 < value < HUGE


def is_time(value: Any) -> bool:
    """Whether a value is a time with its offset from UTC, as text."""
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def list_of(rule: Rule) -> Rule:
    """The rule for a list, not empty, whose entries follow `rule`."""
    text, holds = rule
    return (
        f"a list, each entry {text}",
        lambda value: isinstance(value, list) and value != [] and all(map(holds, value)),
    )


TEXT: Rule = ("a text", lambda value: isinstance(value, str) and value != "")
TABLE: Rule = ("a table", lambda value: isinstance(value, dict))
LINE: Rule = ("a text, or an empty one", lambda value: isinstance(value, str))
COUNT: Rule = ("a whole number from 1", lambda value: type(value) is int and 1 <= value < HUGE)
NUMBER: Rule = ("a finite number", lambda value: type(value) in (int, float) and -HUGE < value < HUGE)
POSITIVE: Rule = ("a number above 0", is_number)
SHARE: Rule = ("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
TIME: Rule = ("a time in UTC, as 2026-11-26T08:00:00+00:00", lambda value: is_time(value))
LIST: Rule = ("a list", lambda value: isinstance(value, list))


def read_text(path: Path) -> str:
    """The text of a file. Raises TinyclfError where it cannot be read, or is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TinyclfError(f"{path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise TinyclfError(f"{path}: cannot be read: {error.strerror}") from error


def parse_tables(file: str, text: str) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file by name, in order. Raises TinyclfError for what is not TOML, and outside of a table."""
    try:
        tables = tomllib.loads(text)
        repr(tables)  # of a hexadecimal number of thousands of digits there is none, and messages need it
    except (ValueError, RecursionError) as error:
        raise TinyclfError(f"{file}: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise TinyclfError(f"{file}: {name} = {table!r}: expected a table, [{name}]")
    return tables


def check_table(where: str, table: Mapping[str, Any], rules: Mapping[str, Rule], required: tuple[str, ...]) -> None:
    """Raise TinyclfError for a key that has no rule, a value that breaks its rule, and a required key that is missing.

    where: file and table, for the message.
    """
    for key, value in table.items():
        one_of(f"{where}: key", key, tuple(rules))
        check_rule(f"{where}: {key}", value, rules[key])
    for key in required:
        if key not in table:
            raise TinyclfError(f"{where}: {key} is missing: expected {rules[key][0]}")


def check_shape(where: str, value: Any, shape: Shape) -> None:
    """Raise TinyclfError where `value` is not of `shape`, naming the place within `where`, as `history[3].loss`."""
    if callable(shape):
        shape(where, value)
    elif isinstance(shape, list):
        check_rule(where, value, LIST)
        for index, entry in enumerate(value):
            check_shape(f"{where}[{index}]", entry, shape[0])
    elif isinstance(shape, dict):
        check_rule(where, value, TABLE)
        keys = {key: shape[ANY] for key in value} if ANY in shape else shape
        for key, inner in keys.items():
            name = key.removesuffix("?")
            if key == name and key not in value:
                raise TinyclfError(f"{where}.{key} is missing".removeprefix("."))
            if key == name or value.get(name) is not None:
                check_shape(f"{where}.{name}".removeprefix("."), value[name], inner)
    else:
        check_rule(where, value, shape)


def check_rule(where: str, value: Any, rule: Rule) -> None:
    """Raise TinyclfError for a value that breaks its rule."""
    text, holds = rule
    if not holds(value):
        raise TinyclfError(f"{where or 'content'} = {reprlib.repr(value)}: expected {text}")
