"""The names that stems and initial weights can have. Imports no torch, so that settings are checked without it."""

from typing import Literal, get_args

Stem = Literal["imagenet", "small", "small-pool", "sub-pixel"]
STEMS: tuple[str, ...] = get_args(Stem)
NAMED_WEIGHTS = ("none", "imagenet", "mini")
RUN = "run:"  # starts the name of weights that are another run's
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FILE = f"the path of a state dict ({', '.join(SUFFIXES)})"


def is_file(weights: str) -> bool:
    """Whether `weights` are the path of a state dict, not a name."""
    return weights.endswith(SUFFIXES) and not weights.startswith(RUN)
