"""The device of a run: which one, why no GPU is used, in which precision it computes, and by how many processes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed import DistError
from torch.distributed.nn.functional import all_reduce

from tinyclf.models.ghost_batch_norm import GhostBatchNorm2d
from tinyclf.utils.environment import cpu_flags, cpu_name
from tinyclf.utils.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM
AMPERE = (8, 0)  # the first CUDA capability with bf16 and tf32: a T4, 7.5, emulates the one and ignores the other
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What tells Accelerate, by torchrun or by MPI, that a process is one of several
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
MPI = [f"{mpi}_COMM_WORLD_{name}" for mpi in ("OMPI", "MV2") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]


def this_process() -> PartialState:
    """This process with its device: one of several where `torchrun` started it.

    The device is a CUDA GPU where torch can use one and ACCELERATE_USE_CPU is not set, else the CPU. A Mac's GPU is
    used where ACCELERATE_TORCH_DEVICE says mps. On CUDA, cuDNN tries its algorithms and keeps the quickest.
    Where it was not torchrun, what others left in the environment about several processes, a batch system or a shell,
    is removed from it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        for name in (*RANKS, "MPI_LOCALNRANKS", *MPI):
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


def device_line(device: torch.device) -> str:
    """The first line of a training: its device by name; and where a GPU is there and is not used, why."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"device: {device.type}, {torch.cuda.get_device_name(device)}, capability {capability}"
    threads = torch.get_num_threads()
    name = f"device: {device.type}, {cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    reason = unused_gpu_reason() if device.type == "cpu" else ""
    return f"{name}; {reason}" if reason else name


@cache
def cuda_is_usable() -> bool:
    """Whether torch sees a CUDA GPU, and has kernels for it."""
    return torch.cuda.is_available() and has_kernels(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())


def has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a build of torch for these architectures, as `sm_86` or `compute_90`, runs on a GPU of a capability.

    Code of an `sm` runs on the same major version from its minor one on, that of a `compute` on everything newer. A
    build that names neither is not of CUDA, and is trusted.
    """
    built = [name.rstrip("abcdefghijklmnopqrstuvwxyz").split("_") for name in architectures]  # of a few, as sm_90a
    versions = [(kind, divmod(int(digits), 10)) for kind, digits in filter(lambda each: len(each) == 2, built)]
    fits = [capability >= least and (kind == "compute" or capability[0] == least[0]) for kind, least in versions]
    return any(fits) or not fits


def unused_gpu_reason() -> str:
    """Why a run on the CPU does not use the GPU of this machine; empty where there is none."""
    if torch.cuda.is_available():
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        if has_kernels(capability, torch.cuda.get_arch_list()):
            return f"{name} is not used, as --device cpu or ACCELERATE_USE_CPU says"
        built = f"torch {torch.__version__} has no kernels for its capability {capability[0]}.{capability[1]}"
        return f"{name} cannot be used: {built}; install a build of torch that has, see pytorch.org"
    if torch.backends.mps.is_available():
        return "this Mac's GPU is not used: --device mps uses it, in fp32"
    gpu = nvidia_gpu()
    if gpu and torch.version.cuda is None:
        built = f"torch {torch.__version__} is a build without CUDA"
        return f"{gpu} cannot be used: {built}; install one with it, see pytorch.org"
    return f"{gpu} cannot be used: {unavailable_reason()}" if gpu else ""


def unavailable_reason() -> str:
    """Why torch does not see an NVIDIA GPU that the driver sees, in torch's words."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        old = f"; update the driver to one for CUDA {torch.version.cuda}, or install an older torch"
        return f"torch says: {said}{old if 'too old' in said else ''}"
    return "CUDA_VISIBLE_DEVICES may hide it"


def nvidia_gpu() -> str:
    """The name of the first GPU that `nvidia-smi` knows; empty where there is none, or no such command."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if "No devices" in said else said.partition("\n")[0]


def best_precision(device: torch.device) -> str:
    """The quickest precision of `device` that is exact enough for our recipes: what `precision = auto` stands for."""
    return next(name for name in ("bf16", "fp16", "fp32") if unsupported_reason(name, device) is None)


