"""What a command line asks to run: the options that `tinyclf run`, `report` and `train` share, and what they select."""

import glob
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import Signature, signature
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Context, Option

from tinyclf.data.registry import DATASETS, dataset_info, folder_name
from tinyclf.experiments import launch
from tinyclf.experiments.names import dataset_folder
from tinyclf.experiments.parameters import parse_assignment
from tinyclf.utils.errors import TinyclfError, UsageError

if TYPE_CHECKING:
    from tinyclf.experiments.catalog import Experiment

DATASET_HELP = "; ".join(f"{info.name}: {info.help}" for info in DATASETS.values())
DATASET_HELP += "; PATH: a folder of images, train/CLASS/* and val/CLASS/*"
NAMES_HELP = "experiments, their ablations, or the paths of notebooks"
SETTING_HELP = "a setting; repeatable"
SEEDS_HELP = "run each experiment with each of these seeds"
PROCESSES_HELP = "train in N processes as by torchrun, each with its own GPU or CPU cores"
JOBS_HELP = "run N experiments at a time, each with its share of CPU cores or GPUs"
DEVICE_HELP = "where to compute; auto: on a CUDA GPU if there is one, else on the CPU; mps: on a Mac's GPU"


def use_device(device: str) -> str:
    """Have this process, and those that it starts, compute on `device`. Raises UsageError for a GPU that is missing."""
    if device in ("cuda", "mps"):
        import torch

        from tinyclf.training.device import cuda_is_usable, unused_gpu_reason

        if not (cuda_is_usable() if device == "cuda" else torch.backends.mps.is_available()):
            reason = (device == "cuda" and unused_gpu_reason()) or f"torch {torch.__version__} sees no such GPU"
            raise UsageError(f"--device {device}: {reason}; without this option, it computes on the CPU")
    if device != "auto":
        os.environ["ACCELERATE_USE_CPU"] = "true" if device == "cpu" else "false"
    if device == "mps":
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    return device


def check_dataset(dataset: str) -> str:
    """The name of a data set, or the absolute path of a folder of own images. Raises UsageError for another text."""
    with usage():
        folder_name(dataset)
    return dataset_info(dataset).name


def complete_experiments(ctx: Context, incomplete: str) -> list[str]:
    """The experiments on the data set of a command line that TAB offers."""
    from tinyclf.experiments.catalog import read_experiments

    return [name for name in read_experiments(ctx.params.get("dataset") or "mini") if name.startswith(incomplete)]


def complete_runs(ctx: Context, incomplete: str) -> list[str]:
    """The runs with a record on the data set of a command line that TAB offers."""
    records = dataset_folder(ctx.params.get("dataset") or "mini").glob(f"{glob.escape(incomplete)}*/record.json")
    return sorted(path.parent.name for path in records)


Dataset = Annotated[str, Option(callback=check_dataset, metavar="|".join([*DATASETS, "PATH"]), help=DATASET_HELP)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Option(callback=use_device, help=DEVICE_HELP)]


@dataclass(frozen=True)
class Request:
    """Experiments to run, and how: each field is an argument or option of the commands that run them."""

    names: Annotated[list[str], Argument(metavar="NAME...", help=NAMES_HELP, autocompletion=complete_experiments)]
    dataset: Dataset = "mini"
    epochs: Annotated[int | None, Option(min=1, metavar="N", help="epochs to train; short for -p epochs=N")] = None
    parameter: Annotated[list[str] | None, Option("-p", "--parameter", metavar="NAME=VALUE", help=SETTING_HELP)] = None
    imagenet: Annotated[str, Option(metavar="PATH", help="state dict that stands in for the ImageNet weights")] = ""
    force: Annotated[bool, Option("--force", help="start over, dropping what a run of that name left")] = False
    seeds: Annotated[list[int] | None, Option(metavar="N...", help=SEEDS_HELP)] = None
    processes: Annotated[int, Option(min=1, metavar="N", help=PROCESSES_HELP)] = 1
    jobs: Annotated[int, Option(min=1, metavar="N", help=JOBS_HELP)] = 1
    device: Device = "auto"

    def experiments(self) -> "list[Experiment]":
        """The experiments to run: as `select` has them, without those that others start from and that have finished.

        Raises UsageError for an unknown experiment or parameter, and for a value that it cannot have.
        """
        if self.jobs > 1 and self.processes > 1:
            raise UsageError("--jobs and --processes: give one of them")
        with usage():
            from tinyclf.experiments.catalog import select

            overrides = self.overrides()
            experiments = select(self.names, self.dataset, overrides, self.imagenet, self.seeds or ())
            if "model" in overrides:  # refused before anything is packed
                from tinyclf.models.resnet import build_model

                build_model(overrides["model"], 1)
        if not any(experiment.needed for experiment in experiments):
            return experiments
        from tinyclf.experiments.parent import is_finished  # reads checkpoints, by torch

        return [run for run in experiments if not (run.needed and is_finished(run.name, self.dataset))]

    def overrides(self) -> dict[str, Any]:
        """The parameters that replace those of the experiments. Raises TinyclfError for what is not NAME=VALUE."""
        given = dict(map(parse_assignment, self.parameter or [])) | ({"force": True} if self.force else {})
        if self.epochs and "epochs" in given:
            raise TinyclfError(f"--epochs {self.epochs} and -p epochs={given['epochs']}: give one of them")
        return given | ({"epochs": self.epochs} if self.epochs else {})

    def run(self, experiments: "list[Experiment]", function: str) -> None:
        """Call `function`, a `package.module:function`, with each experiment, in this process or in others.

        In several processes, those that train are trained first, and one process then does what else there is to do.
        Raises TinyclfError where one fails, see `launch.run_one_by_one` and `launch.run_jobs`.
        """
        trained = [experiment for experiment in experiments if experiment.trains]
        if any(run.is_own for run in trained) and (function == launch.TRAIN or self.processes > 1):
            raise UsageError("a notebook by its path is run by `tinyclf run`, in one process")
        if launch.WORKER in os.environ:
            Thread(target=launch.end_with_parent, daemon=True).start()
            pkgutil.resolve_name(launch.TRAIN)(*trained)
        elif self.jobs > 1:
            launch.run_jobs(experiments, function, launch.shares(self.jobs, self.device))
        elif self.processes > 1 and trained:
            launch.run_processes(self.processes, self.device, trained)
            if function != launch.TRAIN:
                launch.run_one_by_one(replace(self, force=False).experiments(), function)
        else:
            launch.run_one_by_one(experiments, function)


def takes_request(*left_out: str) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Have a command take the fields of Request, but for some, as its arguments and options."""

    def taking(command: Callable[[Request], None]) -> Callable[..., None]:
        fields = [field for name, field in signature(Request).parameters.items() if name not in left_out]

        def from_options(**options: Any) -> None:
            command(Request(**({"names": []} | options)))

        from_options.__name__, from_options.__doc__ = command.__name__, command.__doc__
        from_options.__signature__ = Signature(fields)  # type: ignore[attr-defined]
        return from_options

    return taking


@contextmanager
def usage() -> Iterator[None]:
    """Raise what is wrong with a command line as UsageError."""
    try:
        yield
    except TinyclfError as error:
        raise UsageError(str(error)) from error
