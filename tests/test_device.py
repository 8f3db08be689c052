"""Which device a run computes on, told in its first line, on machines that are simulated."""

import re
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from tinyclf.training import device
from tinyclf.training.device import autocast, device_line, precisions, supported_precision
from tinyclf.utils import environment

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
T4 = (7, 5)


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine with a GPU, or what looks like one, and a torch for CUDA 13."""

    def make(capability=None, driver=False, error=None):
        built = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120"]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.cuda, "init", Mock(side_effect=error))
        monkeypatch.setattr(device.shutil, "which", lambda name: name if driver else None)
        device.cuda_is_usable.cache_clear()

    yield make
    device.cuda_is_usable.cache_clear()


def test_what_computes_is_named_and_no_gpu_is_spoken_of_where_there_is_none(machine, monkeypatch):
    for capability in (T4, (8, 9), (12, 0)):
        machine(capability)
        assert device.cuda_is_usable()
    machine(T4)
    assert device_line(CUDA) == "device: cuda, Tesla T4, capability 7.5"
    machine()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert device_line(CPU) == f"device: cpu, {environment.cpu_name()}, 2 threads"


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ({"capability": (6, 0)}, "has no kernels for capability 6.0"),
        (
            {"error": RuntimeError("The NVIDIA driver is too old (found 12020).\nmore")},
            r"driver is too old \(found 12020\)\.; pyt",
        ),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_told_with_the_reason_and_not_used(machine, gpu, said):
    machine(driver=True, **gpu)
    assert re.search(f"thread; this NVIDIA GPU is not used: torch .* says: .*{said}", device_line(CPU))
    assert not device.cuda_is_usable()


def test_auto_is_the_best_precision_that_a_device_has_instructions_for(machine, monkeypatch):
    for capability, expected in ((T4, ["fp16", "fp32"]), ((8, 0), ["bf16", "fp16", "tf32", "fp32"])):
        machine(capability)
        assert precisions(CUDA) == expected
    assert precisions(MPS) == ["fp32"]
    for flags, expected in (({"avx512_bf16"}, "bf16"), ({"avx2", "avx512f"}, "fp32")):
        monkeypatch.setattr(device, "cpu_flags", lambda flags=flags: flags)
        assert supported_precision("bf16", CPU) == precisions(CPU)[0] == expected


def test_an_installed_package_knows_its_commit(monkeypatch):
    monkeypatch.setattr(environment, "PROJECT", None)
    for noted, commit in (('{"vcs_info": {"commit_id": "0123abc"}}', "0123abc"), (None, None)):
        package = SimpleNamespace(read_text=Mock(return_value=noted))
        monkeypatch.setattr(environment, "distribution", Mock(return_value=package))
        assert environment.commit() == commit


@pytest.mark.parametrize("where", [CPU, CUDA])
@pytest.mark.filterwarnings("ignore")  # there may be no such device
def test_fp32_is_exact_whatever_torch_is_set_to(where):
    torchs = torch.backends
    flags = (torchs.mkldnn.matmul, torchs.mkldnn.conv) if where == CPU else (torchs.cuda.matmul, torchs.cudnn.conv)
    before = [flag.fp32_precision for flag in flags]
    try:
        for flag in flags:
            flag.fp32_precision = "tf32"
        for precision, expected in (("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")):
            with autocast(precision, where):
                assert [flag.fp32_precision for flag in flags] == [expected] * 2
            assert [flag.fp32_precision for flag in flags] == ["tf32"] * 2
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.fp32_precision = value


def test_bf16_computes_in_bf16_and_fp32_in_fp32():
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(precision, CPU):
            assert (torch.eye(8) @ torch.eye(8)).dtype == expected
