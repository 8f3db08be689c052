"""Memory is kept for the next step; what goes wrong in a step says what to do."""

import platform
import subprocess
import sys

import pytest
import torch

from tinyclf.training.evaluate import enough_memory, refuse_non_finite
from tinyclf.utils.errors import TinyclfError

FAULTS = """
import resource, torch
from tinyclf.training.loop import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(32, 2**20)  # 128 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
torn = faults()
keep_memory()
faults()
print(torn, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept where malloc is glibc's")
def test_memory_that_is_kept_is_not_mapped_anew():
    child = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    torn, kept = map(int, child.stdout.split())
    assert torn >= 10 * 64  # pages of 2 MiB, where the kernel gives such
    assert kept < torn / 20


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
