"""The cells of a notebook, run in this process."""

import contextlib
import io

import nbformat

from tinyclf.utils.paths import NOTEBOOKS


def code_cells(stem, install=False):
    """The code of a notebook: of the cell that installs, or of all others, of which the first has the parameters."""
    cells = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", 4).cells
    return [cell.source for cell in cells if cell.cell_type == "code" and ("%pip" in cell.source) == install]


def names_of(stem, until="", **parameters):
    """The names of a notebook after its cells ran with these parameters: all, or as far as that with `until` in it."""
    names, (first, *others) = {}, code_cells(stem)
    last = next(number for number, source in enumerate(others, 1) if until in source) if until else len(others)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(first, names)
        names |= parameters
        for source in others[:last]:
            exec(source, names)
    return names
