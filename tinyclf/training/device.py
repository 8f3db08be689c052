"""The device of a run: which one, why no GPU is used, in which precision it computes, and by how many processes."""

import ctypes
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.backends import cuda, cudnn, mkldnn
from torch.distributed import DistError

from tinyclf.models.ghost_batch_norm import GhostBatchNorm2d
from tinyclf.utils.environment import cpu_flags, cpu_name, usable_cores
from tinyclf.utils.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM
AMPERE = (8, 0)  # the first CUDA capability with bf16 and tf32: a T4, 7.5, emulates the one and ignores the other
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
# What tells Accelerate, by torchrun or by MPI, that a process is one of several
SEVERAL = re.compile(r"((LOCAL_)?(RANK|WORLD_SIZE)|PMI_(RANK|SIZE)|MPI_LOCALN?RANK(ID|S)|(OMPI|MV2)_COMM_WORLD_.*)")


def this_process() -> PartialState:
    """This process with its device: one of several where `torchrun` started it.

    The device is a CUDA GPU where torch can use one and ACCELERATE_USE_CPU is not set, else the CPU. A Mac's GPU is
    used where ACCELERATE_TORCH_DEVICE says mps. On CUDA, cuDNN tries its algorithms and keeps the quickest, unless
    torch is to be deterministic. There are no more threads than cores that a container has time of.
    Where it was not torchrun, what others left in the environment about several processes, a batch system or a shell,
    is removed from it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        for name in filter(SEVERAL.fullmatch, list(os.environ)):
            del os.environ[name]
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    wanted = cuda_is_usable() or os.environ.get("ACCELERATE_TORCH_DEVICE") == "mps"
    process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not wanted)
    if process.device.type == "cuda":
        cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    return process


def keep_memory() -> None:
    """From now on, let this process keep the memory that it frees. Does nothing without glibc.

    glibc maps each block of more than 32 MB and unmaps it after use, so that the kernel zeroes all its pages at every
    step: in bf16, with batches of 100 at 224x224, a bare step of ResNet18 took 1.12 to 1.17 times as long.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


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
    """Whether torch sees a CUDA GPU, and was built for one as old as that: for `sm_75`, of capability 7.5, and others.

    A build that names none of these is not of CUDA, and is trusted.
    """
    if not torch.cuda.is_available():
        return False
    built = re.findall(r"_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    oldest = min(((int(major), int(minor)) for major, minor in built), default=(0, 0))
    return torch.cuda.get_device_capability() >= oldest


def unused_gpu_reason() -> str:
    """Why a run on the CPU does not use the GPU of this machine; empty where there is none."""
    if cuda_is_usable():
        return f"{torch.cuda.get_device_name()} is not used, as --device cpu or ACCELERATE_USE_CPU says"
    if torch.backends.mps.is_available():
        return "this Mac's GPU is not used: --device mps uses it, in fp32"
    if not shutil.which("nvidia-smi"):  # which comes with the driver
        return ""
    try:
        torch.cuda.init()
        said = "it has no kernels for capability {}.{}".format(*torch.cuda.get_device_capability())
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        said = str(error).splitlines()[0]
    return f"this NVIDIA GPU is not used: torch {torch.__version__} says: {said}; pytorch.org has other builds"


def precisions(device: torch.device) -> list[str]:
    """Those that `device` has instructions for: the others would be emulated, or ignored.

    The first is the quickest that is exact enough for our recipes: what `precision = auto` stands for.
    """
    if device.type == "cuda":
        new = torch.cuda.get_device_capability(device) >= AMPERE or torch.version.hip
        return ["bf16", "fp16", "tf32", "fp32"] if new else ["fp16", "fp32"]
    return ["bf16", "fp32"] if device.type == "cpu" and BF16_CPUS & cpu_flags() else ["fp32"]


def supported_precision(precision: str, device: torch.device) -> str:
    """`precision` where `device` supports it, else fp32: for using a model, not for training it."""
    return precision if precision in precisions(device) else "fp32"


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products of this context in `precision`: fp32, tf32, bf16 or fp16.

    fp32 is exact, whatever torch is set to: its own default for convolutions on a GPU is tf32.
    """
    products, convolutions = (cuda, cudnn) if device.type == "cuda" else (mkldnn, mkldnn)
    with ExitStack() as before:
        for backend in (products.matmul, convolutions.conv):  # which torch puts there at run time
            before.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        with torch.autocast(device.type, LOW.get(precision, torch.bfloat16), enabled=precision in LOW):
            yield


@contextmanager
def connected() -> Iterator[None]:
    """Raise TinyclfError where another process of the run ended, which torch tells the others as a lost connection."""
    try:
        yield
    except RuntimeError as error:  # of NCCL a DistError, of Gloo a plain one
        if isinstance(error, DistError) or "gloo" in str(error):
            raise TinyclfError("another process of this run ended, and so does this one") from error
        raise


def data_parallel(model: nn.Module, process: PartialState, *, changes: bool = False) -> nn.Module:
    """`model` for training in all processes of a run: batch norms see whole batches, gradients are averaged.

    The parameters are those of `model` itself. Ghost batch norm stays, as each process normalises its own parts of a
    batch; any other needs GPUs, whose processes share it.
    changes: whether a step may leave out parameters, for which the others then do not wait, and those that are frozen
    now may be trained later. Raises TinyclfError for parts that the processes cannot share evenly.
    """
    if process.num_processes == 1:
        return model
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    ghosts = {layer.ghost_batches for layer in norms if isinstance(layer, GhostBatchNorm2d)}
    parts, together = max(ghosts, default=1), process.device.type == "cuda" and not ghosts
    if norms and not together and parts % process.num_processes:
        several = f"{process.num_processes} processes cannot share so many parts of a batch"
        raise TinyclfError(f"ghost_batches = {parts}: {several}; give a multiple of the number of processes")
    if together:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad] if changes else []
    for parameter in frozen:  # torch averages the gradients of those alone that have one when it wraps the model
        parameter.requires_grad_(True)
    prepared = nn.parallel.DistributedDataParallel(model, find_unused_parameters=changes)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return prepared
