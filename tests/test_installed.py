"""Installed from a wheel, the package needs no checkout, and works in any folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tinyclf.utils.paths import NOTEBOOKS, PROJECT


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Somebody's own project, a git repository of its own, with the package installed in its folder `site`."""
    project, copy = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("checkout")
    for name in ("tinyclf", "notebooks"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(PROJECT / name, copy)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-compile", "--target", project / "site", copy], check=True)
    who = ["-c", "user.name=somebody", "-c", "user.email=some@body"]
    for command in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "--message", "a start"]):
        subprocess.run(["git", "-C", project, *command], check=True)
    return project


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_carries_every_file_of_the_package_and_of_the_notebooks(project):
    assert NOTEBOOKS.parent == PROJECT  # this is the checkout, and the one place where notebooks are kept
    ours = [name for name in files(PROJECT / "tinyclf") if "__pycache__" not in name]
    notebooks = [f"notebooks/{path.name}" for path in NOTEBOOKS.iterdir() if path.suffix in (".ipynb", ".toml")]
    assert files(project / "site" / "tinyclf") == sorted(ours + notebooks)


def test_it_runs_an_experiment_in_the_working_folder_and_writes_nowhere_else(project):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TINYCLF_")}
    environment |= {"PYTHONPATH": str(project / "site"), "PYTHONDONTWRITEBYTECODE": "1"}  # before the checkout
    before = files(project / "site")
    command = [sys.executable, "-m", "tinyclf", "run", "baseline-scratch"]
    quick = ["-p", "epochs=1", "-p", "input_size=16", "-p", "batch_size=100"]
    subprocess.run([*command, *quick], cwd=project, env=environment, check=True)
    run = project / "reports/mini/baseline-scratch"
    assert "Step 1: baseline" in (run / "index.html").read_text()
    record = json.loads((run / "record.json").read_text())
    assert record["data"]["name"] == "mini" and len(record["history"]) == 1
    assert record["environments"][0]["commit"] is None  # and not that of somebody's project
    assert any((project / "data").glob("mini-*"))
    assert sorted(path.name for path in project.iterdir() if path.name != ".git") == ["data", "reports", "site"]
    assert files(project / "site") == before
