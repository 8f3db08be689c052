"""The device of a run: which one, why no GPU is used, in which precision it computes, and by how many processes."""

import ctypes
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed import DistError
from torch.nn.parallel import DistributedDataParallel

from tinyclf.models.ghost_batch_norm import GhostBatchNorm2d
from tinyclf.utils.environment import cpu_flags, cpu_name
from tinyclf.utils.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM
AMPERE = (8, 0)  # the first CUDA capability with bf16 and tf32: a T4, 7.5, emulates the one and ignores the other
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h: the signal that a process gets when the one that started it ends
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What tells Accelerate, by torchrun or by MPI, that a process is one of several
SEVERAL = re.compile(r"((LOCAL_)?(RANK|WORLD_SIZE)|PMI_(RANK|SIZE)|MPI_LOCALN?RANK(ID|S)|(OMPI|MV2)_COMM_WORLD_.*)")


def this_process() -> PartialState:
    """This process with its device: one of several where `torchrun` started it.

    The device is a CUDA GPU where torch can use one and ACCELERATE_USE_CPU is not set, else the CPU. A Mac's GPU is
    used where ACCELERATE_TORCH_DEVICE says mps. On CUDA, cuDNN tries its algorithms and keeps the quickest.
    Where it was not torchrun, what others left in the environment about several processes, a batch system or a shell,
    is removed from it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        for name in filter(SEVERAL.fullmatch, list(os.environ)):
            del os.environ[name]
    elif sys.platform == "linux":  # have it end this process when it ends, even by kill -9
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    wanted = cuda_is_usable() or os.environ.get("ACCELERATE_TORCH_DEVICE") == "mps"
    try:
        process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not wanted)
    except ValueError as error:
        given = f"ACCELERATE_USE_CPU = {os.environ['ACCELERATE_USE_CPU']!r}"
        raise TinyclfError(f"{given}: expected true or false, or nothing") from error
    if process.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return process


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
    built = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(architectures))
    versions = [(kind, (int(major), int(minor))) for kind, major, minor in built]
    fits = [capability >= least and (kind == "compute" or capability[0] == least[0]) for kind, least in versions]
    return any(fits) or not fits


def unused_gpu_reason() -> str:
    """Why a run on the CPU does not use the GPU of this machine; empty where there is none."""
    if cuda_is_usable():
        return f"{torch.cuda.get_device_name()} is not used, as --device cpu or ACCELERATE_USE_CPU says"
    if torch.backends.mps.is_available():
        return "this Mac's GPU is not used: --device mps uses it, in fp32"
    if not shutil.which("nvidia-smi"):  # which comes with the driver
        return ""
    said = "it sees none, which CUDA_VISIBLE_DEVICES may hide"
    try:
        torch.cuda.init()
        if torch.cuda.is_available():
            said = "it has no kernels for capability {}.{}".format(*torch.cuda.get_device_capability())
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        said = str(error).splitlines()[0]
    return (
        f"this NVIDIA GPU is not used: torch {torch.__version__} says: {said}; pytorch.org has builds for each driver"
    )


def best_precision(device: torch.device) -> str:
    """The quickest precision of `device` that is exact enough for our recipes: what `precision = auto` stands for."""
    return next(name for name in ("bf16", "fp16", "fp32") if unsupported_reason(name, device) is None)


def supported_precision(precision: str, device: torch.device) -> str:
    """`precision` where `device` supports it, else fp32: for using a model, not for training it."""
    return precision if unsupported_reason(precision, device) is None else "fp32"


def unsupported_reason(precision: str, device: torch.device) -> str | None:
    """Why `device` does not support `precision`; None where it does."""
    kind = device.type
    if precision == "fp32" or (kind, precision) == ("cuda", "fp16"):
        return None
    if kind == "cuda":
        name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        new = (major, minor) >= AMPERE or torch.version.hip
        return None if new else f"needs a GPU of CUDA capability 8.0 or more, and this one, {name}, has {major}.{minor}"
    if (kind, precision) != ("cpu", "bf16"):
        return f"needs a CUDA GPU, and this run is on {kind}"
    return None if BF16_CPUS & cpu_flags() else "this CPU has no instructions for it, and would take many times as long"


def refuse_unsupported(precision: str, device: torch.device) -> None:
    """Raise TinyclfError for a precision that `device` has no instructions for: it would be emulated, or ignored."""
    if reason := unsupported_reason(precision, device):
        raise TinyclfError(f"precision = {precision!r}: {reason}; use {best_precision(device)}, or auto")


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products of this context in `precision`: fp32, tf32, bf16 or fp16.

    fp32 is exact, whatever torch is set to: its own default for convolutions on a GPU is tf32.
    """
    products = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    convolutions = torch.backends.cudnn if device.type == "cuda" else torch.backends.mkldnn
    backends = (products.matmul, convolutions.conv)  # which torch puts there at run time
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
        raise TinyclfError(
            f"ghost_batches = {parts}: {process.num_processes} processes cannot share so many parts of a batch "
            "evenly; give another number of processes, or a number of parts that is a multiple of it"
        )
    if together:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad] if changes else []
    for parameter in frozen:  # torch averages the gradients of those alone that have one when it wraps the model
        parameter.requires_grad_(True)
    devices = [process.device] if process.device.type == "cuda" else None
    prepared = DistributedDataParallel(model, devices, find_unused_parameters=changes)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return prepared
