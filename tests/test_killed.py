"""Real processes that are killed, interrupted or started twice: nothing is lost, and every history ends the same."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver

import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from random_data import data
from torch import nn

from tinyclf import Run, Settings
from tinyclf.experiments import run
from tinyclf.experiments.parent import CHECKPOINT
from tinyclf.experiments.recipe import recipe_for
from tinyclf.training import checkpoint
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS

FORKS = multiprocessing.get_context("forkserver")
EPOCHS = 4
PAUSE = 0.02  # seconds, of each step of a run that is to be killed within its steps
SETTINGS = Settings(epochs=EPOCHS, input_size=64, batch_size=8, crop_padding=4, cutmix=1.0)


def train(pause=0.0, epochs=EPOCHS):
    """A short run; each step pauses for some seconds."""
    images, settings = data(), dataclasses.replace(SETTINGS, epochs=epochs)
    run = Run(settings, images, "short")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(1024, 4))
    pauses = [pause]  # in a list, of which the hook's text does not tell: with or without pauses it is one run
    model.register_forward_pre_hook(lambda module, inputs: time.sleep(pauses[0]))
    run.fit(**vars(recipe_for(model, settings, len(images.train.labels))))
    run.finish()


def child(reports, pause=0.0, epochs=EPOCHS):
    """Train, without what costs most in so short a run: to count its multiply-adds and to ask git for the commit."""
    os.environ["TINYCLF_REPORTS"] = str(reports)
    run.compute = lambda *arguments: dict.fromkeys(("own", "total", "published_baseline"), 1)
    environment.commit = lambda: None
    torch.set_num_threads(1)
    train(pause, epochs)


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    """Processes have imported all that this file imports, or each would take seconds."""
    forkserver._forkserver._stop()  # one that other tests of this process started imports other modules
    FORKS.set_forkserver_preload(["tinyclf.experiments.run", "pytest", "jupyter_client.manager", "nbformat"])


def start(function, *arguments):
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def finished(reports, *arguments):
    """Run to the end; returns the bytes of the history."""
    process = start(child, reports, *arguments)
    process.join(60)
    assert process.exitcode == 0
    return (reports / "mini/short/history.csv").read_bytes()


def test_killed_at_20_random_moments_and_restarted_every_history_ends_the_same(tmp_path):
    finished(tmp_path / "first")  # the first process of all waits for the imports
    started = time.perf_counter()
    history = finished(tmp_path / "whole", PAUSE)
    seconds = time.perf_counter() - started
    assert history.count(b"\n") == 1 + EPOCHS
    draw, reached = random.Random(0), []
    for number in range(20):
        reports = tmp_path / str(number)
        process = start(child, reports, PAUSE)
        written = reports / "mini/short" / CHECKPOINT
        while number % 2 and process.is_alive() and not written.is_file():  # else a busy machine never lets it train
            time.sleep(0.01)
        time.sleep(draw.uniform(0, seconds))
        process.kill()
        process.join()
        saved = checkpoint.read(written)
        reached.append(len(saved.about["history"]) if saved else -1)
        assert finished(reports) == history
    assert len(set(reached)) > 2, f"killed at epochs {reached}: the moments were not spread over the run"


WRITES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def dying_child(reports, number, seen):
    """A process that dies at operation `number` on a file of the reports; `seen` counts them all."""
    count = itertools.count(1)

    def hook(event, arguments):
        if event not in WRITES or not str(arguments[0]).startswith(str(reports)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        seen.value = next(count)
        if seen.value == number:
            os._exit(137)

    sys.addaudithook(hook)
    child(reports, epochs=1)


def killed_at(reports, number):
    """Run until operation `number`; returns the status and how many operations there were."""
    seen = FORKS.Value("i", 0)
    process = start(dying_child, reports, number, seen)
    process.join(60)
    return process.exitcode, seen.value


def files_of(reports):
    """What a run leaves: its files, with the bytes of those that do not tell the time.

    A process that was killed leaves what it was writing, under a name of its own: nobody else may remove that.
    """
    files = [path for path in reports.rglob("*") if path.is_file() and path.suffix != ".partial"]
    return {str(path.relative_to(reports)): path.read_bytes() if path.suffix == ".csv" else b"" for path in files}


def test_killed_at_a_file_operation_the_same_command_ends_the_same(tmp_path):
    """At every third operation of a run, and the last: all of them take minutes on a busy machine."""
    status, operations = killed_at(tmp_path / "whole", 0)
    whole = files_of(tmp_path / "whole")
    assert status == 0 and operations > 25 and "mini/short/record.json" in whole
    for number in {*range(1, operations, 3), operations}:
        reports = tmp_path / str(number)
        assert killed_at(reports, number) == (137, number)
        assert killed_at(reports, 0)[0] == 0
        assert files_of(reports) == whole, number


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.01)


def test_a_second_process_of_the_same_run_is_refused_until_the_first_ends(reports):
    process = start(child, reports, 0.05)
    wait_for(reports / "mini/short/.lock")
    with pytest.raises(TinyclfError, match=rf"run short on mini is under way already.*\(process {process.pid}\)"):
        train()
    process.kill()
    process.join()
    train()  # a lock ends with its process


def test_an_interrupt_leaves_a_usable_checkpoint_and_no_traceback(reports):
    command = [sys.executable, "-m", "tinyclf", "train", "baseline-scratch", "-p", "epochs=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    path = reports / "mini/baseline-scratch" / CHECKPOINT
    wait_for(path)  # the one before the first epoch
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted; the same command goes on" in said and "Traceback" not in said
    assert checkpoint.read(path).about["history"] == []


def test_an_interrupted_cell_run_again_goes_on(reports, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOKS / "1_baseline.ipynb", 4)
    _, *cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]  # but not the one that installs
    cells[0] += "\nepochs, input_size, run_name = 3, 32, 'interrupted'"
    fit = next(place for place, source in enumerate(cells) if "run.fit(" in source)
    manager, client = start_new_kernel(kernel_name="python3")
    printed, statuses = "", []

    def look(message):
        nonlocal printed
        text = message["content"].get("text", "")
        printed += text
        if "epoch  1/3" in text:
            manager.interrupt_kernel()

    try:
        for source in [*cells[: fit + 1], cells[fit]]:
            reply = client.execute_interactive(source, timeout=120, output_hook=look)
            statuses.append(reply["content"]["status"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert statuses == ["ok"] * fit + ["error", "ok"]
    assert [printed.count(f"epoch  {number}/3") for number in (1, 2, 3)] == [1, 1, 1]
    record = json.loads((reports / "mini/interrupted/record.json").read_text())
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3]
