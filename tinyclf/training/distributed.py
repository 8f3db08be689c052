"""Several processes on one run, by Accelerate: each takes a part of every batch, the result is that of one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed import DistError, all_reduce, broadcast

from tinyclf.models.ghost_batch_norm import GhostBatchNorm2d
from tinyclf.training.device import cuda_is_usable
from tinyclf.utils.errors import TinyclfError

# What tells Accelerate, by torchrun or by MPI, that a process is one of several
RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "MPI_LOCALRANKID")
SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
MPI = [f"{mpi}_COMM_WORLD_{name}" for mpi in ("OMPI", "MV2") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]


def this_process() -> PartialState:
    """This process with its device: one of several where `torchrun` started it.

    The device is a CUDA GPU where torch can use one and ACCELERATE_USE_CPU is not set, else the CPU. A Mac's GPU is
    used where ACCELERATE_TORCH_DEVICE says mps. On CUDA, cuDNN tries its algorithms and keeps the quickest.
    Where it was not torchrun, what others left in the environment about several processes, a batch system or a shell,
    is removed from it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        for name in (*RANKS, *SIZES, *MPI):
            os.environ.pop(name, None)
    wanted = cuda_is_usable() or os.environ.get("ACCELERATE_TORCH_DEVICE") == "mps"
    process = PartialState(cpu=not wanted or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if process.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return process


def accelerate() -> Accelerator:
    """What shares a model, its gradients and its results among the processes."""
    this_process()
    return Accelerator(mixed_precision="no")  # precision is a setting of the run, not of the launcher


@contextmanager
def connected() -> Iterator[None]:
    """Raise TinyclfError where another process of the run ended, which torch tells the others as a lost connection."""
    try:
        yield
    except RuntimeError as error:  # of NCCL a DistError, of Gloo a plain one
        if isinstance(error, DistError) or "gloo" in str(error):
            raise TinyclfError("another process of this run ended, and so does this one") from error
        raise


class AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over all processes, in each of them. Its gradient is the sum over all processes too."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        all_reduce(gradient)
        return gradient


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on a CPU too: torch's own SyncBatchNorm needs a GPU."""

    def _get_name(self) -> str:
        return "BatchNorm2d"  # so that a model prints the same in one process and in several

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes, input = (0, 2, 3), input.to(torch.promote_types(input.dtype, torch.float32))  # bf16 would round the sums
        values = input.new_tensor([input.numel() / self.num_features])  # of each channel, in this process
        sums: Tensor = AllReduceSum.apply(torch.cat([input.sum(axes), values]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = input - mean[:, None, None]
        variance: Tensor = AllReduceSum.apply(centred.square().sum(axes)) / count
        assert self.num_batches_tracked is not None and self.momentum is not None  # as torchvision's models have them
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def data_parallel(model: nn.Module, accelerator: Accelerator, *, changes: bool = False) -> nn.Module:
    """`model` for training in all processes of `accelerator`: batch norms see whole batches, gradients are averaged.

    The parameters are those of `model` itself, whose batch norms are replaced in place where there are several
    processes. (On several GPUs, torch's batch norm over all of them waits for the host in each layer.)
    changes: whether a step may leave out parameters, for which the others then do not wait, and those that are frozen
    now may be trained later.
    """
    if accelerator.num_processes == 1:
        return model
    ghosts = {layer.ghost_batches for layer in model.modules() if isinstance(layer, GhostBatchNorm2d)}
    if any(parts % accelerator.num_processes for parts in ghosts):
        raise TinyclfError(
            f"ghost_batches = {max(ghosts)}: {accelerator.num_processes} processes cannot share so many parts of a "
            "batch evenly; give another number of processes, or ghost_batches = 1"
        )
    if ghosts:
        pass  # each process normalises its own parts
    elif accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for layer in model.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = SyncedBatchNorm
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=changes)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad] if changes else []
    for parameter in frozen:  # torch averages the gradients of those alone that have one when it wraps the model
        parameter.requires_grad_(True)
    prepared: nn.Module = accelerator.prepare_model(model)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return prepared


def share_buffers(model: nn.Module) -> None:
    """Give the model of every process the running values of the first one's batch norms."""
    for buffer in model.buffers():
        broadcast(buffer, 0)
