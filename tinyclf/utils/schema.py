"""TOML files of tables, checked by rules: an error names the file, the table and the key."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyclf.utils.checks import one_of
from tinyclf.utils.errors import TinyclfError

Rule = tuple[str, Callable[[Any], bool]]  # what a value is expected to be, in words and as a test


def is_number(value: Any) -> bool:
    """Whether a value is a number above 0; NaN and True are none."""
    return type(value) in (int, float) and 0 < value < float("inf")


def list_of(rule: Rule) -> Rule:
    """The rule for a list, not empty, whose entries follow `rule`."""
    text, holds = rule
    return (
        f"a list, each entry {text}",
        lambda value: isinstance(value, list) and value != [] and all(map(holds, value)),
    )


TEXT: Rule = ("a text", lambda value: isinstance(value, str) and value != "")
TABLE: Rule = ("a table", lambda value: isinstance(value, dict))
COUNT: Rule = ("a whole number from 1", lambda value: type(value) is int and value >= 1)
POSITIVE: Rule = ("a number above 0", is_number)
SHARE: Rule = ("a number from 0 to 1", lambda value: value == 0 or (is_number(value) and value <= 1))


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
    except tomllib.TOMLDecodeError as error:
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
        text, holds = rules[key]
        if not holds(value):
            raise TinyclfError(f"{where}: {key} = {value!r}: expected {text}")
    for key in required:
        if key not in table:
            raise TinyclfError(f"{where}: {key} is missing: expected {rules[key][0]}")
