"""The cells of a notebook, run in this process."""

import contextlib
import io

import nbformat

from tinyclf.utils.paths import NOTEBOOKS


def names_of(stem, **parameters):
    """The names of a notebook after all of its cells ran with these parameters."""
    names = {}
    for cell in nbformat.read(NOTEBOOKS / f"{stem}.ipynb", 4).cells:
        if cell.cell_type == "code" and "%pip" not in cell.source:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(cell.source, names)
            names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    return names
