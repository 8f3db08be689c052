"""Experiments one by one in this process, several at a time in order, or one in several processes.

The processes fork from one that has torch and papermill imported already.
"""

import io
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from tinyclf.utils.environment import usable_cores
from tinyclf.utils.errors import TinyclfError, UsageError

if TYPE_CHECKING:
    from tinyclf.experiments.catalog import Experiment

THREADS = "OMP_NUM_THREADS"  # read by torch when it is imported
PATIENCE = 30  # seconds that an interrupted process has to shut down its kernel
FORKS = multiprocessing.get_context("forkserver")


def shares(count: int, device: str) -> list[dict[str, str]]:
    """The environment of each of `count` jobs at a time: its GPU where there are any."""
    gpus = visible_gpus(device)
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {} for slot in range(count)]


def visible_gpus(device: str) -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none for the device `cpu`."""
    if device == "cpu" or not shutil.which("nvidia-smi"):  # comes with the driver, and torch takes seconds to import
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",")[:count] if chosen else [str(number) for number in range(count)]


def run_one_by_one(experiments: "list[Experiment]", function: str) -> None:
    """Call `function` with each experiment. Raises TinyclfError in the end where one failed, which is named at once."""
    call, failed = pkgutil.resolve_name(function), []
    for experiment in experiments:
        say(experiment.name, experiment.title)
        try:
            call(experiment)
        except TinyclfError as error:
            say(f"tinyclf: {experiment.name}", str(error))
            failed.append(experiment.name)
    if failed:
        raise TinyclfError(f"failed: {', '.join(failed)}")


def run_jobs(experiments: "list[Experiment]", function: str, environments: list[dict[str, str]]) -> None:
    """Call `function` with each experiment in a process of its own, as many at a time as there are environments.

    One comes after that which it starts from, and the pages that are made from all records come last. One that fails
    leaves the others, but for those that start from it. Raises TinyclfError in the end, which names both. When this
    process is interrupted or told to end, the others end before it does.
    """
    from tinyclf.experiments.catalog import LAST
    from tinyclf.experiments.settings import parent_of

    runs, stage = {run.name: run for run in experiments}, {run.name: LAST.get(run.name, 0) for run in experiments}
    needs = {name: runs.keys() & {parent_of(run.parameters.get("weights", ""))} for name, run in runs.items()}
    first = sorted(runs, key=set(runs).difference(*needs.values()).__contains__)  # those that others start from
    after = {name: [*needs[name], *(one for one in runs if stage[one] < stage[name])] for name in first}
    graph = TopologicalSorter(after)
    graph.prepare()
    running: dict[Any, tuple[str, BaseProcess, dict[str, str], float]] = {}  # by what tells that a process ended
    free, ready, failed, skipped = list(environments), list[str](), list[str](), list[str]()
    with children(function, len(environments)) as start:
        while graph.is_active():
            ready[:0] = graph.get_ready()  # what goes on from a run that just ended comes first, as such lines are long
            for name in ready[: len(free)]:
                ready.remove(name)
                if lost := needs[name].intersection(failed + skipped):
                    say(name, f"skipped, as it needs {', '.join(lost)}")
                    skipped.append(name)
                    graph.done(name)
                else:
                    say(name, runs[name].title)
                    given = free.pop()
                    process = start(function, (runs[name],), given, name)
                    running[process.sentinel] = name, process, given, time.monotonic()
            for sentinel in connection.wait(list(running)) if running else ():
                name, process, given, started = running.pop(sentinel)
                process.join()
                say(name, f"{ending(process) or 'done'}, {time.monotonic() - started:.0f} s")
                failed += [name] * bool(process.exitcode)
                free.append(given)
                graph.done(name)
    if failed:
        raise TinyclfError(f"failed: {', '.join(failed)}" + f"; skipped: {', '.join(skipped)}" * bool(skipped))


def say(name: str, text: str) -> None:
    """Print a line about an experiment or job, in one piece."""
    print(f"{name}: {text}\n", end="", file=sys.stderr, flush=True)


def run_processes(count: int, device: str, experiments: "list[Experiment]") -> None:
    """Train experiments in `count` processes of this machine, as torchrun does, one experiment after the other.

    Raises UsageError for more processes than GPUs or CPU cores, TinyclfError where one of them fails, and says which.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    most = len(visible_gpus(device)) or usable_cores()
    if count > most:
        raise UsageError(f"processes = {count}: expected 1 to {most}, as many as there are GPUs, else CPU cores")
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # where they find each other
    several = {
        WORKER: str(os.getpid()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # that one, where else the first process would open one
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),  # this machine's name may lead nowhere
    }
    with children(TRAIN, count) as start:
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        workers = [start(TRAIN, tuple(experiments), several | rank) for rank in ranks]
        while any(worker.is_alive() for worker in workers) and not any(worker.exitcode for worker in workers):
            time.sleep(0.05)
        failed = [worker for worker in workers if worker.exitcode]
    if failed:
        first = min(failed, key=lambda worker: worker.exitcode or 0)  # one that was killed: others then lose it
        which = f"process {workers.index(first)} (process id {first.pid})"
        raise TinyclfError(f"training in {count} processes failed: {which} {ending(first)}")


