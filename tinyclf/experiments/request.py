"""What a command line asks to run: which experiments, and whether one by one, at a time or in several processes."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer

from tinyclf.experiments import launch
from tinyclf.experiments.catalog import Experiment, select
from tinyclf.experiments.names import family
from tinyclf.experiments.parameters import RUN_NAME, parse_assignment
from tinyclf.utils.errors import TinyclfError, UsageError

WORKER = "TORCHELASTIC_RUN_ID"  # in the environment of a process that torchrun started


@dataclass(frozen=True)
class Request:
    """Experiments to run, with the options that `tinyclf run`, `report` and `train` share."""

    names: list[str]  # none: all
    dataset: str
    epochs: int | None
    parameters: list[str]  # as NAME=VALUE
    imagenet: str
    force: bool
    seeds: list[int]
    processes: int
    jobs: int
    device: str
    only: str = ""

    def experiments(self) -> list[Experiment]:
        """The experiments to run: as `select` has them, without those that others start from and that have finished.

        Raises UsageError for an unknown experiment or parameter, and for a value that it cannot have.
        """
        if self.jobs > 1 and self.processes > 1:
            raise UsageError("--jobs and --processes: give one of them")
        with usage():
            experiments = select(self.names, self.dataset, self.overrides(), self.imagenet, self.seeds)
        if self.only:
            return [run for run in experiments if run.name == self.only]
        if not any(experiment.needed for experiment in experiments):
            return experiments
        from tinyclf.experiments.parent import is_finished  # reads checkpoints, by torch

        return [run for run in experiments if not (run.needed and is_finished(run.name, self.dataset))]

    def overrides(self) -> dict[str, Any]:
        """The parameters that replace those of the experiments. Raises TinyclfError for what is not NAME=VALUE."""
        overrides = dict(map(parse_assignment, self.parameters)) | ({"force": True} if self.force else {})
        if self.epochs is None:
            return overrides
        if "epochs" in overrides:
            raise TinyclfError(f"--epochs {self.epochs} and -p epochs={overrides['epochs']}: give one of them")
        return overrides | {"epochs": self.epochs}

    def arguments(self, command: str, experiments: list[Experiment]) -> list[str]:
        """The arguments of `tinyclf` for a command that selects these experiments, with the same options."""
        families = dict.fromkeys(family(run.name) for run in experiments if not run.needed)
        names = [name for name in self.names if name in families] or list(families)
        if RUN_NAME in self.overrides():
            names = self.names[:1]  # the experiment, not the name that its run is given
        arguments = [command, *names, "--dataset", self.dataset, "--device", self.device, *["--force"] * self.force]
        arguments += ["--epochs", str(self.epochs)] if self.epochs else []
        arguments += [text for value in self.parameters for text in ("-p", value)]
        arguments += ["--imagenet", self.imagenet] if self.imagenet else []
        return arguments + [text for seed in self.seeds for text in ("--seeds", str(seed))]


@contextmanager
def usage() -> Iterator[None]:
    """Raise what is wrong with a command line as UsageError."""
    try:
        yield
    except TinyclfError as error:
        raise UsageError(str(error)) from error


def use_device(device: str) -> str:
    """Have this process, and those that it starts, compute on `device`. Raises UsageError for a GPU that is missing."""
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if device in ("cuda", "mps"):
        import torch

        from tinyclf.training.device import cuda_is_usable, unused_gpu_reason

        if not (cuda_is_usable() if device == "cuda" else torch.backends.mps.is_available()):
            built = torch.version.cuda or torch.version.hip or device == "mps"
            missing = "torch sees no GPU" if built else f"torch {torch.__version__} is built for CPUs alone"
            reason = unused_gpu_reason() if device == "cuda" else missing
            raise UsageError(f"--device {device}: {reason or missing}; without this option, it computes on the CPU")
        os.environ["ACCELERATE_USE_CPU"] = "false"
    if device == "mps":
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    return device


def train_in_processes(request: Request, experiments: list[Experiment]) -> None:
    """Train experiments in the processes that `request` wants. Raises TinyclfError for too many, or where one fails."""
    trained = [run for run in experiments if RUN_NAME in run.parameters and not run.needed]
    if not trained:
        raise TinyclfError(f"there is nothing to train in {', '.join(run.name for run in experiments)}")
    with interruptible():
        launch.run_processes(request.processes, request.arguments("train", trained), request.device)


def run_at_once(request: Request, experiments: list[Experiment], command: str) -> None:
    """Run experiments by `tinyclf COMMAND`, as many at a time as `request` wants; see `run_jobs` for errors."""
    jobs = launch.plan(experiments, request.arguments(command, experiments))
    with interruptible():
        launch.run_jobs(jobs, launch.shares(request.jobs, request.device))


def run_one_by_one(experiments: list[Experiment], do: Callable[[Experiment], None], *, alone: bool = False) -> None:
    """`do` the experiments. One that fails is named at once, and the others still run; then raises TinyclfError.

    alone: do the only one as a job, whose name and title others print.
    """
    failed = []
    if alone:
        launch.end_with_parent()
    for experiment in experiments:
        try:
            if not alone:
                print(f"{experiment.name}: {experiment.title}", file=sys.stderr)
            with interruptible():
                do(experiment)
        except TinyclfError as error:
            if alone:
                raise
            print(f"tinyclf: {experiment.name}: {error}", file=sys.stderr)
            failed.append(experiment.name)
    if failed:
        raise TinyclfError(f"failed: {', '.join(failed)}")


@contextmanager
def interruptible() -> Iterator[None]:
    """End with a word, not a traceback, when interrupted or told to end: with status 130, or 143 by SIGTERM."""

    def terminate(*_: object) -> None:
        raise launch.Terminated

    worker = WORKER in os.environ  # torchrun ends these by SIGTERM when another one failed, which is no interrupt
    before = signal.getsignal(signal.SIGTERM) if worker else signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as reason:
        print("tinyclf: interrupted; the same command goes on after the last finished epoch", file=sys.stderr)
        raise typer.Exit(143 if isinstance(reason, launch.Terminated) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
