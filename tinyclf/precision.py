"""What can go wrong with a step: the precision it is asked for, numbers that are not finite."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tinyclf.environment import cpu_flags
from tinyclf.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM


def possible(precision: str, device: torch.device) -> str:
    """`precision` where `device` can do it, else fp32: for using a model, not for training it."""
    return precision if refusal(precision, device) is None else "fp32"


def refusal(precision: str, device: torch.device) -> str | None:
    """Why `device` does not compute in `precision`; None where it does."""
    if precision == "fp32" or device.type == "cuda":
        return None
    if precision == "tf32" or device.type != "cpu":
        return f"needs a CUDA GPU, and this run is on {device.type}"
    return None if BF16_CPUS & cpu_flags() else "this CPU has no instructions for it, and would take many times as long"


@contextmanager
def precisely(precision: str, device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products of this context run in `precision`, one of PRECISIONS.

    fp32 is exact also on a GPU, where torch's own default for convolutions is tf32. Raises TinyclfError for tf32
    without a CUDA GPU, and for bf16 on a CPU without instructions for it.
    """
    if why := refusal(precision, device):
        raise TinyclfError(f"precision = {precision!r}: {why}; use fp32")
    if device.type != "cuda":
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
        return
    # Torch puts `conv` there at run time.
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def refuse_non_finite(losses: Tensor, name: str, steps: int, each: int = 1, rate: float | None = None) -> None:
    """Raise TinyclfError at the first loss that is NaN or infinite.

    losses: those of a pass from its first step on, `each` for a step; name: which pass it is, of how many steps.
    rate: the learning rate of a training pass.
    """
    wrong = (~torch.isfinite(losses)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        what = "" if rate is None else f", learning rate {rate:g}"
        raise TinyclfError(
            f"the loss became {losses[first].item()} at {name} step {first // each + 1} of {steps}{what}: lower "
            "the learning rate, or look for what is wrong in the data or the starting weights"
        )
