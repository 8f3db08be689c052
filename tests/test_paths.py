"""Where data goes when homes are unknown and folders cannot be written; what a path and a machine may be."""

import dataclasses
import os
from pathlib import Path

import pytest

from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import Layout, dataset_info
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


def test_the_home_of_nobody_is_named(monkeypatch):
    monkeypatch.setenv("TINYCLF_DATA", "~nouser/x")
    with pytest.raises(TinyclfError, match="~nouser/x: no home folder is known for it; give a full path"):
        paths.tiny_imagenet_sources()


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


def test_a_path_where_no_file_is_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / ("x" * 300), tmp_path / "missing"):
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
    (tmp_path / "cpu").mkdir()
    for quota, cores in (("-1", 8), ("300000", 3)):
        (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
        assert usable_cores(str(tmp_path)) == cores
