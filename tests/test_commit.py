"""The commit in a record: that of the checkout, and a word where git does not tell."""

import subprocess

import pytest

from tinyclf.utils import environment


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
    assert shown.count("\n") == 1 and f"commit of {checkout} is not recorded (" in shown
    assert (said or "No such file or directory: 'git'") in shown
    assert shown.endswith(f"git config --global --add safe.directory {checkout}\n") == bool(said)
