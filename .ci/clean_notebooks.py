"""Notebooks are committed clean: no outputs, no execution counts, no metadata but cells' tags and which language it is.

.venv/bin/python .ci/clean_notebooks.py notebooks/*.ipynb            # names those that are not
.venv/bin/python .ci/clean_notebooks.py --clean notebooks/*.ipynb    # makes them so, in place
"""

import json
import sys
from pathlib import Path
from typing import Any

# What editors, Colab and nbconvert ask for. Without the version of Python, which everybody's Jupyter writes its own.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """What is committed of a notebook."""
    return notebook | {"cells": list(map(cleaned_cell, notebook["cells"])), "metadata": METADATA}


def cleaned_cell(cell: dict[str, Any]) -> dict[str, Any]:
    ran = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
    return cell | ran | {"metadata": {key: value for key, value in cell["metadata"].items() if key == "tags"}}


def written(notebook: dict[str, Any]) -> str:
    """The text of a notebook in the format that Jupyter writes, so that to open and to save it changes nothing else."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def fault(path: Path) -> str:
    """What is not clean in a notebook, and what to do about it; empty where all is."""
    notebook = json.loads(text := path.read_text("utf-8"))
    cells = [str(number) for number, cell in enumerate(notebook["cells"], 1) if cell != cleaned_cell(cell)]
    found = [f"outputs, execution counts or metadata in cells {' '.join(cells)}"] if cells else []
    if notebook["metadata"] != METADATA:
        found.append("metadata of its own")
    if text != written(notebook):
        found.append("another format than Jupyter's")
    remedy = f"python {Path(__file__).parent.name}/{Path(__file__).name} --clean {path} && git add {path}"
    return f"{path} is not clean: {', '.join(found)}. To clean it: .venv/bin/{remedy}" if found else ""


def clean(path: Path) -> None:
    """Clean a notebook in place."""
    path.write_text(written(cleaned(json.loads(path.read_text("utf-8")))), "utf-8")


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:] if name != "--clean"]
    if "--clean" in sys.argv[1:]:
        for each in paths:
            clean(each)
    sys.exit("\n".join(filter(None, map(fault, paths))) or None)
