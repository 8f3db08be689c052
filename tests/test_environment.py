"""environment.yml, pyproject.toml and the lock say the same thing; the commit in a record, where git tells it."""

import re
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tinyclf.utils import environment

PROJECT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LOCK = (PROJECT / "requirements.txt").read_text()
PYTHONS = ["3.11", "3.12", "3.13"]


def locked() -> list[tuple[Requirement, list[str]]]:
    """What the lock names: each requirement (`name==version ; marker`) with its hashes."""
    joined = re.sub(r"\s*\\\n\s*", " ", LOCK)
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(line.split(" --hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def test_every_dependency_is_locked_at_versions_it_admits():
    versions = defaultdict(list)  # there may be several, for one Python each
    for requirement, _ in locked():
        versions[canonicalize_name(requirement.name)].append(str(requirement.specifier).removeprefix("=="))
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    lines = [line for lines in (PYPROJECT["project"]["dependencies"], *extras) for line in lines]
    for wanted in (Requirement(line) for line in lines if not line.startswith("tinyclf[")):
        found = versions[canonicalize_name(wanted.name)]
        assert found and all(version in wanted.specifier for version in found), wanted


def test_the_lock_has_exact_releases_and_hashes_and_no_address_option_or_path():
    for requirement, hashes in locked():
        # A local version (+cpu) would be a build that only this or that machine has.
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement
    assert not re.search(r"://| @ |^\s*-(?!-hash=)|(^|[\s='\"])[./~]*/\w", LOCK, re.M)


def test_conda_gets_python_and_pip_and_the_lock():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    assert environment["name"] == PYPROJECT["project"]["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, section = environment["dependencies"]
    # One pip call installs the section; beside a lock with hashes it can hold nothing else, `-e .` least of all.
    assert (pip, section) == ("pip", {"pip": ["-r requirements.txt"]})
    supported = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert Requirement(python).specifier == supported
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported] == PYTHONS


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    environment.warn_of_commit.cache_clear()
    return tmp_path


def test_the_commit_is_this_checkouts_whatever_git_is_told_by_its_environment(checkout, monkeypatch, capsys):
    monkeypatch.setenv("GIT_DIR", str(checkout.parent))  # as git's hooks do
    assert len(environment.commit()) == 40 and capsys.readouterr().err == ""
    (checkout / "tinyclf").mkdir()
    (checkout / "tinyclf/new.py").touch()
    assert len(environment.commit()) == 40  # nobody asked git to keep it
    subprocess.run(["git", "--git-dir", checkout / ".git", "--work-tree", checkout, "add", "tinyclf"], check=True)
    assert environment.commit().endswith("-dirty") and environment.commit("notebooks").isalnum()


@pytest.mark.parametrize("said", ["", "fatal: detected dubious ownership in repository"])
def test_where_git_is_missing_or_refuses_the_commit_is_missed_aloud_and_once(checkout, monkeypatch, capsys, said):
    if said:  # as of another user's checkout
        (checkout / "git").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 128\n")
        (checkout / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(checkout))
    assert environment.commit() is environment.commit() is None
    shown = capsys.readouterr().err
    assert shown.count(f"commit of {checkout} is not recorded: ") == 1
    assert shown.endswith(f"{said or 'No such file or directory: ' + repr('git')}\n")
