"""The sections of an executed notebook on its page: folded or left out, where the notebook asks for it.

A section starts with a Markdown cell `## Title`. The tag `folded` on that cell folds the section; the tag `optional`
leaves it out where none of its code cells displayed anything.
"""

from collections.abc import Iterator
from typing import Any

from nbformat import NotebookNode

HEADING = "## "


def arrange(notebook: NotebookNode, left_out: str) -> None:
    """Drop empty sections and mark folded ones for the template, but those in which an error is.

    left_out: tag of cells that are not on the page.
    """
    cells = []
    for section in split([cell for cell in notebook.cells if left_out not in tags(cell)]):
        outputs = [output for cell in section for output in cell.get("outputs", [])]
        if "optional" in tags(section[0]) and not outputs:
            continue
        if "folded" in tags(section[0]) and all(output.output_type != "error" for output in outputs):
            fold(section)
        cells += section
    notebook.cells = cells


def fold(section: list[NotebookNode]) -> None:
    """Mark where a section opens and closes, and the code that it shows as it has nothing else to show."""
    title, _, section[0].source = section[0].source.removeprefix(HEADING).partition("\n")
    section[0].metadata["opens"], section[-1].metadata["closes"] = title, True
    for cell in section:
        cell.metadata["shown"] = cell.cell_type == "code" and not cell.outputs


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def split(cells: list[NotebookNode]) -> Iterator[list[NotebookNode]]:
    """The cells of each section; those before the first heading come as one of their own."""
    section: list[NotebookNode] = []
    for cell in cells:
        if is_heading(cell) and section:
            yield section
            section = []
        section.append(cell)
    if section:
        yield section


def is_heading(cell: Any) -> bool:
    """Whether a section starts with this cell."""
    return bool(cell.cell_type == "markdown" and cell.source.startswith(HEADING))