def supported_precision(precision: str, device: torch.device) -> str:
    """`precision` where `device` supports it, else fp32: for using a model, not for training it."""
    return precision if unsupported_reason(precision, device) is None else "fp32"


def unsupported_reason(precision: str, device: torch.device) -> str | None:
    """Why `device` does not support `precision`; None where it does."""
    if precision == "fp32" or (device.type, precision) == ("cuda", "fp16"):
        return None
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) >= AMPERE or torch.version.hip:
            return None
        name = torch.cuda.get_device_name(device)
        return f"needs a GPU of CUDA capability 8.0 or more, and this one, {name}, has {major}.{minor}, which has fp16"
    if precision in ("tf32", "fp16") or device.type != "cpu":
        return f"needs a CUDA GPU, and this run is on {device.type}"
    return None if BF16_CPUS & cpu_flags() else "this CPU has no instructions for it, and would take many times as long"


def refuse_unsupported(precision: str, device: torch.device) -> None:
    """Raise TinyclfError for a precision that `device` has no instructions for: it would be emulated, or ignored."""
    if reason := unsupported_reason(precision, device):
        raise TinyclfError(f"precision = {precision!r}: {reason}; use {best_precision(device)}, or auto")


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products of this context in `precision`: fp32, tf32, bf16 or fp16.

    fp32 is exact also on a GPU, where torch's own default for convolutions is tf32. Raises as `refuse_unsupported`.
    """
    refuse_unsupported(precision, device)
    on_gpu = device.type == "cuda"  # torch puts `conv` in place at run time
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul) if on_gpu else ()  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        with torch.autocast(device.type, LOW.get(precision, torch.bfloat16), enabled=precision in LOW):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


@contextmanager
def connected() -> Iterator[None]:
    """Raise TinyclfError where another process of the run ended, which torch tells the others as a lost connection."""
    try:
        yield
    except RuntimeError as error:  # of NCCL a DistError, of Gloo a plain one
        if isinstance(error, DistError) or "gloo" in str(error):
            raise TinyclfError("another process of this run ended, and so does this one") from error
        raise


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on a CPU too: torch's own SyncBatchNorm needs a GPU."""

    def _get_name(self) -> str:
        return "BatchNorm2d"  # so that a model prints the same in one process and in several

    def forward(self, input: Tensor) -> Tensor:
        """From (B, C, H, W) to the same shape."""
        if not self.training:
            return super().forward(input)
        axes, input = (0, 2, 3), input.to(torch.promote_types(input.dtype, torch.float32))  # bf16 would round the sums
        values = input.new_tensor([input.numel() / self.num_features])  # of each channel, in this process
        sums: Tensor = all_reduce(torch.cat([input.sum(axes), values]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        centred = input - mean[:, None, None]
        variance: Tensor = all_reduce(centred.square().sum(axes)) / count
        # As torchvision's models have them
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale: Tensor = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def data_parallel(model: nn.Module, accelerator: Accelerator, *, changes: bool = False) -> nn.Module:
    """`model` for training in all processes of `accelerator`: batch norms see whole batches, gradients are averaged.

    The parameters are those of `model` itself, whose batch norms are replaced in place where there are several
    processes; those of ghost batch norm stay, as each process normalises its own parts of a batch.
    changes: whether a step may leave out parameters, for which the others then do not wait, and those that are frozen
    now may be trained later. Raises TinyclfError for parts that the processes cannot share evenly.
    """
    if accelerator.num_processes == 1:
        return model
    layers = list(model.modules())
    ghosts = {layer.ghost_batches for layer in layers if isinstance(layer, GhostBatchNorm2d)}
    if any(parts % accelerator.num_processes for parts in ghosts):
        raise TinyclfError(
            f"ghost_batches = {max(ghosts)}: {accelerator.num_processes} processes cannot share so many parts of a "
            "batch evenly; give another number of processes, or ghost_batches = 1"
        )
    if not ghosts and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    elif not ghosts:
        for layer in layers:
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
