"""Experiments at the same time, each in a process of its own with its share of the cores or a GPU."""

import multiprocessing
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection
from typing import Any, Self

from tqdm import tqdm

from tinyclf.experiments.catalog import LAST, Experiment
from tinyclf.experiments.settings import parent_of
from tinyclf.utils.errors import TinyclfError

STAND_IN = "stand-in weights"  # the job that trains them, so that those which start from them do not wait for a lock
PATIENCE = 30  # seconds that an interrupted job has to shut down its kernel
TAIL = 20  # lines of a job that failed, for a terminal, where only the last one was to be seen
PROCESSES = multiprocessing.get_context("forkserver")  # which imports papermill, or torch, once for all of them


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own."""

    name: str
    title: str
    function: str  # as `package.module:function`: what it imports, this process need not
    arguments: tuple[Any, ...] = ()
    needs: frozenset[str] = frozenset()  # jobs without which it cannot be done
    after: frozenset[str] = frozenset()  # jobs that come before it, even where they fail
    length: int = 0  # roughly how long it takes, to start the longest first


def plan(
    experiments: list[Experiment],
    function: str,
    arguments: Callable[[Experiment], tuple[Any, ...]],
) -> list[Job]:
    """A job for each experiment, which calls `function` with `arguments` of it.

    It needs the run that it starts from, or the stand-in weights of `mini`, which are a job of their own. The pages
    that are made from all records come last.
    """
    names = frozenset(experiment.name for experiment in experiments)
    jobs = []
    for experiment in experiments:
        weights = experiment.parameters.get("weights", "")
        needs = frozenset({STAND_IN}) if weights == "mini" else names & {parent_of(weights)}
        after = {name for name in names if LAST.get(name, 0) < LAST.get(experiment.name, 0)}
        called = (experiment.name, experiment.title, function, arguments(experiment))
        jobs.append(Job(*called, needs, frozenset(after), length(experiment)))
    if any(STAND_IN in job.needs for job in jobs):
        jobs.insert(0, Job(STAND_IN, "for ImageNet weights on mini", "tinyclf.models.weights:stand_in_file"))
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


class Board:
    """What jobs print: on a terminal the latest line of each that is under way, elsewhere every line after its name."""

    def __init__(self, slots: int) -> None:
        numbers = range(slots) if sys.stderr.isatty() else ()
        self.lines = [tqdm(total=0, bar_format="{desc}", position=number, leave=False) for number in numbers]

    def latest(self, slot: int, job: str, line: str) -> None:
        """Show a line of the job that is under way in a slot."""
        if self.lines:
            self.lines[slot].set_description_str(f"{job}: {line}")
        else:
            self.add(f"{job}: {line}")

    def add(self, *lines: str) -> None:
        """Add lines that stay."""
        tqdm.write("\n".join(lines), file=sys.stderr)

    def end(self, slot: int, job: str, text: str, lines: Iterable[str]) -> None:
        """Say how a job ended; `lines` are its last ones, which a terminal has not kept."""
        if self.lines:
            self.lines[slot].set_description_str("")
        self.add(*(f"{job}: {line}" for line in lines if self.lines), f"{job}: {text}")


class Jobs:
    """Jobs under way, in as many slots as there are environments. When the block is left, no process is."""

    def __init__(self, environments: list[dict[str, str]]) -> None:
        self.environments, self.board = environments, Board(len(environments))
        self.threads = ThreadPoolExecutor(len(environments))
        self.processes: dict[int, Any] = {}  # by slot
        self.under_way: dict[Future[bool], tuple[Job, int]] = {}

    @property
    def free(self) -> list[int]:
        """The slots where nothing is under way."""
        return sorted(set(range(len(self.environments))) - {slot for _, slot in self.under_way.values()})

    def start(self, job: Job, slot: int) -> None:
        """Start a job in a free slot."""
        reader, writer = PROCESSES.Pipe(duplex=False)
        self.processes[slot] = PROCESSES.Process(
            target=work, args=(job, self.environments[slot], writer), name=job.name
        )
        self.processes[slot].start()
        writer.close()
        self.board.latest(slot, job.name, job.title)
        self.under_way[self.threads.submit(self.follow, job, slot, reader)] = job, slot

    def follow(self, job: Job, slot: int, reader: Connection) -> bool:
        """Show what a job prints until it ends; returns whether it did all that it had to."""
        started, tail = time.monotonic(), deque[str](maxlen=TAIL)
        # A \r ends a line here too.
        with open(reader.fileno(), encoding="utf-8", errors="replace", closefd=False) as output:
            for line in filter(None, map(str.strip, output)):
                tail.append(line)
                self.board.latest(slot, job.name, line)
        self.processes[slot].join()
        done = bool(self.processes[slot].exitcode == 0)
        seconds = f"{time.monotonic() - started:.0f} s"
        self.board.end(slot, job.name, f"{'done in' if done else 'failed after'} {seconds}", [] if done else tail)
        return done

    def ended(self) -> Iterator[tuple[str, bool]]:
        """Wait for a job to end; gives its name, and whether it did all that it had to."""
        for future in wait(self.under_way, return_when=FIRST_COMPLETED).done:
            yield self.under_way.pop(future)[0].name, future.result()

    def __enter__(self) -> Self:
        self.handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(self, *_: object) -> None:
        alive = [process for process in self.processes.values() if process.is_alive()]  # none but after an exception
        for process in alive:
            os.kill(process.pid, signal.SIGINT)
        for process in alive:
            process.join(PATIENCE)
            process.kill()
        self.threads.shutdown()
        signal.signal(signal.SIGTERM, self.handler)


def run_jobs(jobs: list[Job], environments: list[dict[str, str]]) -> None:
    """Do the jobs, as many at a time as there are environments; what most others need comes first, then what takes
    longest.

    One that fails leaves the others, but for those that need it. Raises TinyclfError in the end, which names both.
    When this process is interrupted or told to end, the jobs end before it does.
    """
    PROCESSES.set_forkserver_preload(sorted({job.function.partition(":")[0] for job in jobs if job.name != STAND_IN}))
    os.environ["OMP_NUM_THREADS"] = environments[0]["OMP_NUM_THREADS"]  # read when torch is loaded, before the fork
    graph = TopologicalSorter({job.name: job.needs | job.after for job in jobs})
    graph.prepare()
    by_followers = {job.name: job for job in sorted(jobs, key=lambda job: (-followers(job, jobs), -job.length))}
    ready: set[str] = set()
    failed: list[str] = []
    skipped: list[str] = []
    with Jobs(environments) as running:
        while graph.is_active():
            ready.update(graph.get_ready())
            for name in [name for name in by_followers if name in ready]:
                lost = by_followers[name].needs.intersection(failed + skipped)
                if lost:
                    running.board.add(f"{name}: skipped, as it needs {', '.join(lost)}")
                    skipped.append(name)
                    graph.done(name)
                elif running.free:
                    running.start(by_followers[name], running.free[0])
                else:
                    continue
                ready.remove(name)
            for name, done in running.ended():
                graph.done(name)
                if not done:
                    failed.append(name)
    if failed:
        raise TinyclfError(
            "; ".join(
                f"{what}: {', '.join(names)}" for what, names in (("failed", failed), ("skipped", skipped)) if names
            )
        )


def followers(job: Job, jobs: list[Job]) -> int:
    """How many jobs need a job, directly or through others."""
    return sum(1 + followers(other, jobs) for other in jobs if job.name in other.needs)


def work(job: Job, environment: dict[str, str], output: Connection) -> None:
    """Do a job: this runs in its own process. What it prints goes into `output`."""
    os.setpgid(0, 0)  # Ctrl-C on a terminal reaches it through the process that started it, once ...
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ... even where that was told to ignore it, by nohup
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    sys.stdout = sys.stderr  # not kept back until there is a lot of it
    output.close()
    os.environ.update(environment)
    try:
        pkgutil.resolve_name(job.function)(*job.arguments)
    except TinyclfError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
