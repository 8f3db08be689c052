"""A step that goes wrong says what to do."""

import pytest
import torch

from tinyclf import precision as numerics
from tinyclf.errors import TinyclfError
from tinyclf.precision import possible, precisely, refuse_non_finite


def test_the_first_loss_that_is_not_finite_is_named_by_its_step():
    losses = torch.tensor([1.0, 2.0, 3.0, float("inf"), float("nan")])
    with pytest.raises(TinyclfError, match=r"became inf at epoch 2 training step 4 of 9, learning rate 0\.01: "):
        refuse_non_finite(losses, "epoch 2 training", 9, rate=0.01)
    with pytest.raises(TinyclfError, match=r"at validation step 2 of 3: "):
        refuse_non_finite(losses, "validation", 3, each=2)
    refuse_non_finite(losses[:3], "validation", 3)


def test_low_precision_is_refused_on_a_cpu_that_has_no_instructions_for_it(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(TinyclfError, match=r"tf32.* needs a CUDA GPU"), precisely("tf32", cpu):
        pass
    monkeypatch.setattr(numerics, "cpu_flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(TinyclfError, match=r"bf16.* this CPU has no instructions"), precisely("bf16", cpu):
        pass
    assert possible("bf16", cpu) == "fp32"


def test_a_cpu_that_has_instructions_for_it_computes_in_bf16(monkeypatch):
    cpu, values = torch.device("cpu"), torch.rand(8, 8)
    monkeypatch.setattr(numerics, "cpu_flags", lambda: {"avx512_bf16"})
    with precisely("bf16", cpu):
        assert (values @ values).dtype == torch.bfloat16
    with precisely("fp32", cpu):
        assert (values @ values).dtype == torch.float32
    assert possible("bf16", cpu) == "bf16"
