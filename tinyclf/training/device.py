"""The device of a run in words, and why a GPU that is there is not used."""

import shutil
import subprocess
from functools import cache
from typing import NamedTuple

import torch

from tinyclf.utils.environment import cpu_name


class Gpu(NamedTuple):
    """An NVIDIA GPU as its driver names it, whether torch can use it or not."""

    name: str
    driver: str  # version


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
    found = False
    for architecture in architectures:
        kind, _, version = architecture.partition("_")
        digits = version.rstrip("abcdefghijklmnopqrstuvwxyz")  # of a few, as sm_90a
        if kind not in ("sm", "compute") or not digits.isdigit():
            continue
        found, least = True, divmod(int(digits), 10)
        if capability >= least and (kind == "compute" or capability[0] == least[0]):
            return True
    return not found


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
    return f"{gpu.name} cannot be used: {unavailable_reason(gpu)}" if gpu else ""


def unavailable_reason(gpu: Gpu) -> str:
    """Why torch does not see an NVIDIA GPU that the driver sees."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; install one with it, see pytorch.org"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        if "driver" in said and "too old" in said:
            cuda = f"the CUDA {torch.version.cuda} of torch {torch.__version__}"
            return f"its driver, {gpu.driver}, is older than {cuda} needs; update the driver, or install an older torch"
        return f"torch says: {said}"
    return "CUDA_VISIBLE_DEVICES may hide it"


def nvidia_gpu() -> Gpu | None:
    """The first GPU that `nvidia-smi` names; None where there is none, or no such command."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
        name, driver = lines[0].split(", ")
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None
    return Gpu(name, driver)
