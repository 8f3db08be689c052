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

TRAINING = {"1_baseline": {}, "2_preprocessing": {"weights": "none"}, "3_finetuning": {}, "4_recipes": {"epochs": 2}}
SHORT = {"epochs": 1, "input_size": 16, "batch_size": 200}


@pytest.fixture(autouse=True)
def trackers(monkeypatch):
    """Trackers of others, which are not installed: they take what they are given."""
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


def test_all_examples_run_in_a_row(reports):
    names: dict = {}
    for code in (readme := blocks(PROJECT / "README.md")):
        exec(code, names)
    first, *examples = blocks(PROJECT / "docs/changing.md")
    for code in examples:
        exec(f"{first}\n{code}", {})
    ran = [*readme, *examples]
    for stem, changed in TRAINING.items():
        parameters, *cells = code_cells(stem)
        names = {}
        exec(parameters, names)
        names |= SHORT | changed
        fitted = next(number for number, source in enumerate(cells, 1) if "run.fit(" in source)
        (turn,) = [source for source in cells if "your_turn = False" in source]
        for source in (*cells[:fitted], turn.replace("your_turn = False", "your_turn = True")):
            exec(source, names)
        ran += [parameters, *cells]
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
    source, names = source.replace('%pip install --quiet "{found[0]}"', "asked.append(found[0])"), {"asked": []}
    exec(source, names)
    assert names["asked"] == [], "it is installed"
    clone, wheel = tmp_path / "clone", tmp_path / "tinyclf-0.1.0-py3-none-any.whl"
    for folder in ("tinyclf", "notebooks"):
        (clone / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleType("spec"))  # of a folder without __init__.py
    with pytest.raises(FileNotFoundError, match=rf"clone tinyclf's repository into {tmp_path}, or upload its wheel"):
        exec(source, names)
    wheel.touch()
    exec(source, names)
    (clone / "tinyclf/__init__.py").touch()
    for folder in (tmp_path, clone, clone / "notebooks"):
        monkeypatch.chdir(folder)
        exec(source, names)
    assert names["asked"] == [wheel, clone, clone, clone]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_lab_opens_copies_and_never_replaces_one(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "notebooks/0_data.ipynb", "notebooks/7_run.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    tools, notebook = tmp_path / ".venv/bin", tmp_path / "notebooks/0_data.ipynb"
    tools.mkdir(parents=True)
    (tools / "python").symlink_to(sys.executable)
    (tools / "jupyter").symlink_to(shutil.which("true"))
    (tools.parent / ".ready").write_text(f"{tmp_path}\n")  # what an installation leaves
    mine, original = tmp_path / "work/0_data.ipynb", notebook.read_bytes()
    for text in (original, b"changed in Lab"):
        subprocess.run(["make", "lab"], cwd=tmp_path, check=True)
        assert mine.read_bytes() == text and notebook.read_bytes() == original
        mine.write_bytes(b"changed in Lab")
    assert len(list(mine.parent.iterdir())) == 2
