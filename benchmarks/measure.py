"""The measuring: a stopwatch between batches, rounds in which everyone takes a turn, and a process's peak memory."""

import gc
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tinyclf.training.device import autocast
from tinyclf.utils.errors import TinyclfError

BATCH = 100  # images, as published
Row = dict[str, Any]  # one line of the CSV


class Watch:
    """Times `steps` steps, each with the loading of its batch, after `skip` steps that are not counted."""

    def __init__(self, steps: int, skip: int, device: torch.device) -> None:
        self.steps, self.skip, self.device = steps, skip, device
        self.begun = 0  # steps
        self.times: list[float] = []  # seconds: where the first counted step began, and where the last one ended

    def tick(self) -> bool:
        """To be called where a step begins, its batch at hand. True once enough steps were timed."""
        if self.begun in (self.skip, self.skip + self.steps):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.times.append(time.perf_counter())
        self.begun += 1
        return self.begun > self.skip + self.steps

    def around(self, batches: Iterable) -> Iterator:
        """`batches`, until enough steps were timed. Whoever asks for the next one has done the step before."""
        for batch in batches:
            if self.tick():
                return
            yield batch

    @property
    def seconds(self) -> float:
        """What the counted steps took. Raises TinyclfError where the batches ended before them."""
        if len(self.times) < 2:
            raise TinyclfError(f"{self.begun} batches are too few to time {self.skip} + {self.steps} steps")
        return self.times[1] - self.times[0]


Turn = Callable[[Watch, int], None]  # does steps with so many worker processes, until the watch has enough


def rounds(
    measure: str,
    turns: dict[str, tuple[Turn, tuple[int, ...]]],
    *,
    steps: int,
    seconds: float,
    device: torch.device,
    always: tuple[str, ...] = (),
    fill: bool = False,
) -> list[Row]:
    """Let everyone take short turns, one after the other, for about `seconds` but at least three rounds.

    turns: by name, what is measured and the numbers of worker processes to choose from: each is tried in a turn of
    half the length before the rounds, and the fastest stays. Every other round goes backwards, so that none gains by
    its position.
    always: who takes part in every round, by default all; the others do in every third one.
    fill: skip what workers may have fetched before the clock starts, as they do while a loader alone is measured; of
    a training or an evaluation, whose workers wait for it, the queue is as full then as later on.
    Each row says in `others` how many cores other processes kept busy meanwhile.
    """

    def turn(name: str, workers: int, steps: int) -> float:
        """Seconds of so many steps."""
        watch = Watch(steps, 1 + (2 * workers if fill else min(workers, 1)), device)
        with autocast("fp32", device):
            turns[name][0](watch, workers)
        if multiprocessing.active_children():  # a traceback may keep an iterator, and with it its workers
            gc.collect()
        assert not multiprocessing.active_children(), f"{name} left workers behind"
        return watch.seconds

    best = {}
    for name, (_, numbers) in turns.items():
        turn(name, 0, 1)  # whatever is made on first use, a compiled model among it
        best[name] = min(numbers, key=lambda number: turn(name, number, max(1, steps // 2)))
    rows: list[Row] = []
    end, number = time.perf_counter() + seconds, 0
    while number < 3 or time.perf_counter() < end:
        for name in list(turns)[:: -1 if number % 2 else 1]:
            if number % 3 == 0 or name in (always or turns):
                others, start = others_seconds(), time.perf_counter()
                rate = steps * BATCH / turn(name, best[name], steps)
                others = (others_seconds() - others) / (time.perf_counter() - start)
                about = {"measure": measure, "contestant": name, "workers": best[name], "round": number}
                rows.append(about | {"value": rate, "unit": "images/s", "others": round(others, 2)})
        number += 1
    return rows


def others_seconds() -> float:
    """CPU seconds, since the machine started, of all but this process and its former children; 0 if not on Linux."""
    with suppress(OSError):
        user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text("utf-8").split()[1:9])
        return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
    return 0.0


def peak_memory(job: Callable[..., None], *arguments: Any) -> float:
    """MiB of resident memory that `job(*arguments)` takes at most, run in a fresh process; raises what the job does."""
    spawn = multiprocessing.get_context("spawn")  # a fork would begin with all that this process holds
    with ProcessPoolExecutor(1, spawn) as process:
        return process.submit(measured, job, arguments).result()


def measured(job: Callable[..., None], arguments: tuple) -> float:
    """Runs in the process of its own: the job; returns its peak resident memory in MiB."""
    job(*arguments)
    with suppress(OSError):  # Linux: what getrusage says there began as the peak of the process that started this one
        status = Path("/proc/self/status").read_text("utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
