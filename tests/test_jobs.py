"""Experiments at the same time: in which order, with what share of the machine, and what is left when one fails."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from tinyclf import cli
from tinyclf.experiments import launch
from tinyclf.experiments.launch import run_jobs, shares
from tinyclf.experiments.toml_files import Experiment
from tinyclf.utils.errors import TinyclfError

DO = "job_functions:do"


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # given back after a test that changes it
    forkserver._forkserver._stop()  # the next one prints to where this test captures it


def job(folder, name, parent="", **told):
    """An experiment that leaves a note in a folder, in place of training."""
    parameters = {"folder": folder, "weights": f"run:{parent}" * bool(parent), **told}
    return Experiment(name, f"title of {name}", Path("1_baseline.ipynb"), parameters)


def read(folder):
    return {path.name: eval(path.read_text()) for path in folder.iterdir()}


def test_jobs_run_at_the_same_time_and_after_what_they_need(tmp_path, capfd):
    shares = [{"CUDA_VISIBLE_DEVICES": name} for name in "01"]
    todo = [job(tmp_path, "summary"), job(tmp_path, "child", "parent"), job(tmp_path, "ablations")]
    todo += [job(tmp_path, "other", until="child"), job(tmp_path, "another"), job(tmp_path, "parent")]
    run_jobs(todo, DO, shares)
    ran = read(tmp_path)
    assert ran["parent"][1] < ran["child"][0] and ran["child"][1] < ran["other"][1] < ran["ablations"][0]
    assert ran["ablations"][1] < ran["summary"][0]
    assert ran["child"][0] < ran["another"][0], "what others start from, and what goes on from it, comes first"
    assert "parent: title of parent" in capfd.readouterr().err.splitlines()
    assert {ran[name][2]["CUDA_VISIBLE_DEVICES"] for name in ("parent", "other")} == {"0", "1"}
    assert {given["OMP_NUM_THREADS"] for _, _, given in ran.values()} == {"3"}


def test_a_failure_is_told_and_leaves_all_but_what_needs_it(tmp_path, capfd):
    todo = [job(tmp_path, "bad", error="the disk is full"), job(tmp_path, "worse", kill=True)]
    todo += [job(tmp_path, "child", "bad"), job(tmp_path, "grandchild", "child")]
    todo += [job(tmp_path, "good"), job(tmp_path, "summary")]
    with pytest.raises(TinyclfError, match=r"^failed: bad, worse; skipped: child, grandchild$"):
        run_jobs(todo, DO, [{}])
    assert sorted(read(tmp_path)) == ["good", "summary"]
    lines = capfd.readouterr().err.splitlines()
    assert "bad: the disk is full" in lines and "bad: the last words" in lines
    assert any(line.startswith("worse: killed by SIGKILL") for line in lines)
    assert "child: skipped, as it needs bad" in lines and "grandchild: skipped, as it needs child" in lines


def test_cores_and_gpus_are_shared(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    monkeypatch.setattr(launch.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert shares(3, "auto") == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("2", "5", "2")]
    assert shares(2, "cpu") == [{}, {}]
    for given, count, expected in (("", 3, "2"), ("", 16, "1"), ("5", 2, "5")):
        monkeypatch.setenv("OMP_NUM_THREADS", given) if given else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        run_jobs([job(tmp_path, f"one of {count}")], DO, [{}] * count)
        assert read(tmp_path)[f"one of {count}"][2]["OMP_NUM_THREADS"] == expected
        assert os.environ.get("OMP_NUM_THREADS", "") == given, "of this process it stays"


@pytest.mark.parametrize("command", [["run", "data"], ["report"], ["train", "baseline-scratch"]])
def test_every_command_takes_the_number_of_jobs(command, monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "run_jobs", lambda todo, _, environments: asked.append((todo, len(environments))))
    assert CliRunner().invoke(cli.app, [*command, "--jobs", "3"]).exit_code == 0
    ((todo, count),) = asked
    assert count == 3 and todo[-1].name == ("baseline-scratch" if command[0] == "train" else "summary")
    done = CliRunner().invoke(cli.app, [*command, "--jobs", "2", "--processes", "2"])
    assert done.exit_code == 2 and "--jobs and --processes: give one of them" in done.output and len(asked) == 1


SCRIPT = """
import pathlib, sys
from tinyclf import cli
from tinyclf.experiments import launch
from tinyclf.experiments.toml_files import Experiment
folder = pathlib.Path(sys.argv[-1])
jobs = [Experiment(name, "to sleep", folder, {"folder": folder, "sleep": True}) for name in "abc"]
run_jobs = launch.run_jobs
launch.run_jobs = lambda todo, function, environments: run_jobs(jobs, "job_functions:do", environments)
sys.argv[1:] = ["train", "baseline-scratch", "--jobs", "2"]
cli.main()
"""


def alive(processes):
    found = psutil.process_iter(["pid", "status"])
    return [one.pid for one in found if one.pid in processes and one.info["status"] != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(("what", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupt_ends_all_jobs_with_the_same_word_and_a_kill_leaves_none(what, status, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = [sys.executable, "-c", SCRIPT, tmp_path]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    notes = [tmp_path / name for name in "ab"]
    while not all(note.is_file() and note.read_text() for note in notes):
        time.sleep(0.1)
        assert running.poll() is None, running.communicate()[1]
    processes = [int(note.read_text()) for note in notes]
    running.send_signal(what)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == status and "Traceback" not in said, said
    assert what == signal.SIGKILL or "tinyclf: interrupted; the same command goes on" in said
    assert not (tmp_path / "c").exists()
    deadline = time.monotonic() + 20
    while alive(processes):
        assert time.monotonic() < deadline, "a process outlived the command"
        time.sleep(0.1)
