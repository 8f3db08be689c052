"""Pieces of HTML for the pages, made by the macros of templates/pieces.html.j2. All text is escaped."""

import base64
import io
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from tinyclf.report.format import Column

ENVIRONMENT = Environment(loader=PackageLoader("tinyclf.report"), autoescape=True, undefined=StrictUndefined)
PIECES: Any = ENVIRONMENT.get_template("pieces.html.j2").module
# A link, a cell with more lines in small letters, and a verdict in its colour: HTML, as Markup
link, small_lines, verdict_mark = PIECES.link, PIECES.small_lines, PIECES.verdict_mark
TILE = 128  # pixels that an image of a gallery takes on the page


class Table(HTML):
    """A table in a notebook and on its page; text where no HTML can be displayed."""

    def __init__(self, html: str, texts: pd.DataFrame) -> None:
        super().__init__(html)  # type: ignore[no-untyped-call]  # IPython's
        self.texts, self.rows = texts, len(texts)

    def __repr__(self) -> str:
        return self.texts.to_string(index=False, max_rows=40)  # a terminal shows it too


def table(frame: pd.DataFrame, columns: Sequence[Column] = (), kind: str = "") -> Table:
    """A table of the rows of `frame`: of `columns`, or of all that it has, numbers with four digits.

    Without `columns`, an index that has a name or is no number is a column too. kind: a class of page.css.
    """
    if not columns:
        if frame.index.name or not pd.api.types.is_integer_dtype(frame.index):
            frame = frame.rename_axis(frame.index.name or "").reset_index()
        numbers = frame.select_dtypes("number")
        columns = [Column(name, itemgetter(name), name in numbers) for name in frame]
        frame = frame.map(lambda cell: f"{cell:.4f}" if isinstance(cell, float) else cell, na_action="ignore")
        frame = frame.astype(object).fillna("")  # what is not known
    rows = [[column.cell(row) for column in columns] for _, row in frame.astype(object).iterrows()]
    names = [column.name for column in columns]
    texts = [[Markup(cell).striptags() if isinstance(cell, Markup) else cell for cell in row] for row in rows]
    return Table(PIECES.table(columns, rows, kind), pd.DataFrame(texts, columns=names))


def details(summary: str, inside: HTML) -> HTML:
    """Something that opens on a click."""
    return HTML(PIECES.details(summary, Markup(inside.data)))


def gallery(images: Sequence[np.ndarray], texts: Sequence[str]) -> HTML:
    """Images, uint8 (H, W, 3), over their texts, as many in a line as fit."""
    return HTML(PIECES.gallery(list(zip(map(png, images), texts, strict=True)), TILE))


def png(pixels: np.ndarray) -> str:
    """An image as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
