"""Pieces of HTML for the pages: tables that a narrow screen shows as cards, images, links. All text is escaped."""

import base64
import io
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from IPython.display import HTML
from markupsafe import Markup, escape
from PIL import Image

NUMBER = re.compile(r"[-+±]?[\d.,]+(\s|%|$|<|e[-+]\d)")  # starts a cell that stands at the right of its column
TILE = 128  # pixels that an image is shown at


class Table(HTML):
    """A table in a notebook and on its page, and as text where no HTML is shown."""

    def __init__(self, frame: pd.DataFrame, html: str) -> None:
        super().__init__(html)  # type: ignore[no-untyped-call]  # IPython's
        self.frame = frame

    def __repr__(self) -> str:
        return self.frame.map(lambda cell: Markup(cell).striptags() if isinstance(cell, Markup) else cell).to_string()


def table(frame: pd.DataFrame, kind: str = "") -> Table:
    """A table of text. Cells are text, or Markup where they are HTML themselves. kind: a class of page.css."""
    if frame.index.name or not isinstance(frame.index, pd.RangeIndex):
        frame = frame.rename_axis(frame.index.name or "").reset_index()
    cells = [[str(cell) for cell in frame[name] if str(cell)] for name in frame]
    right = [bool(column) and all(map(NUMBER.match, column)) for column in cells]
    head = join(
        Markup('<th scope="col"{}>{}</th>').format(side(number), name)
        for name, number in zip(frame, right, strict=True)
    )
    rows = join(
        Markup("<tr>{}</tr>\n").format(
            join(
                Markup('<td data-label="{}"{}>{}</td>').format(name, side(number), inside(cell))
                for name, number, cell in zip(frame, right, cells, strict=True)
            )
        )
        for cells in frame.astype(object).to_numpy().tolist()
    )
    kind = f"{kind} cards".strip() if len(frame.columns) > 3 else kind
    page = Markup('<div class="table"><table class="{}"><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>')
    return Table(frame, page.format(kind, head, rows))


def join(parts: Iterable[Markup]) -> Markup:
    """Pieces of HTML one after the other."""
    return Markup("").join(parts)


def inside(cell: object) -> Markup:
    """What a cell holds: one thing, so that it can stand beside its label; nothing where it is empty."""
    return Markup("<div>{}</div>").format(cell) if str(cell) else Markup("")


def side(number: bool) -> Markup:
    """The attribute of a cell in a column of numbers; empty for any other."""
    return Markup(' class="number"') if number else Markup("")


def link(text: str, target: str) -> Markup:
    """A link to `target`, a path from the page on."""
    return Markup('<a href="{}">{}</a>').format(target, text)


def two_lines(first: str, second: str) -> Markup:
    """A cell with a second line in small letters, if that is not empty."""
    return Markup("{}<small>{}</small>").format(first, second) if second else escape(first)


def picture(svg: str, text: str) -> Markup:
    """An SVG within a cell; `text` is its alternative text."""
    source = base64.b64encode(svg.encode()).decode()
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(text, source)


def gallery(images: list[np.ndarray], texts: list[str]) -> HTML:
    """Images, uint8 (H, W, 3), each over its text, as many in a line as there is room for."""
    tile = Markup(
        '<figure class="tile" style="display: inline-block; width: {side}px; margin: 4px; vertical-align: top">'
        '<img alt="{text}" width="{side}" height="{side}" style="image-rendering: pixelated" '
        'src="data:image/png;base64,{source}"><figcaption style="font-size: 12px">{text}</figcaption></figure>'
    )
    tiles = join(
        tile.format(side=TILE, text=text, source=png(pixels)) for pixels, text in zip(images, texts, strict=True)
    )
    return HTML(Markup('<div class="gallery">{}</div>').format(tiles))


def png(pixels: np.ndarray) -> str:
    """An image as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def details(summary: str, inside: Table) -> HTML:
    """A table that opens on a click."""
    page = Markup("<details><summary>{}</summary>{}</details>").format(summary, Markup(inside.data))
    return HTML(page)
