"""Runs in processes of their own: several at a time, in order, and one in several processes by torchrun."""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter

from tinyclf.experiments.catalog import LAST, Experiment
from tinyclf.experiments.settings import parent_of
from tinyclf.utils.errors import TinyclfError, UsageError
from tinyclf.utils.paths import PROJECT

STAND_IN = "stand-in weights"  # the job that trains them, so that those which start from them do not wait for a lock
TRAIN_STAND_IN = "from tinyclf.models.weights import stand_in_file; stand_in_file()"
PATIENCE = 30  # seconds that an interrupted job has to shut down its kernel


class Terminated(KeyboardInterrupt):
    """This process was told to end by SIGTERM: as if by Ctrl-C, but for the status."""


@dataclass(frozen=True)
class Job:
    """A command that runs in a process of its own."""

    name: str
    title: str
    command: Sequence[str]
    needs: frozenset[str] = frozenset()  # jobs without which it cannot be done
    after: frozenset[str] = frozenset()  # jobs that come before it, even where they fail
    length: int = 0  # roughly how long it takes, to start the longest first


def plan(experiments: list[Experiment], arguments: Sequence[str]) -> list[Job]:
    """A job for each experiment: `tinyclf` with `arguments`, which select all of them, and `--only` this one.

    It needs the run that it starts from, or the stand-in weights of `mini`, which are a job of their own. The pages
    that are made from all records come last.
    """
    names = frozenset(experiment.name for experiment in experiments)
    jobs = []
    for run in experiments:
        weights = run.parameters.get("weights", "")
        needs = frozenset({STAND_IN}) if weights == "mini" else names & {parent_of(weights)}
        after = frozenset(name for name in names if LAST.get(name, 0) < LAST.get(run.name, 0))
        command = [sys.executable, "-m", "tinyclf", *arguments, "--only", run.name]
        jobs.append(Job(run.name, run.title, command, needs, after, length(run)))
    if any(STAND_IN in job.needs for job in jobs):
        jobs.insert(0, Job(STAND_IN, "for ImageNet weights on mini", [sys.executable, "-c", TRAIN_STAND_IN]))
    return jobs


def length(experiment: Experiment) -> int:
    """Roughly how long an experiment takes: the pixels of its epochs, of which only small stems keep all."""
    settings = experiment.settings
    kept = 1 if settings.stem == "imagenet" else 16  # of 4x4 pixels
    return settings.epochs * settings.input_size**2 * kept if experiment.trains else 0


