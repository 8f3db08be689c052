"""Where data goes when homes are unknown and folders cannot be written."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyclf.data.locate import locate_dataset
from tinyclf.data.registry import Layout
from tinyclf.utils import paths
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
    monkeypatch.setattr("tinyclf.data.locate.dataset_info", lambda name: SimpleNamespace(layout=few, synthetic=True))
    assert locate_dataset("mini") == (tmp_path / "cache/tinyclf/data/mini", few)


def test_what_a_read_only_checkout_has_is_used(checkout, tmp_path, monkeypatch):
    (checkout / "data/tiny-imagenet-200").mkdir(parents=True)
    (checkout / "data/tiny-imagenet-200/wnids.txt").touch()
    read_only(checkout / "data", monkeypatch)
    assert locate_dataset("tiny-imagenet")[0] == checkout / "data/tiny-imagenet-200"
    assert paths.data_dir() == tmp_path / "cache/tinyclf/data"


def test_a_file_in_the_place_of_data_cannot_be_written_to(checkout, tmp_path):
    (checkout / "data").touch()
    assert paths.data_dir() == tmp_path / "cache/tinyclf/data"
