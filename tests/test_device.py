"""Which device a run computes on, told in its first line, on machines that are simulated."""

import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from tinyclf.experiments.run import with_precision
from tinyclf.experiments.settings import Settings
from tinyclf.training import device
from tinyclf.training.device import (
    autocast,
    best_precision,
    device_line,
    has_kernels,
    refuse_unsupported,
    supported_precision,
    unsupported_reason,
)
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
T4, P100 = (7, 5), (6, 0)
LOW = ("tf32", "bf16", "fp16")
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]  # of torch for CUDA 13


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine with a GPU, or what looks like one."""

    def make(capability=None, architectures=BUILT, driver=False, error=None):
        def init():
            if error:
                raise RuntimeError(error)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4" if capability == T4 else "A GPU")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(device.shutil, "which", lambda name: name if driver else None)
        device.cuda_is_usable.cache_clear()

    yield make
    device.cuda_is_usable.cache_clear()


def test_what_computes_is_named_and_no_gpu_is_spoken_of_where_there_is_none(machine, monkeypatch):
    machine(T4)
    assert device_line(CUDA) == "device: cuda, Tesla T4, capability 7.5" and device.cuda_is_usable()
    machine()
    for threads, said in ((1, "1 thread"), (2, "2 threads")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert device_line(CPU) == f"device: cpu, {environment.cpu_name()}, {said}"


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ({"capability": P100}, "has no kernels for capability 6.0"),
        (
            {"error": "The NVIDIA driver is too old (found 12020).\nmore"},
            r"driver is too old \(found 12020\)\.; pytorch",
        ),
        ({"error": "No CUDA GPUs are available"}, "No CUDA GPUs are available"),
        ({}, "CUDA_VISIBLE_DEVICES may hide"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_told_with_the_reason_and_not_used(machine, gpu, said):
    machine(driver=True, **gpu)
    assert re.search(f"thread; this NVIDIA GPU is not used: torch .* says: .*{said}", device_line(CPU))
    assert not device.cuda_is_usable()


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ["sm_80", "sm_90"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((9, 0), ["sm_90a"], True),
        ((9, 0), ["gfx942"], True),
    ],
)
def test_kernels_run_within_a_major_version_or_are_compiled(capability, architectures, runs):
    assert has_kernels(capability, architectures) == runs


def test_the_best_precision_is_taken_and_what_a_gpu_lacks_is_refused(machine):
    machine(T4)
    for precision in ("bf16", "tf32"):
        said = rf"precision = '{precision}': needs a GPU of CUDA capability 8\.0 or more.*Tesla T4, has 7\.5; use fp16"
        with pytest.raises(TinyclfError, match=said):
            refuse_unsupported(precision, CUDA)
    for precision in ("fp32", "fp16", "auto"):
        refuse_unsupported(with_precision(Settings(precision=precision), CUDA).precision, CUDA)
    auto = Settings(precision="auto")
    assert with_precision(auto, CUDA).precision == "fp16" and with_precision(auto, MPS).precision == "fp32"
    machine((8, 0))
    assert with_precision(auto, CUDA).precision == "bf16"
    refuse_unsupported("tf32", CUDA)


def test_the_record_has_the_versions_of_a_gpus_run(monkeypatch):
    monkeypatch.setattr(
        environment, "file_line", lambda path, key: "NVIDIA UNIX x86_64 Kernel Module  580.95.05  Sep 23"
    )
    found = environment.cuda_versions()
    versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": "580.95.05"}
    assert found == {name: str(value) for name, value in versions.items()}
    assert environment.describe(CPU)["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("noted", "commit"),
    [
        ('{"url": "https://example.org", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}', "0123abc"),
        ('{"url": "file:///somewhere", "dir_info": {}}', None),
        (None, None),
    ],
)
def test_an_installed_package_knows_its_commit(noted, commit, monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "PROJECT", None)
    monkeypatch.setattr(environment, "distribution", lambda name: SimpleNamespace(read_text=lambda file: noted))
    assert environment.commit() == commit


def test_a_cpu_computes_in_bf16_where_it_has_instructions_for_it(monkeypatch):
    values = torch.rand(8, 8)
    monkeypatch.setattr(device, "cpu_flags", lambda: {"avx512_bf16"})
    with autocast("bf16", CPU):
        assert (values @ values).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (values @ values).dtype == torch.float32
    assert supported_precision("bf16", CPU) == "bf16"
    monkeypatch.setattr(device, "cpu_flags", lambda: {"avx2", "avx512f"})
    assert supported_precision("bf16", CPU) == "fp32"
    for precision, said in (("tf32", "needs a CUDA GPU"), ("bf16", "this CPU has no instructions")):
        with pytest.raises(TinyclfError, match=rf"{precision}.* {said}"):
            refuse_unsupported(precision, CPU)


@pytest.mark.parametrize("where", [CPU, CUDA])
def test_fp32_is_exact_whatever_torch_is_set_to(where):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    if where == CPU:
        flags = torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    before = [flag.fp32_precision for flag in flags]
    try:
        for flag in flags:
            flag.fp32_precision = "tf32"
        with warnings.catch_warnings(action="ignore"):  # there is no such device
            for precision, expected in (("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")):
                with autocast(precision, where):
                    assert [flag.fp32_precision for flag in flags] == [expected] * 2
                assert [flag.fp32_precision for flag in flags] == ["tf32"] * 2
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.fp32_precision = value


def test_a_flag_that_is_none_is_one_sentence(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "maybe")
    with pytest.raises(TinyclfError, match="ACCELERATE_USE_CPU = 'maybe': expected true or false"):
        device.this_process()


def test_a_mac_computes_in_fp32_alone_and_a_gpu_before_ampere_in_fp16_too(machine):
    assert best_precision(MPS) == "fp32"
    assert {unsupported_reason(name, MPS) for name in LOW} == {"needs a CUDA GPU, and this run is on mps"}
    for capability, lacks in (((7, 5), {"tf32", "bf16"}), ((8, 0), set()), ((9, 0), set())):
        machine(capability)
        assert {name for name in ("fp32", *LOW) if unsupported_reason(name, CUDA)} == lacks
