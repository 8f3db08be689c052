"""Precision is refused where the device does not support it."""

import pytest
import torch

from tinyclf.training import precision
from tinyclf.training.precision import autocast, supported_precision
from tinyclf.utils.errors import TinyclfError


def test_low_precision_is_refused_on_a_cpu_that_has_no_instructions_for_it(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(TinyclfError, match=r"tf32.* needs a CUDA GPU"), autocast("tf32", cpu):
        pass
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(TinyclfError, match=r"bf16.* this CPU has no instructions"), autocast("bf16", cpu):
        pass
    assert supported_precision("bf16", cpu) == "fp32"


def test_a_cpu_that_has_instructions_for_it_computes_in_bf16(monkeypatch):
    cpu, values = torch.device("cpu"), torch.rand(8, 8)
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    with autocast("bf16", cpu):
        assert (values @ values).dtype == torch.bfloat16
    with autocast("fp32", cpu):
        assert (values @ values).dtype == torch.float32
    assert supported_precision("bf16", cpu) == "bf16"
