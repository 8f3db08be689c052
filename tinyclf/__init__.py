"""Tiny-ImageNet ResNet18 baselines, from raw data to accuracy tables and loss plots."""

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":  # file locks, processes and signals are those of POSIX
    raise ImportError("tinyclf runs on Linux and macOS. On Windows, use it in WSL2: https://aka.ms/wsl")

if TYPE_CHECKING:
    from tinyclf.data.cache import load_data as load_data
    from tinyclf.data.tiny_imagenet import TinyImageNet as TinyImageNet
    from tinyclf.experiments.run import Run as Run
    from tinyclf.experiments.settings import Settings as Settings

__version__ = "0.1.0"
EXPORTS = {
    "Run": "tinyclf.experiments.run",
    "Settings": "tinyclf.experiments.settings",
    "TinyImageNet": "tinyclf.data.tiny_imagenet",
    "load_data": "tinyclf.data.cache",
}
__all__ = list(EXPORTS)

# OpenMP's waiting threads spin for milliseconds by default, at the cost of whatever else the machine does: see
# docs/benchmarks.md. It reads this when torch is loaded, so that it has no effect on a torch that was imported before.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1500"

# Accelerate imports tqdm's bar for notebooks, which warns on every page where ipywidgets is not installed.
warnings.filterwarnings("ignore", message="IProgress not found")


def __getattr__(name: str) -> Any:
    """What the package exports, imported when it is first asked for: importing the package itself costs nothing."""
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(EXPORTS[name]), name)