def shares(count: int, device: str) -> list[dict[str, str]]:
    """The environment of each of `count` jobs at a time: the threads that it may use, and its GPU where there are any.

    The number of threads is the same for all jobs at any time, so that a run's numbers do not depend on what else was
    under way. A number that the user's environment gives stays.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    gpus = [] if device == "cpu" else visible_gpus()
    each = [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {} for slot in range(count)]
    return [{"OMP_NUM_THREADS": threads} | gpu for gpu in each]


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, found without torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name]
    if not (program := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True)
    return [str(number) for number in range(len(listed.stdout.splitlines()))] if listed.returncode == 0 else []


def run_jobs(jobs: list[Job], environments: list[dict[str, str]]) -> None:
    """Do the jobs, as many at a time as there are environments, the start of the longest chain first.

    One that fails leaves the others, but for those that need it. Raises TinyclfError in the end, which names both.
    When this process is interrupted or told to end, the jobs end before it does.
    """
    graph = TopologicalSorter({job.name: job.needs | job.after for job in jobs})
    graph.prepare()
    ready: set[str] = set()
    with ThreadPoolExecutor(len(environments)) as threads:
        under_way = UnderWay(environments, threads)
        try:
            while graph.is_active():
                ready.update(graph.get_ready())
                for job in sorted(jobs, key=lambda job: -chain(job, jobs)):
                    if job.name in ready and under_way.begin(job):
                        ready.remove(job.name)
                graph.done(*under_way.ended())
        finally:
            under_way.stop()
    lost = {"failed": under_way.failed, "skipped": under_way.skipped}
    if under_way.failed:
        raise TinyclfError("; ".join(f"{what}: {', '.join(names)}" for what, names in lost.items() if names))


def chain(job: Job, jobs: list[Job]) -> int:
    """How long a job takes, with the longest line of those that need it, one after the other."""
    return 1 + job.length + max((chain(other, jobs) for other in jobs if job.name in other.needs), default=0)


class UnderWay:
    """The jobs under way, each with one of the environments, and those that failed or were skipped."""

    def __init__(self, environments: list[dict[str, str]], threads: ThreadPoolExecutor) -> None:
        self.free, self.threads = environments[::-1], threads
        self.running: dict[Future[int], tuple[Job, subprocess.Popen[str], dict[str, str]]] = {}
        self.over: list[str] = []  # names of jobs that ended since `ended` was called
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def begin(self, job: Job) -> bool:
        """Start a job, or skip it where one that it needs is lost; False where there is no environment for it yet."""
        if lost := job.needs.intersection(self.failed + self.skipped):
            say(job.name, f"skipped, as it needs {', '.join(lost)}")
            self.skipped.append(job.name)
            self.over.append(job.name)
        elif self.free:
            say(job.name, job.title)
            given = self.free.pop()
            pipe = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            text = {"encoding": "utf-8", "errors": "replace"}
            env = child_environment() | given
            # In a group of its own: Ctrl-C on a terminal reaches it through this process, once
            process = subprocess.Popen(job.command, env=env, process_group=0, **pipe, **text)  # type: ignore[call-overload]
            self.running[self.threads.submit(follow, job.name, process)] = job, process, given
        else:
            return False
        return True

    def ended(self) -> list[str]:
        """Wait for a job to end, unless some were skipped; the names of both."""
        for future in wait(self.running, timeout=0 if self.over else None, return_when=FIRST_COMPLETED).done:
            job, _, given = self.running.pop(future)
            self.free.append(given)
            self.over.append(job.name)
            if future.result():
                self.failed.append(job.name)
        names, self.over = self.over, []
        return names

    def stop(self) -> None:
        """End the jobs that are still under way: none but after an exception."""
        processes = [process for _, process, _ in self.running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
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
    sys.stderr.write(f"{name}: {text}\n")
    sys.stderr.flush()


def child_environment() -> dict[str, str]:
    """This process's environment for its children, which import the same package and print at once."""
    paths = filter(None, [str(PROJECT or ""), os.environ.get("PYTHONPATH")])
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def end_with_parent() -> None:
    """Have Linux end this process when the one that started it does, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run_processes(count: int, arguments: Sequence[str], device: str) -> None:
    """Run `tinyclf` with `arguments` in `count` processes of this machine, as torchrun does, to their end.

    Raises UsageError for more processes than GPUs or CPU cores, TinyclfError where one of them fails, and says which.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() and device != "cpu" else 0
    most = gpus or os.cpu_count() or 1
    if count > most:
        raise UsageError(f"processes = {count}: expected 1 to {most}, as many as there are GPUs, else CPU cores")
    before, on_term = dict(os.environ), signal.getsignal(signal.SIGTERM)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the message below says it
    local = {"rdzv_endpoint": "localhost:0", "local_addr": "localhost"}  # the name of this machine may lead nowhere
    end = {"max_restarts": 0, "signals_to_handle": "SIGTERM"}
    config = LaunchConfig(1, 1, count, run_id=uuid.uuid4().hex, rdzv_backend="c10d", **local, **end)  # type: ignore[arg-type]
    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.update(child_environment(), OMP_NUM_THREADS=str(max(1, torch.get_num_threads() // count)))
        elastic_launch(config, sys.executable)("-m", "tinyclf", *arguments)
    except SignalException:
        raise Terminated from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"ended with status {failure.exitcode}: its message is above"
        if failure.exitcode < 0:
            how = f"was killed by {failure.signal_name()}, by the system where memory ran out; the same command goes on"
        which = f"process {rank} (process id {failure.pid})"
        raise TinyclfError(f"training in {count} processes failed: {which} {how}") from None
    finally:
        signal.signal(signal.SIGTERM, on_term)
        os.environ.clear()
        os.environ.update(before)
