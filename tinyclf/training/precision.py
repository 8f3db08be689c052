"""The precision that convolutions and matrix products are computed in, and which device can do it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tinyclf.utils.environment import cpu_flags
from tinyclf.utils.errors import TinyclfError

BF16_CPUS = {"avx512_bf16", "amx_bf16", "bf16"}  # what Linux calls the instructions; the last on ARM
AMPERE = (8, 0)  # the first CUDA capability with bf16 and tf32: a T4, 7.5, emulates the one and ignores the other
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def best_precision(device: torch.device) -> str:
    """The quickest precision of `device` that is exact enough for our recipes: what `precision = auto` stands for."""
    return next(name for name in ("bf16", "fp16", "fp32") if unsupported_reason(name, device) is None)


def supported_precision(precision: str, device: torch.device) -> str:
    """`precision` where `device` supports it, else fp32: for using a model, not for training it."""
    return precision if unsupported_reason(precision, device) is None else "fp32"


def unsupported_reason(precision: str, device: torch.device) -> str | None:
    """Why `device` does not support `precision`; None where it does."""
    if precision == "fp32":
        return None
    if device.type == "cuda":
        return old_gpu_reason(precision, device)
    if precision in ("tf32", "fp16") or device.type != "cpu":
        return f"needs a CUDA GPU, and this run is on {device.type}"
    return None if BF16_CPUS & cpu_flags() else "this CPU has no instructions for it, and would take many times as long"


def old_gpu_reason(precision: str, device: torch.device) -> str | None:
    """Why a CUDA GPU does not support tf32 or bf16: it is too old; None where it supports them, and for fp16."""
    major, minor = torch.cuda.get_device_capability(device)
    if precision == "fp16" or (major, minor) >= AMPERE or torch.version.hip:
        return None
    name = torch.cuda.get_device_name(device)
    return f"needs a GPU of CUDA capability 8.0 or more, and this one, {name}, has {major}.{minor}, which has fp16"


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
    low = LOW.get(precision)
    if device.type != "cuda":
        with torch.autocast(device.type, low or torch.bfloat16, enabled=low is not None):
            yield
        return
    # Torch puts `conv` in place at run time.
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        with torch.autocast("cuda", low or torch.bfloat16, enabled=low is not None):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
