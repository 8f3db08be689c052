"""What a command line asks to run, and training in several processes by torchrun."""

import os
import subprocess
import sys
from dataclasses import dataclass

from tinyclf.experiments.catalog import Experiment, select
from tinyclf.experiments.names import family
from tinyclf.experiments.parameters import RUN_NAME, parse_assignment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import PROJECT


@dataclass(frozen=True)
class Request:
    """Experiments to run, by the options of the command line."""

    names: list[str]  # none: all
    dataset: str
    parameter: list[str] | None = None  # NAME=VALUE
    imagenet: str = ""  # path of a state dict that stands in for the ImageNet weights
    force: bool = False
    seeds: list[int] | None = None
    processes: int = 1

    def experiments(self) -> list[Experiment]:
        """The experiments to run: as `select` has them, without those that others start from and that have finished."""
        overrides = dict(map(parse_assignment, self.parameter or [])) | ({"force": True} if self.force else {})
        experiments = select(self.names, self.dataset, overrides, self.imagenet, self.seeds)
        if not any(experiment.needed for experiment in experiments):
            return experiments
        from tinyclf.experiments.initial import is_finished  # reads checkpoints, by torch

        return [run for run in experiments if not (run.needed and is_finished(run.name, self.dataset))]

    def arguments(self, names: list[str]) -> list[str]:
        """The arguments of `tinyclf train` for experiments by their names."""
        arguments = ["train", *names, "--dataset", self.dataset, *["--force"] * self.force]
        arguments += [text for value in self.parameter or [] for text in ("-p", value)]
        arguments += ["--imagenet", self.imagenet] if self.imagenet else []
        return arguments + [text for seed in self.seeds or [] for text in ("--seeds", str(seed))]


def launch(request: Request, experiments: list[Experiment]) -> None:
    """Train experiments in the processes that `request` wants. Raises TinyclfError for too many, or where one fails."""
    import torch

    most = torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1
    if request.processes > most:
        raise TinyclfError(
            f"processes = {request.processes}: expected 1 to {most}, as many as there are GPUs, else CPU cores"
        )
    trained = [run for run in experiments if RUN_NAME in run.parameters and not run.needed]
    names = list(dict.fromkeys(family(run.name) for run in trained))
    if not names:
        raise TinyclfError(f"there is nothing to train in {', '.join(run.name for run in experiments)}")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.processes}", "-m", "tinyclf"]
    environment = {
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // request.processes)),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT or ""), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, *torchrun, *request.arguments(names)]
    if subprocess.run(command, env=os.environ | environment).returncode:
        raise TinyclfError(f"training in {request.processes} processes failed: the message is above")
