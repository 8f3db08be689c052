"""What goes wrong in a step says what to do."""

import pytest
import torch

from tinyclf.training.evaluate import enough_memory, refuse_non_finite
from tinyclf.utils.errors import TinyclfError


def test_out_of_memory_says_which_batch_size_to_try_and_other_errors_pass():
    on_a_mac = RuntimeError("MPS backend out of memory (MPS allocated: 8.50 GB, max allowed: 9.07 GB)")
    for error in (torch.OutOfMemoryError("CUDA out of memory"), on_a_mac, MemoryError()):
        with pytest.raises(TinyclfError, match=r"batches of 100 images: try batch_size = 50"), enough_memory(100):
            raise error
    with pytest.raises(TinyclfError, match="out of memory"), enough_memory(100):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(100):
        raise RuntimeError("shapes do not match")


def test_the_first_loss_that_is_not_finite_is_named_by_its_step():
    losses = torch.tensor([1.0, 2.0, 3.0, float("inf"), float("nan")])
    with pytest.raises(TinyclfError, match=r"became inf at epoch 2 training step 4 of 9, learning rate 0\.01: "):
        refuse_non_finite(losses, "epoch 2 training", 9, rate=0.01)
    with pytest.raises(TinyclfError, match=r"at validation step 2 of 3: "):
        refuse_non_finite(losses, "validation", 3, per_step=2)
    refuse_non_finite(losses[:3], "validation", 3)
