"""What README, docs and notebooks show runs as it stands, one after the other: no example takes another's run name."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import nbformat
import pytest

from tinyclf.utils.paths import NOTEBOOKS, PROJECT

README, CHANGING = PROJECT / "README.md", PROJECT / "docs" / "changing.md"
TRAINING = ("1_baseline", "2_preprocessing", "3_finetuning", "4_recipes")
SHORT = {"epochs": 1, "input_size": 16, "batch_size": 200}


@pytest.fixture(autouse=True)
def trackers(monkeypatch):
    """They are not installed, and take what they are given."""
    for name in ("wandb", "trackio", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, MagicMock(spec=ModuleType(name), SummaryWriter=MagicMock()))
        sys.modules[name].configure_mock(init=MagicMock(), log=MagicMock(), finish=MagicMock())


def blocks(page: Path) -> list[str]:
    """The Python of a page, on few epochs of small images."""
    whole, short = 'Settings(dataset="mini")', f'Settings(dataset="mini", **{SHORT})'
    return [code.replace(whole, short) for code in re.findall(r"^```python\n(.+?)^```", page.read_text(), re.M | re.S)]


def code_cells(stem: str, install: bool = False) -> list[str]:
    """The code of a notebook: of the cell that installs, or of all others."""
    cells = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", 4).cells
    return [cell.source for cell in cells if cell.cell_type == "code" and ("%pip" in cell.source) == install]


def run_cells(stem: str, **changed: object) -> None:
    """Run the cells of a notebook as far as its training, and then what it leaves to the reader."""
    names: dict = {}
    parameters, *others = code_cells(stem)
    exec(parameters, names)
    names |= SHORT | changed
    trained = next(number for number, source in enumerate(others, 1) if "run.fit(" in source)
    (turn,) = [source for source in others if "your_turn = False" in source]
    for source in (*others[:trained], turn.replace("your_turn = False", "your_turn = True")):
        exec(source, names)


def test_all_examples_run_in_a_row(reports):
    first, *examples = blocks(CHANGING)
    names: dict = {}
    for code in blocks(README):
        exec(code, names)
    for code in examples:
        exec(f"{first}\n{code}", {})
    ran = [*blocks(README), *examples]
    for stem, changed in zip(TRAINING, ({}, {"weights": "none"}, {}, {"epochs": 2}), strict=True):
        run_cells(stem, **changed)
        ran += code_cells(stem)
    runs = re.findall(r"""Run\(.*?name="(.+?)"|^run_name = "(.+?)\"""", "\n".join(ran), re.M)
    left = sorted(path.name for path in (reports / "mini").iterdir() if path.is_dir())
    assert left == sorted("".join(run) for run in runs), "each example has a run of its own"
    assert {"baseline-scratch", "resnet34-adamw", "my-net"} <= set(left)


def test_no_line_of_the_docs_gives_one_name_to_two_runs():
    lines = {re.sub(r"^ +|\.venv/bin/|\s+#.*", "", line) for page in PROJECT.glob("**/*.md") for line in page.open()}
    named = Counter(re.findall(r"run_name=([\w-]+)", "\n".join(line for line in lines if line.startswith("tinyclf"))))
    assert named and set(named.values()) == {1}


def test_every_notebook_installs_a_clone_or_a_wheel_wherever_it_is_opened(monkeypatch, tmp_path):
    (source,) = {code for path in NOTEBOOKS.glob("*.ipynb") for code in code_cells(path.stem, install=True)}
    source, asked = source.replace('%pip install --quiet "{found[0]}"', "asked.append(found[0])"), []
    exec(source, {"asked": asked})
    assert asked == [], "it is installed"
    clone = tmp_path / "some folder" / "clone"
    (clone / "tinyclf").mkdir(parents=True)
    (clone / "notebooks").mkdir()
    monkeypatch.chdir(clone.parent)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleType("spec"))  # of a folder without __init__.py
    with pytest.raises(FileNotFoundError, match=r"clone tinyclf's repository into .*some folder, or upload its wheel"):
        exec(source, {"asked": asked})
    (clone.parent / "tinyclf-0.1.0-py3-none-any.whl").touch()
    exec(source, {"asked": asked})
    (clone / "tinyclf" / "__init__.py").touch()
    for folder in (clone.parent, clone, clone / "notebooks"):
        monkeypatch.chdir(folder)
        exec(source, {"asked": asked})
    assert asked == [clone.parent / "tinyclf-0.1.0-py3-none-any.whl", clone, clone, clone]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_lab_opens_copies_and_never_replaces_one(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "notebooks/0_data.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").symlink_to(sys.executable)
    (tools / "jupyter").symlink_to(shutil.which("true"))
    (tools.parent / ".ready").write_text(f"{tmp_path}\n")  # what an installation leaves
    mine, original = tmp_path / "work" / "0_data.ipynb", (tmp_path / "notebooks" / "0_data.ipynb").read_bytes()
    for text in (original, b"changed in Lab"):
        subprocess.run(["make", "lab"], cwd=tmp_path, check=True)
        assert mine.read_bytes() == text and (tmp_path / "notebooks" / "0_data.ipynb").read_bytes() == original
        mine.write_bytes(b"changed in Lab")
