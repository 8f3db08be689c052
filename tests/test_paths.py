"""Where data goes when homes are unknown and folders cannot be written; what a path and a machine may be."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import Layout, dataset_info
from tinyclf.utils import paths
from tinyclf.utils.environment import commit, is_checkout, usable_cores
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


@pytest.mark.parametrize("variable", ["TINYCLF_DATA", "TINYCLF_REPORTS"])
def test_the_home_of_nobody_is_named(monkeypatch, variable):
    monkeypatch.setenv(variable, "~nouser/x")
    with pytest.raises(TinyclfError, match=r"~nouser/x: no home folder is known for its ~nouser; give a full path"):
        paths.tiny_imagenet_sources() if variable == "TINYCLF_DATA" else paths.reports_dir()


def test_without_a_home_a_checkout_works(checkout, monkeypatch):
    def no_home(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)  # as where HOME is unset and the user has no entry
    assert paths.data_dir() == checkout / "data" and paths.data_dirs() == [checkout / "data"]
    read_only(checkout, monkeypatch)
    with pytest.raises(TinyclfError, match=rf"no data can be written to {checkout}/data: .* set XDG_CACHE_HOME"):
        paths.data_dir()


def test_data_of_a_read_only_checkout_go_to_the_users_caches(checkout, tmp_path, monkeypatch):
    assert paths.data_dir() == checkout / "data" and not (checkout / "data").exists()
    read_only(checkout, monkeypatch)
    assert paths.data_dir() == tmp_path / "cache/tinyclf/data"
    few = Layout("mini", classes=10, train=1, val=1, test=1)
    info = dataclasses.replace(dataset_info("mini"), layout=few)
    monkeypatch.setattr("tinyclf.data.locate.dataset_info", lambda name: info)
    assert locate_dataset("mini")[0].parent == tmp_path / "cache/tinyclf/data"


def test_what_a_read_only_checkout_has_is_used(checkout, tmp_path, monkeypatch):
    (checkout / "data/tiny-imagenet-200").mkdir(parents=True)
    (checkout / "data/tiny-imagenet-200/wnids.txt").touch()
    read_only(checkout / "data", monkeypatch)
    assert locate_dataset("tiny-imagenet")[0] == checkout / "data/tiny-imagenet-200"
    assert paths.data_dir() == tmp_path / "cache/tinyclf/data"


def test_a_file_in_the_place_of_data_cannot_be_written_to(checkout, tmp_path):
    (checkout / "data").touch()
    assert paths.data_dir() == tmp_path / "cache/tinyclf/data"


def test_a_path_where_no_file_is_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "pipe", "x" * 300, "missing"):
        with pytest.raises(TinyclfError, match=rf"^weights: no file {tmp_path}/{name[:9]}.* \(.*\)$") as error:
            paths.user_file(tmp_path / name, "weights")
        assert len(str(error.value)) < 400
    (tmp_path / "file").touch()
    assert paths.user_file(f"{tmp_path}/folder/../file", "weights").samefile(tmp_path / "file")


def test_cores_are_those_that_can_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    assert usable_cores(str(tmp_path)) == 8
    for content, cores in (("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 8)):
        (tmp_path / "cpu.max").write_text(content)
        assert usable_cores(str(tmp_path)) == cores
    (tmp_path / "cpu").mkdir()
    for quota, cores in (("-1", 8), ("300000", 3)):
        (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
        assert usable_cores(str(tmp_path)) == cores


@pytest.mark.skipif(not is_checkout(), reason="needs a checkout")
def test_the_commit_is_this_checkouts_whatever_git_is_told_by_its_environment(tmp_path, monkeypatch):
    expected = commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(tmp_path / ".git"))
    assert commit() == expected is not None
