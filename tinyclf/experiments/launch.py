"""Experiments one by one in this process, several at a time in order, or one in several processes."""

import os
import pkgutil
import shutil
import sys
import time
from dataclasses import dataclass
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
STAND_IN = "stand-in weights"  # the job that trains them, so that those which start from them do not wait for a lock
TRAIN, TRAIN_STAND_IN = "tinyclf.experiments.run:train", "tinyclf.models.weights:stand_in_file"


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own."""

    name: str
    title: str
    function: str  # as `package.module:function`: this process need not import it
    arguments: tuple[Any, ...] = ()
    needs: frozenset[str] = frozenset()  # jobs without which it cannot be done
    after: frozenset[str] = frozenset()  # jobs that come before it, even where they fail
    length: int = 0  # roughly how long it takes, to start the longest first


def plan(experiments: "list[Experiment]", function: str) -> list[Job]:
    """A job for each experiment, which calls `function` with it.

    It needs the run that it starts from, or the stand-in weights of `mini`, which are a job of their own. The pages
    that are made from all records come last.
    """
    from tinyclf.experiments.catalog import LAST
    from tinyclf.experiments.settings import parent_of

    names = frozenset(experiment.name for experiment in experiments)
    jobs = []
    for run in experiments:
        weights = run.parameters.get("weights", "")
        needs = frozenset({STAND_IN}) if weights == "mini" else names & {parent_of(weights)}
        after = frozenset(name for name in names if LAST.get(name, 0) < LAST.get(run.name, 0))
        jobs.append(Job(run.name, run.title, function, (run,), needs, after, length(run)))
    if any(STAND_IN in job.needs for job in jobs):
        jobs.insert(0, Job(STAND_IN, "for ImageNet weights on mini", TRAIN_STAND_IN))
    return jobs


def length(experiment: "Experiment") -> int:
    """Roughly how long an experiment takes: the pixels of its epochs, of which only small stems keep all."""
    settings = experiment.settings
    kept = 1 if settings.stem == "imagenet" else 16  # of 4x4 pixels
    return settings.epochs * settings.input_size**2 * kept if experiment.trains else 0


def chain(job: Job, jobs: list[Job]) -> int:
    """How long a job takes, with the longest line of those that need it, one after the other."""
    return 1 + job.length + max((chain(other, jobs) for other in jobs if job.name in other.needs), default=0)


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


def run_jobs(jobs: list[Job], environments: list[dict[str, str]]) -> None:
    """Do the jobs, as many at a time as there are environments, the start of the longest chain first.

    One that fails leaves the others, but for those that need it. Raises TinyclfError in the end, which names both.
    When this process is interrupted or told to end, the jobs end before it does.
    """
    longest_first = sorted(jobs, key=lambda job: -chain(job, jobs))
    graph = TopologicalSorter({job.name: job.needs | job.after for job in jobs})
    graph.prepare()
    ready: set[str] = set()
    running: dict[Any, tuple[Job, BaseProcess, dict[str, str], float]] = {}  # by what tells that a process ended
    free, failed, skipped = list(environments), list[str](), list[str]()
    with children({job.function for job in jobs} - {TRAIN_STAND_IN}, environments[0][THREADS]) as start:
        while graph.is_active():
            ready.update(graph.get_ready())
            for job in [job for job in longest_first if job.name in ready][: len(free)]:
                ready.remove(job.name)
                if lost := job.needs.intersection(failed + skipped):
                    say(job.name, f"skipped, as it needs {', '.join(lost)}")
                    skipped.append(job.name)
                    graph.done(job.name)
                else:
                    say(job.name, job.title)
                    given = free.pop()
                    process = start(job.function, job.arguments, given, job.name)
                    running[process.sentinel] = job, process, given, time.monotonic()
            for sentinel in connection.wait(list(running)) if running else ():
                job, process, given, started = running.pop(sentinel)
                process.join()
                say(job.name, f"{ending(process) or 'done'}, {time.monotonic() - started:.0f} s")
                failed += [job.name] * bool(process.exitcode)
                free.append(given)
                graph.done(job.name)
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
    with children({TRAIN}, threads_each(count)) as start:
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        workers = [start(TRAIN, tuple(experiments), several | rank) for rank in ranks]
        while any(worker.is_alive() for worker in workers) and not any(worker.exitcode for worker in workers):
            time.sleep(0.05)
        failed = [worker for worker in workers if worker.exitcode]
    if failed:
        first = min(failed, key=lambda worker: worker.exitcode or 0)  # one that was killed: others then lose it
        which = f"process {workers.index(first)} (process id {first.pid})"
        raise TinyclfError(f"training in {count} processes failed: {which} {ending(first)}")
