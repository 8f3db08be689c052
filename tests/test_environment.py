"""environment.yml, pyproject.toml, the lock and the Makefile say the same thing."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LOCK = (PROJECT / "requirements.txt").read_text()
PYTHONS = ["3.11", "3.12", "3.13"]


def locked() -> list[tuple[Requirement, list[str]]]:
    """What the lock names: each requirement (`name==version ; marker`) with its hashes."""
    joined = re.sub(r"\s*\\\n\s*", " ", LOCK)
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(line.split(" --hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def locked_version(name: str, python: str) -> Version:
    """The version that the lock gives Linux on x86-64 with that Python, of which it must name exactly one."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
    }
    wanted = [r for r, _ in locked() if canonicalize_name(r.name) == canonicalize_name(name)]
    versions = [r.specifier for r in wanted if r.marker is None or r.marker.evaluate(machine)]
    assert len(versions) == 1, f"the lock names {len(versions)} versions of {name} for Python {python}: run `make lock`"
    return Version(str(versions[0]).removeprefix("=="))


EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def test_every_dependency_is_locked_at_a_version_it_admits():
    lines = [line for lines in (PYPROJECT["project"]["dependencies"], *EXTRAS.values()) for line in lines]
    for wanted in map(Requirement, (line for line in lines if not line.startswith("tinyclf["))):
        for python in PYTHONS:
            assert locked_version(wanted.name, python) in wanted.specifier, (wanted.name, python)


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


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_prints_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.M).group(1).split()
    printed = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make (\w+) +\S", printed, re.M) == phony
