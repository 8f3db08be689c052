"""Where data goes when homes are unknown and folders cannot be written; what a path and a machine may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyclf.data.locate import locate_dataset
from tinyclf.utils import paths
from tinyclf.utils.environment import usable_cores
from tinyclf.utils.errors import TinyclfError


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of its own, and a folder for caches."""
    (tmp_path / "checkout").mkdir()
    monkeypatch.setattr(paths, "PROJECT", tmp_path / "checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYCLF_DATA", raising=False)
    return tmp_path / "checkout"


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is made up."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))


def test_without_a_home_a_checkout_works(checkout, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", str)  # as where HOME is unset and the user has no entry
    assert paths.data_dir() == checkout / "data" and paths.data_dirs() == [checkout / "data"]
    read_only(checkout, monkeypatch)
    with pytest.raises(TinyclfError, match=rf"no data can be written to {checkout}/data: .* set XDG_CACHE_HOME"):
        paths.data_dir()


def test_what_a_read_only_checkout_has_is_used_and_other_data_go_to_the_users_caches(checkout, tmp_path, monkeypatch):
    assert paths.data_dir() == checkout / "data" and not (checkout / "data").exists()
    (checkout / "data/tiny-imagenet-200").mkdir(parents=True)
    (checkout / "data/tiny-imagenet-200/wnids.txt").touch()
    read_only(checkout / "data", monkeypatch)
    assert locate_dataset("tiny-imagenet")[0] == checkout / "data/tiny-imagenet-200"
    assert paths.data_dir() == tmp_path / "cache/tinyclf/data"


def test_a_path_where_no_file_is_is_named(tmp_path):
    for path in (tmp_path, tmp_path / ("x" * 300), tmp_path / "missing"):
        with pytest.raises(TinyclfError, match=rf"^weights: no file {str(path)[:250]}"):
            paths.user_file(path, "weights")
    (tmp_path / "file").touch()
    assert paths.user_file(f"{tmp_path}/file", "weights") == tmp_path / "file"


def test_cores_are_those_that_can_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    assert usable_cores(str(tmp_path)) == 8
    for content, cores in (("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 8)):
        (tmp_path / "cpu.max").write_text(content)
        assert usable_cores(str(tmp_path)) == cores
    (tmp_path / "cpu").mkdir()  # of control groups 1
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("300000")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert usable_cores(str(tmp_path)) == 3


def test_on_windows_the_import_names_wsl2():
    code = "import sys; sys.platform = 'win32'; import tinyclf.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "On Windows, use it in WSL2" in done.stderr.splitlines()[-1]
