"""The commit in a record: that of the checkout, and a word where git does not tell."""

import subprocess

import pytest

from tinyclf.utils import environment


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for words in (
        ["init", "-q"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m"],
    ):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    environment.warn_of_commit.cache_clear()
    return tmp_path


def test_the_commit_of_another_users_checkout_is_missed_aloud_and_once(checkout, monkeypatch, capsys):
    assert len(environment.commit()) == 40 and capsys.readouterr().err == ""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests pretend it this way
    assert environment.commit() is environment.commit() is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"commit of {checkout} is not recorded (fatal: detected dubious ownership" in said
    assert said.endswith(f"git config --global --add safe.directory {checkout}\n")


def test_without_git_the_commit_is_missed_aloud(checkout, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(checkout))
    assert environment.commit() is None
    assert "git cannot be started: No such file or directory" in capsys.readouterr().err
