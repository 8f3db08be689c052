"""The device of a run: which one, why no GPU is used, in which precision it computes, and by how many processes."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from torch import nn
from torch.distributed import DistError

from tinyclf.models.ghost_batch_norm import GhostBatchNorm2d
from tinyclf.utils.environment import cpu_flags, cpu_name
from tinyclf.utils.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM
AMPERE = (8, 0)  # the first CUDA capability with bf16 and tf32: a T4, 7.5, emulates the one and ignores the other
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
    there = shutil.which("nvidia-smi")  # which comes with the driver
    return f"an NVIDIA GPU cannot be used: {unavailable_reason()}" if there else ""


def unavailable_reason() -> str:
    """Why torch sees no GPU where there is NVIDIA's driver."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; install one with it, see pytorch.org"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        old = f"; update the driver to one for CUDA {torch.version.cuda}, or install an older torch"
        return f"torch says: {said}{old if 'too old' in said else ''}"
    return "CUDA_VISIBLE_DEVICES may hide it"


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


def data_parallel(model: nn.Module, accelerator: Accelerator, *, changes: bool = False) -> nn.Module:
    """`model` for training in all processes of `accelerator`: batch norms see whole batches, gradients are averaged.

    The parameters are those of `model` itself. Ghost batch norm stays, as each process normalises its own parts of a
    batch; any other needs GPUs, whose processes share it.
    changes: whether a step may leave out parameters, for which the others then do not wait, and those that are frozen
    now may be trained later. Raises TinyclfError for parts that the processes cannot share evenly.
    """
    if accelerator.num_processes == 1:
        return model
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    ghosts = {layer.ghost_batches for layer in norms if isinstance(layer, GhostBatchNorm2d)}
    parts, together = max(ghosts, default=1), accelerator.device.type == "cuda" and not ghosts
    if norms and not together and parts % accelerator.num_processes:
        raise TinyclfError(
            f"ghost_batches = {parts}: {accelerator.num_processes} processes cannot share so many parts of a batch "
            "evenly; give another number of processes, or a number of parts that is a multiple of it"
        )
    if together:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=changes)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad] if changes else []
    for parameter in frozen:  # torch averages the gradients of those alone that have one when it wraps the model
        parameter.requires_grad_(True)
    prepared: nn.Module = accelerator.prepare_model(model)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return prepared
