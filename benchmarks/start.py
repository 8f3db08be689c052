"""How long it takes to start: `python benchmarks/start.py`, on a machine that does nothing else.

Seconds of whole Python processes, which take turns in each round: torch and torchvision alone, what the notebook of
Step 1 imports, the package, and commands that do not train. Prints a table in Markdown.
"""

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import nbformat
import typer

PROJECT = Path(__file__).parent.parent
COMMANDS = ("--help", "list", "table --dataset tiny-imagenet")


def imports(notebook: Path) -> str:
    """All lines of a notebook that import something, but for those of its installation."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code" and "%pip" not in cell.source)
    lines = [line for line in ast.parse(code).body if isinstance(line, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, lines))


def main(rounds: Annotated[int, typer.Option(help="of all processes")] = 7) -> None:
    """Measure, and print the table."""
    python = {
        "`import torch, torchvision`": "import torch, torchvision",
        "imports of Step 1's notebook": imports(PROJECT / "notebooks" / "1_baseline.ipynb"),
        "Python alone": "",
        "`import tinyclf`": "import tinyclf",
    }
    processes = {name: [sys.executable, "-c", code] for name, code in python.items()}
    processes |= {f"`tinyclf {line}`": [sys.executable, "-m", "tinyclf", *line.split()] for line in COMMANDS}
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(1 + rounds):  # the first one reads the files from the disk
        for name, command in processes.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, cwd=PROJECT, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - started)
    torch = seconds["`import torch, torchvision`"]
    print(f"Median of {rounds} rounds\n\n| process | seconds | to torch and torchvision |\n|---|---:|---:|")
    for name, row in seconds.items():
        ratio = statistics.median(own / base for own, base in zip(row, torch, strict=True))
        print(f"| {name} | {statistics.median(row):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    typer.run(main)
