"""The precision that convolutions and matrix products are computed in, and which device can do it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tinyclf.utils.environment import cpu_flags
from tinyclf.utils.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM


def supported_precision(precision: str, device: torch.device) -> str:
    """`precision` where `device` supports it, else fp32: for using a model, not for training it."""
    return precision if unsupported_reason(precision, device) is None else "fp32"


def unsupported_reason(precision: str, device: torch.device) -> str | None:
    """Why `device` does not support `precision`; None where it does."""
    if precision == "fp32" or device.type == "cuda":
        return None
    if precision == "tf32" or device.type != "cpu":
        return f"needs a CUDA GPU, and this run is on {device.type}"
    return None if BF16_CPUS & cpu_flags() else "this CPU has no instructions for it, and would take many times as long"


def refuse_unsupported(precision: str, device: torch.device) -> None:
    """Raise TinyclfError for tf32 without a CUDA GPU, and for bf16 on a CPU without instructions for it."""
    if reason := unsupported_reason(precision, device):
        raise TinyclfError(f"precision = {precision!r}: {reason}; use fp32")


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products of this context in `precision`: fp32, tf32 or bf16.

    fp32 is exact also on a GPU, where torch's own default for convolutions is tf32. Raises as `refuse_unsupported`.
    """
    refuse_unsupported(precision, device)
    if device.type != "cuda":
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
        return
    # Torch puts `conv` in place at run time.
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
