"""The command line in processes of their own: several experiments at a time, in order, or one in several processes."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from tinyclf.utils.errors import TinyclfError, UsageError

if TYPE_CHECKING:
    from tinyclf.experiments.catalog import Experiment

WORKER = "TORCHELASTIC_RUN_ID"  # in the environment of each of several processes, also of those of torchrun
STAND_IN = "stand-in weights"  # the job that trains them, so that those which start from them do not wait for a lock
TRAIN_STAND_IN = "from tinyclf.models.weights import stand_in_file; stand_in_file()"
PATIENCE = 30  # seconds that an interrupted process has to shut down its kernel


@dataclass(frozen=True)
class Job:
    """A command that runs in a process of its own."""

    name: str
    title: str
    command: list[str]
    needs: frozenset[str] = frozenset()  # jobs without which it cannot be done
    after: frozenset[str] = frozenset()  # jobs that come before it, even where they fail
    length: int = 0  # roughly how long it takes, to start the longest first


def plan(experiments: "list[Experiment]") -> list[Job]:
    """A job for each experiment: the command line of this process, which selects all of them, with `--only` this one.

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
        jobs.append(Job(run.name, run.title, this_command("--only", run.name), needs, after, length(run)))
    if any(STAND_IN in job.needs for job in jobs):
        jobs.insert(0, Job(STAND_IN, "for ImageNet weights on mini", [sys.executable, "-c", TRAIN_STAND_IN]))
    return jobs


def this_command(*options: str) -> list[str]:
    """The command line of this process, with more options."""
    command, *arguments = sys.argv[1:]
    return [sys.executable, "-m", "tinyclf", command, *options, *arguments]


def length(experiment: "Experiment") -> int:
    """Roughly how long an experiment takes: the pixels of its epochs, of which only small stems keep all."""
    settings = experiment.settings
    kept = 1 if settings.stem == "imagenet" else 16  # of 4x4 pixels
    return settings.epochs * settings.input_size**2 * kept if experiment.trains else 0


def chain(job: Job, jobs: list[Job]) -> int:
    """How long a job takes, with the longest line of those that need it, one after the other."""
    return 1 + job.length + max((chain(other, jobs) for other in jobs if job.name in other.needs), default=0)


def shares(count: int, device: str) -> list[dict[str, str]]:
    """The environment of each of `count` jobs at a time: the threads that it may use, and its GPU where there are any.

    The number of threads is the same for all jobs at any time, so that a run's numbers do not depend on what else was
    under way. A number that the user's environment gives stays.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))}
    gpus = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus(device)] or [{}]
    return [threads | gpus[slot % len(gpus)] for slot in range(count)]


def visible_gpus(device: str) -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none for the device `cpu`."""
    import torch

    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",")[:count] if chosen else [str(number) for number in range(count)]


def run_jobs(jobs: list[Job], environments: list[dict[str, str]]) -> None:
    """Do the jobs, as many at a time as there are environments, the start of the longest chain first.

    One that fails leaves the others, but for those that need it. Raises TinyclfError in the end, which names both.
    When this process is interrupted or told to end, the jobs end before it does.
    """
    longest_first = sorted(jobs, key=lambda job: -chain(job, jobs))
    graph = TopologicalSorter({job.name: job.needs | job.after for job in jobs})
    graph.prepare()
    ready: set[str] = set()
    running: dict[Future[int], tuple[Job, dict[str, str]]] = {}
    free, failed, skipped = list(environments), list[str](), list[str]()
    with ThreadPoolExecutor(len(environments)) as threads, children() as start:
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
                    running[threads.submit(follow, job.name, start(job.command, given, subprocess.PIPE))] = job, given
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, given = running.pop(future)
                free.append(given)
                failed += [job.name] * bool(future.result())
                graph.done(job.name)
    if failed:
        raise TinyclfError(f"failed: {', '.join(failed)}" + f"; skipped: {', '.join(skipped)}" * bool(skipped))


@contextmanager
def children() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts a command, with an addition to the environment; what still runs in the end is ended."""
    processes = []

    def start(command: list[str], environment: dict[str, str], output: int | None = None) -> subprocess.Popen[str]:
        env = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
        pipes = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output and subprocess.STDOUT}
        # In a group of its own: Ctrl-C on a terminal reaches it through this process, once
        text = {"encoding": "utf-8", "errors": "replace", "process_group": 0}
        process: subprocess.Popen[str] = subprocess.Popen(command, env=env, **pipes, **text)  # type: ignore[call-overload]
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()


def follow(name: str, process: subprocess.Popen[str]) -> int:
    """Print what a job prints, each line after its name, to its end; gives its status."""
    started = time.monotonic()
    for line in filter(None, map(str.strip, process.stdout or ())):
        say(name, line)
    status = process.wait()
    say(name, f"{'failed after' if status else 'done in'} {time.monotonic() - started:.0f} s")
    return status


def say(name: str, text: str) -> None:
    """Print a line of a job, in one piece."""
    print(f"{name}: {text}\n", end="", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """Have Linux end this process when the one that started it does, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run_processes(count: int, device: str) -> None:
    """Run this command line in `count` processes of this machine, as torchrun does, to their end.

    Raises UsageError for more processes than GPUs or CPU cores, TinyclfError where one of them fails, and says which.
    """
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    most = len(visible_gpus(device)) or os.cpu_count() or 1
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
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count)),
    }
    with children() as start:
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        workers = [start(this_command(), several | rank) for rank in ranks]
        failed: list[subprocess.Popen[str]] = []
        while not failed and None in [worker.poll() for worker in workers]:
            time.sleep(0.05)
            failed = [worker for worker in workers if worker.poll()]
    if failed:
        first = min(failed, key=lambda worker: int(worker.returncode))  # one that was killed: others then lose it
        how = f"ended with status {first.returncode}: its message is above"
        if first.returncode < 0:
            by = signal.Signals(-first.returncode).name
            how = f"was killed by {by}, by the system where memory ran out; the same command goes on"
        which = f"process {workers.index(first)} (process id {first.pid})"
        raise TinyclfError(f"training in {count} processes failed: {which} {how}")
