"""Several processes on one run, by Accelerate: each takes a part of every batch, the result is that of one process."""

import torch
import torch.distributed.nn.functional as collective
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn


def this_process() -> PartialState:
    """This process with its device: one of several where `accelerate launch` or `torchrun` started it.

    A GPU where there is one, unless ACCELERATE_USE_CPU says otherwise; else the CPU, which Accelerate wants to be told.
    """
    return PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


def accelerate() -> Accelerator:
    """What shares a model, its gradients and results among the processes. Batch norms are the same in all of them."""
    this_process()
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on a CPU too: torch's own SyncBatchNorm needs a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        over = (0, 2, 3)
        sums = torch.cat([input.sum(over), input.new_tensor([input.numel() / max(1, input.shape[1])])])
        *_, count = sums = collective.all_reduce(sums)
        mean = sums[:-1] / count
        centred = input - mean[:, None, None]
        variance = collective.all_reduce(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def shared(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """`model`, on the accelerator's device, for training in all its processes: batch norms and gradients are theirs.

    Its parameters are those of `model` itself, whose batch norms are replaced in place where there are several.
    """
    model.to(accelerator.device, memory_format=torch.channels_last)
    if accelerator.num_processes == 1:
        return model
    if accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for each in model.modules():
            if type(each) is nn.BatchNorm2d:
                each.__class__ = SyncedBatchNorm
    return accelerator.prepare_model(model)