@contextmanager
def children(function: str, count: int) -> Iterator[Callable[..., BaseProcess]]:
    """Gives a function that starts processes, `start` below. Those that still run in the end are ended.

    function: one that they call, as `package.module:function`, whose module is imported once. count: how many run at a
    time. Each has its share of the cores, whatever else is under way, or the number of threads that the environment
    gives.
    """
    given, processes = os.environ.get(THREADS), list[BaseProcess]()
    threads = given or str(max(1, usable_cores() // count))
    FORKS.set_forkserver_preload([function.partition(":")[0]])
    os.environ[THREADS] = threads  # of the process that the others fork from, alone: this one may use all
    forkserver.ensure_running()
    if given is None:
        del os.environ[THREADS]

    def start(function: str, arguments: tuple[Any, ...], environment: dict[str, str], name: str = "") -> BaseProcess:
        """Call a function with a changed environment. name: stands before each line that it prints."""
        given = os.environ | {THREADS: threads} | environment
        processes.append(FORKS.Process(target=work, args=(function, arguments, given, name)))
        processes[-1].start()
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE)
            process.kill()


def work(function: str, arguments: tuple[Any, ...], environment: dict[str, str], name: str) -> None:
    """What a process of `children` does."""
    os.setpgid(0, 0)  # Ctrl-C on a terminal reaches it through the process that started it, once
    os.environ.update(environment)
    prepare_process()
    if name:
        sys.stdout = sys.stderr = Named(name)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        pkgutil.resolve_name(function)(*arguments)
    except TinyclfError as error:
        sys.exit(f"tinyclf: {error}" if not name else str(error))
    except KeyboardInterrupt as reason:
        sys.exit(interrupted(reason))


def prepare_process() -> None:
    """End as by Ctrl-C on SIGTERM too. What a terminal cannot show is replaced there, and ends no run."""
    signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace", line_buffering=True)


def terminate(number: int, _: object) -> None:
    """End as by Ctrl-C, by another signal."""
    raise KeyboardInterrupt(number)


def interrupted(reason: KeyboardInterrupt) -> int:
    """The status of a process that was interrupted: 130 by Ctrl-C, 143 by SIGTERM."""
    return 128 + int((reason.args or (signal.SIGINT,))[0])


def end_with_parent() -> None:
    """In a thread: end this process when the one that started it, or asked a fork server to, does; even by kill -9."""
    asked_by, started_by = multiprocessing.parent_process(), os.getppid()
    while asked_by.is_alive() if asked_by else os.getppid() == started_by:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def ending(process: BaseProcess) -> str:
    """How a process failed; empty where it did not."""
    code = process.exitcode or 0
    by = f"killed by {signal.Signals(-code).name}, by the system where memory ran out" if code < 0 else ""
    return by or f"failed with status {code}, its message is above" * bool(code)


class Named(io.TextIOBase):
    """Standard error, where each line comes after a name, in one piece."""

    def __init__(self, name: str) -> None:
        self.name, self.rest, self.file = name, "", sys.stderr

    def write(self, text: str) -> int:
        """Print the lines that `text` ends; keep what it begins."""
        *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        for line in filter(None, map(str.strip, lines)):
            print(f"{self.name}: {line}\n", end="", file=self.file, flush=True)
        return len(text)


WORKER = "TORCHELASTIC_RUN_ID"  # in the environment of each of several processes, also of those of torchrun
TRAIN = "tinyclf.experiments.run:train"
