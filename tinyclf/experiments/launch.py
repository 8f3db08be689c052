"""Experiments one by one in this process, several at a time in order, or one in several processes."""

import os
import pkgutil
import shutil
import sys
import time
from graphlib import TopologicalSorter
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from tinyclf.experiments.processes import THREADS, children, ending, threads_each
from tinyclf.utils.environment import usable_cores
from tinyclf.utils.errors import TinyclfError, UsageError

if TYPE_CHECKING:
    from tinyclf.experiments.catalog import Experiment

WORKER = "TORCHELASTIC_RUN_ID"  # in the environment of each of several processes, also of those of torchrun
TRAIN = "tinyclf.experiments.run:train"


def shares(count: int, device: str) -> list[dict[str, str]]:
    """The environment of each of `count` jobs at a time: its threads, and its GPU where there are any."""
    gpus = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus(device)] or [{}]
    return [{THREADS: threads_each(count)} | gpus[slot % len(gpus)] for slot in range(count)]


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
    graph = TopologicalSorter({name: needs[name] | {one for one in runs if stage[one] < stage[name]} for name in runs})
    graph.prepare()
    running: dict[Any, tuple[str, BaseProcess, dict[str, str], float]] = {}  # by what tells that a process ended
    free, ready, failed, skipped = list(environments), list[str](), list[str](), list[str]()
    with children(function, environments[0][THREADS]) as start:
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
        THREADS: threads_each(count),
    }
    with children(TRAIN, threads_each(count)) as start:
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        workers = [start(TRAIN, tuple(experiments), several | rank) for rank in ranks]
        while any(worker.is_alive() for worker in workers) and not any(worker.exitcode for worker in workers):
            time.sleep(0.05)
        failed = [worker for worker in workers if worker.exitcode]
    if failed:
        first = min(failed, key=lambda worker: worker.exitcode or 0)  # one that was killed: others then lose it
        which = f"process {workers.index(first)} (process id {first.pid})"
        raise TinyclfError(f"training in {count} processes failed: {which} {ending(first)}")
