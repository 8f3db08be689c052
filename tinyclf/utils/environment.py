"""The environment of a run: versions, commit and hardware, as plain values for its record."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclf import __version__
from tinyclf.utils.paths import PROJECT

if TYPE_CHECKING:
    import torch

PACKAGES = ("torchvision", "accelerate", "numpy", "pillow")
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # how OpenMP's threads wait, set by the user or in tinyclf/__init__.py


def describe(device: torch.device, processes: int = 1) -> dict[str, dict[str, object] | str | None]:
    """Versions of what decides the numbers, the commit of this repository, and the hardware behind `device`.

    processes: how many train on this machine; the threads are those of this process.
    """
    import torch  # here, because it takes seconds, and `commit` does without

    on_gpu = device.type == "cuda"
    versions: dict[str, object] = {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with its build, as +cu132
        **{name: version(name) for name in PACKAGES},
        **(cuda_versions() if on_gpu else {}),
        "tinyclf": __version__,
    }
    hardware: dict[str, object] = {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "waiting": {name: os.environ[name] for name in WAITING if name in os.environ},
        "system": f"{platform.system()} {platform.machine()}",
        **({"cudnn_benchmark": torch.backends.cudnn.benchmark} if on_gpu else {}),
    }
    return {"commit": commit(), "versions": versions, "hardware": hardware}


def cuda_versions() -> dict[str, object]:
    """Versions of CUDA and cuDNN that torch was built with, and of the driver that it runs on."""
    import torch

    # `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ...`
    words = file_line("/proc/driver/nvidia/version", "NVRM version").split()
    driver = next((word for word in words if word[0].isdigit() and "." in word), "unknown")
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version()), "driver": driver}


def git(*words: str) -> str | None:
    """What git says of this checkout; None where it refuses or is missing, which is told on standard error once."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # hooks set GIT_DIR
    asked = ["git", "-C", str(PROJECT), *words]
    try:
        return subprocess.run(asked, capture_output=True, text=True, env=own, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return warn_of_commit(getattr(error, "stderr", str(error)).strip())


@functools.lru_cache  # once for each reason
def warn_of_commit(reason: str) -> None:
    """Say that a record will lack the commit: of another user's checkout, git tells nothing, but what to do."""
    print(f"tinyclf: the commit of {PROJECT} is not recorded: {reason}", file=sys.stderr)


def is_checkout() -> bool:
    """Whether this code is a git checkout of its own: git would look further up, in another project's."""
    return PROJECT is not None and (PROJECT / ".git").exists()


def commit(*folders: str) -> str | None:
    """The commit of this code, with `-dirty` where its files were changed since; None where nothing tells it.

    It is that of the git checkout, or the one that pip installed from. folders: whose files count; by default those
    that decide a run's numbers.
    """
    if not is_checkout():
        return installed_commit()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *(folders or ("tinyclf", "notebooks")))
    head = git("rev-parse", "HEAD")
    return None if head is None or changed is None else head + "-dirty" * bool(changed)


def installed_commit() -> str | None:
    """The commit that pip installed this package from, as `pip install git+...` notes it; None of another origin."""
    try:
        noted: dict[str, dict[str, str]] = json.loads(distribution("tinyclf").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    return noted.get("vcs_info", {}).get("commit_id")


def usable_cores(groups: str = "/sys/fs/cgroup") -> int:
    """The cores that this process may use: those that it is bound to, or as many as its container has time of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of control groups 2 and 1
        with suppress(OSError, ValueError):  # there are none, or no limit, which is no number
            quota, period = (int(word) for file in files for word in Path(groups, file).read_text("ascii").split())
            cores = min(cores, max(1, quota // period)) if quota > 0 else cores
    return cores


def cpu_name() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    return file_line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """What the processor can do, in Linux's words; empty where it does not say."""
    return set((file_line("/proc/cpuinfo", "flags") or file_line("/proc/cpuinfo", "Features")).split())


def file_line(path: str, key: str) -> str:
    """What follows the colon in the first line of a file that starts with `key`; empty where there is none."""
    with suppress(OSError), open(path, encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
    return ""
