"""What a command line asks to run, with its options, and training in several processes by torchrun."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from tinyclf.data.registry import DATASETS
from tinyclf.experiments.catalog import Experiment, select
from tinyclf.experiments.names import family
from tinyclf.experiments.parameters import RUN_NAME, parse_assignment
from tinyclf.utils.errors import TinyclfError, UsageError
from tinyclf.utils.paths import PROJECT

DatasetName = Literal["mini", "tiny-imagenet", "tiny-imagenet-20"]  # those of DATASETS
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Dataset = Annotated[
    DatasetName, typer.Option(help="; ".join(f"{info.name}: {info.help}" for info in DATASETS.values()))
]
Device = Annotated[
    DeviceName,
    typer.Option(help="where to compute; auto: on a CUDA GPU if there is one, else on the CPU; mps: on a Mac's GPU"),
]


@dataclass(frozen=True)
class Request:
    """Experiments to run, with the options that `tinyclf run`, `report` and `train` share."""

    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="experiments or their ablations")]  # none: all
    dataset: Dataset = "mini"
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="epochs to train; short for -p epochs=N")] = (
        None
    )
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="a setting; repeatable")
    ] = None
    imagenet: Annotated[
        str, typer.Option(metavar="PATH", help="state dict that stands in for the ImageNet weights")
    ] = ""
    force: Annotated[bool, typer.Option("--force", help="start over, dropping what a run of that name left")] = False
    seeds: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="run each experiment with each of these seeds")
    ] = None
    processes: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="train in N processes by torchrun, each with its own GPU or CPU cores"),
    ] = 1
    jobs: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="run N experiments at a time, each with its share of CPU cores or GPUs"),
    ] = 1
    device: Device = "auto"

    def experiments(self) -> list[Experiment]:
        """The experiments to run: as `select` has them, without those that others start from and that have finished.

        Raises UsageError for an unknown experiment or parameter, and for a value that it cannot have.
        """
        if self.jobs > 1 and self.processes > 1:
            raise UsageError("--jobs and --processes: give one of them")
        with usage():
            experiments = select(self.names, self.dataset, self.overrides(), self.imagenet, self.seeds)
        if not any(experiment.needed for experiment in experiments):
            return experiments
        from tinyclf.experiments.parent import is_finished  # reads checkpoints, by torch

        return [run for run in experiments if not (run.needed and is_finished(run.name, self.dataset))]

    def overrides(self) -> dict[str, Any]:
        """The parameters that replace those of the experiments. Raises TinyclfError for what is not NAME=VALUE."""
        overrides = dict(map(parse_assignment, self.parameter or [])) | ({"force": True} if self.force else {})
        if self.epochs is None:
            return overrides
        if "epochs" in overrides:
            raise TinyclfError(f"--epochs {self.epochs} and -p epochs={overrides['epochs']}: give one of them")
        return overrides | {"epochs": self.epochs}

    def arguments(self, names: list[str]) -> list[str]:
        """The arguments of `tinyclf train` for experiments by their names."""
        arguments = ["train", *names, "--dataset", self.dataset, "--device", self.device, *["--force"] * self.force]
        arguments += ["--epochs", str(self.epochs)] if self.epochs else []
        arguments += [text for value in self.parameter or [] for text in ("-p", value)]
        arguments += ["--imagenet", self.imagenet] if self.imagenet else []
        return arguments + [text for seed in self.seeds or [] for text in ("--seeds", str(seed))]


def takes_request(*, names: bool = True) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Make a command of a function of a Request: the fields become its arguments and options, as typer wants them.

    names: whether it takes those of experiments; else it runs all.
    """
    signature = inspect.signature(Request)
    fields = [field for field in signature.parameters.values() if names or field.name != "names"]

    def decorate(command: Callable[[Request], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(*args: Any, **options: Any) -> None:
            request = Request(*args, **options) if names else Request([], *args, **options)
            use_device(request.device)
            command(request)

        with_options.__signature__ = signature.replace(parameters=fields)  # type: ignore[attr-defined]
        with_options.__annotations__ = {}  # they are in the signature
        return with_options

    return decorate


@contextmanager
def usage() -> Iterator[None]:
    """Raise what is wrong with a command line as UsageError."""
    try:
        yield
    except TinyclfError as error:
        raise UsageError(str(error)) from error


def use_device(device: DeviceName) -> None:
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


def launch(request: Request, experiments: list[Experiment]) -> None:
    """Train experiments in the processes that `request` wants. Raises TinyclfError for too many, or where one fails."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() and request.device != "cpu" else 0
    most = gpus or os.cpu_count() or 1
    if request.processes > most:
        raise UsageError(
            f"processes = {request.processes}: expected 1 to {most}, as many as there are GPUs, else CPU cores"
        )
    trained = [run for run in experiments if RUN_NAME in run.parameters and not run.needed]
    if not trained:
        raise TinyclfError(f"there is nothing to train in {', '.join(run.name for run in experiments)}")
    families = dict.fromkeys(family(run.name) for run in trained)
    names = [name for name in request.names if name in families] or list(families)
    if any(value.startswith(f"{RUN_NAME}=") for value in request.parameter or []):
        names = request.names[:1]  # the experiment, not the name that its run is given
    environment = {
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // request.processes)),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT or ""), os.environ.get("PYTHONPATH")])),
    }
    from tinyclf.training.distributed import run_processes

    run_processes(request.processes, ["-m", "tinyclf", *request.arguments(names)], environment)
