"""The columns of a table for a reader, and the table in Markdown. `tinyclf.report.html` makes it for a page."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """One column of a table for a reader."""

    name: str
    cell: Callable[[Any], str]  # from a row to text, or to Markup that is HTML already
    number: bool = True  # aligned to the right


def markdown(rows: Iterable[Any], columns: Sequence[Column]) -> str:
    """A table of `rows` in Markdown. A cell may have Markdown in it, but no HTML, and no end of a cell."""
    cells = [[column.cell(row).replace("|", "\\|").replace("<", "&lt;") for column in columns] for row in rows]
    rule = ["--:" if column.number else "---" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[column.name for column in columns], rule, *cells])
