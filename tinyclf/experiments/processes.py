"""Functions called in processes of their own. These fork from one that has torch and papermill imported already."""

import io
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

from tinyclf.utils.environment import usable_cores
from tinyclf.utils.errors import TinyclfError

THREADS = "OMP_NUM_THREADS"  # read by torch when it is imported
PATIENCE = 30  # seconds that an interrupted process has to shut down its kernel
FORKS = multiprocessing.get_context("forkserver")


def threads_each(count: int) -> str:
    """The threads of each of `count` processes: its share of the cores, or the number that the environment gives.

    It is the same for all jobs at any time, so that a run's numbers do not depend on what else was under way.
    """
    return os.environ.get(THREADS) or str(max(1, usable_cores() // count))


@contextmanager
def children(function: str, threads: str) -> Iterator[Callable[..., BaseProcess]]:
    """Gives a function that starts processes, `start` below. Those that still run in the end are ended.

    function: one that they call, as `package.module:function`, whose module is imported once. threads: of each process.
    """
    FORKS.set_forkserver_preload([function.partition(":")[0]])
    given, processes = os.environ.get(THREADS), list[BaseProcess]()
    os.environ[THREADS] = threads
    forkserver.ensure_running()
    if given is None:
        del os.environ[THREADS]

    def start(function: str, arguments: tuple[Any, ...], environment: dict[str, str], name: str = "") -> BaseProcess:
        """Call a function with a changed environment. name: stands before each line that it prints."""
        processes.append(FORKS.Process(target=work, args=(function, arguments, os.environ | environment, name)))
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
