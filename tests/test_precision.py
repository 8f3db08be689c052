"""Precision is refused where the device does not support it."""

import pytest
import torch

from tinyclf.training import precision
from tinyclf.training.precision import autocast, best_precision, supported_precision, unsupported_reason
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


def test_a_mac_computes_in_fp32_alone():
    mps = torch.device("mps")
    assert unsupported_reason("fp32", mps) is None and best_precision(mps) == "fp32"
    for name in ("tf32", "bf16", "fp16"):
        assert unsupported_reason(name, mps) == "needs a CUDA GPU, and this run is on mps"


def test_a_gpu_before_ampere_has_fp16_alone(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    for capability, lacks in (((7, 5), {"tf32", "bf16"}), ((8, 0), set()), ((9, 0), set())):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert {name for name in ("fp32", "tf32", "bf16", "fp16") if unsupported_reason(name, cuda)} == lacks
