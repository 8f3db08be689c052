"""Several processes on one run, by Accelerate: each takes a part of every batch, the result is that of one process."""

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed import all_reduce

from tinyclf.training.device import cuda_is_usable


def this_process() -> PartialState:
    """This process with its device: one of several where `torchrun` started it.

    The device is a CUDA GPU where torch can use one and ACCELERATE_USE_CPU is not set, else the CPU. A Mac's GPU is
    used where ACCELERATE_TORCH_DEVICE says mps. On CUDA, cuDNN tries its algorithms and keeps the quickest.
    """
    wanted = cuda_is_usable() or os.environ.get("ACCELERATE_TORCH_DEVICE") == "mps"
    process = PartialState(cpu=not wanted or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if process.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return process


def accelerate() -> Accelerator:
    """What shares a model, its gradients and its results among the processes."""
    this_process()
    return Accelerator(mixed_precision="no")  # precision is a setting of the run, not of the launcher


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


def data_parallel(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """`model` for training in all processes of `accelerator`: batch norms see whole batches, gradients are averaged.

    The parameters are those of `model` itself, whose batch norms are replaced in place where there are several
    processes. (On several GPUs, torch's batch norm over all of them waits for the host in each layer.)
    """
    if accelerator.num_processes == 1:
        return model
    if accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for layer in model.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = SyncedBatchNorm
    prepared: nn.Module = accelerator.prepare_model(model)
    return prepared
