"""Real processes that are killed, interrupted or started twice: nothing is lost, and every history ends the same."""

import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing import forkserver

import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from random_data import data
from torch import nn

from tinyclf import cli
from tinyclf.experiments import run
from tinyclf.experiments.parent import CHECKPOINT
from tinyclf.experiments.recipe import recipe_for
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.training import checkpoint
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS

EPOCHS = 4
PAUSE = 0.02  # seconds, of each step of a run that is to be killed within its steps
SETTINGS = Settings(epochs=EPOCHS, input_size=64, batch_size=8, crop_padding=4, cutmix=1.0)


def child(reports, patch=None, pause=0.0, epochs=EPOCHS):
    """A process that trains for so many epochs; `patch` changes what it does.

    What costs most in so short a run, to count its multiply-adds and to ask git for the commit, is left out.
    """
    os.environ["TINYCLF_REPORTS"] = str(reports)
    run.compute = lambda *arguments: dict.fromkeys(("own", "total", "published_baseline"), 1)
    environment.commit = lambda: None
    torch.set_num_threads(1)
    if patch:
        patch()
    train(pause, dataclasses.replace(SETTINGS, epochs=epochs))


def train(pause=0.0, settings=SETTINGS):
    """A short run; each step pauses for some seconds."""
    images = data()
    run = Run(settings, images, "short")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(1024, 4))
    pauses = [pause]  # in a list, of which the hook's text does not tell: with or without pauses it is one run
    model.register_forward_pre_hook(lambda module, inputs: time.sleep(pauses[0]))
    run.fit(**vars(recipe_for(model, settings, len(images.train.labels))))
    run.finish()


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have imported everything already."""
    forkserver._forkserver._stop()  # one that other tests of this process started imports other modules
    context = multiprocessing.get_context("forkserver")
    imported = ["tinyclf.experiments.run", "tinyclf.cli", "pytest", "jupyter_client.manager", "nbformat"]
    context.set_forkserver_preload(imported)  # all that this file imports, or each process takes seconds
    return context


def finished(processes, reports, *args):
    """Run to the end; returns the bytes of the history."""
    process = processes.Process(target=child, args=(reports, *args))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return (reports / "mini/short/history.csv").read_bytes()


def test_killed_at_20_random_moments_and_restarted_every_history_ends_the_same(processes, tmp_path):
    finished(processes, tmp_path / "first")  # the first process of all waits for the imports
    started = time.perf_counter()
    history = finished(processes, tmp_path / "whole", None, PAUSE)
    seconds = time.perf_counter() - started
    assert history.count(b"\n") == 1 + EPOCHS
    draw, reached = random.Random(0), []
    for number in range(20):
        reports = tmp_path / str(number)
        process = processes.Process(target=child, args=(reports, None, PAUSE))
        process.start()
        written = reports / "mini/short" / CHECKPOINT
        while number % 2 and process.is_alive() and not written.is_file():  # else a busy machine never lets it train
            time.sleep(0.01)
        time.sleep(draw.uniform(0, seconds))
        process.kill()
        process.join()
        saved = checkpoint.read(written)
        reached.append(len(saved.about["history"]) if saved else -1)
        assert finished(processes, reports) == history
    assert len(set(reached)) > 2, f"killed at epochs {reached}: the moments were not spread over the run"


WRITES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def die_before(number, seen):
    """From now on, this process dies at operation `number` on a file of the reports; `seen` counts them all."""
    reports, count = os.environ["TINYCLF_REPORTS"], itertools.count(1)

    def hook(event, arguments):
        if event not in WRITES or not str(arguments[0]).startswith(reports):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        seen.value = next(count)
        if seen.value == number:
            os._exit(137)

    sys.addaudithook(hook)


def killed_at(processes, reports, number):
    """Run until operation `number`; returns the status and how many operations there were."""
    seen = processes.Value("i", 0)
    process = processes.Process(target=child, args=(reports, functools.partial(die_before, number, seen), 0, 1))
    process.start()
    process.join(60)
    return process.exitcode, seen.value


def files_of(reports):
    """What a run leaves: its files, with the bytes of those that do not tell the time.

    A process that was killed leaves what it was writing, under a name of its own: nobody else may remove that.
    """
    files = [path for path in reports.rglob("*") if path.is_file() and path.suffix != ".partial"]
    return {str(path.relative_to(reports)): path.read_bytes() if path.suffix == ".csv" else b"" for path in files}


def test_killed_at_a_file_operation_the_same_command_ends_the_same(processes, tmp_path):
    """At every third operation of a run, and the last: all of them take minutes on a busy machine."""
    status, operations = killed_at(processes, tmp_path / "whole", 0)
    whole = files_of(tmp_path / "whole")
    assert status == 0 and operations > 25 and "mini/short/record.json" in whole
    for number in {*range(1, operations, 3), operations}:
        reports = tmp_path / str(number)
        assert killed_at(processes, reports, number) == (137, number)
        assert killed_at(processes, reports, 0)[0] == 0
        assert files_of(reports) == whole, number


def test_a_second_process_of_the_same_run_is_refused_until_the_first_ends(processes, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    process = processes.Process(target=child, args=(tmp_path, None, 0.05))
    process.start()
    lock = tmp_path / "mini/short/.lock"
    wait_for(lock)
    with pytest.raises(TinyclfError, match=rf"run short on mini is under way already.*\(process {process.pid}\)"):
        train()
    process.kill()
    process.join()
    train()  # a lock ends with its process


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.01)


def command(reports, stderr):
    """`tinyclf train baseline-scratch`, in a process of its own."""
    os.environ["TINYCLF_REPORTS"] = str(reports)
    sys.argv = ["tinyclf", "train", "baseline-scratch", "-p", "epochs=1"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # though in a background job
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    cli.main()


def test_an_interrupt_leaves_a_usable_checkpoint_and_no_traceback(processes, tmp_path):
    path, stderr = tmp_path / "mini/baseline-scratch" / CHECKPOINT, tmp_path / "stderr"
    process = processes.Process(target=command, args=(tmp_path, stderr))
    process.start()
    wait_for(path)  # the one before the first epoch
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    said = stderr.read_text()
    assert "interrupted; the same command goes on" in said and "Traceback" not in said
    assert checkpoint.read(path).about["history"] == []


SOME = """
from tinyclf.data.cache import PackedSplit
few = {name: PackedSplit(getattr(data, name).images[::4], getattr(data, name).labels[::4]) for name in ("train", "val")}
data = replace(data, **few)
"""


def test_an_interrupted_cell_run_again_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = [cell.source for cell in nbformat.read(NOTEBOOKS / "1_baseline.ipynb", 4).cells if cell.cell_type == "code"]
    loading = next(place for place, source in enumerate(cells) if "= load_data(" in source)
    cells[loading] += SOME
    place = next(place for place, source in enumerate(cells) if "run.fit(" in source)
    cells[1] += "\nepochs = 3\nrun_name = 'interrupted'"
    manager, client = start_new_kernel(kernel_name="python3")

    def execute(source, until="nothing that is printed"):
        """The status of a cell and what it printed; interrupted once that has `until` in it."""
        printed = []

        def look(message):
            printed.append(message["content"].get("text", ""))
            if until in printed[-1]:
                manager.interrupt_kernel()

        reply = client.execute_interactive(source, timeout=120, output_hook=look)
        return reply["content"]["status"], "".join(printed)

    try:
        assert [execute(cell)[0] for cell in cells[:place]] == ["ok"] * place
        status, printed = execute(cells[place], until="epoch  1/3")
        assert status == "error" and "epoch  2/3" not in printed
        status, printed = execute(cells[place])
        assert status == "ok" and "epoch  2/3" in printed and "epoch  1/3" not in printed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    history = json.loads((tmp_path / "mini" / "interrupted" / "record.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
