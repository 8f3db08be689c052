"""Which device a run computes on, told in its first line, on machines that are simulated."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from tinyclf.experiments import train
from tinyclf.experiments.run import with_precision
from tinyclf.experiments.settings import Settings
from tinyclf.experiments.train import check_device
from tinyclf.training import device
from tinyclf.training.device import Gpu, device_line, has_kernels
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
T4, P100 = (7, 5), (6, 0)
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]  # of torch for CUDA 13


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine with a GPU, or what looks like one."""

    def make(capability=None, architectures=BUILT, smi=None, cuda="13.0", error=None):
        def init():
            if error:
                raise RuntimeError(error)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4" if capability == T4 else "A GPU")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(device, "nvidia_gpu", lambda: smi)
        device.cuda_is_usable.cache_clear()

    yield make
    device.cuda_is_usable.cache_clear()


def test_a_gpu_that_is_used_is_named(machine):
    machine(T4)
    assert device_line(CUDA) == "device: cuda, Tesla T4, capability 7.5"
    assert device.cuda_is_usable()


def test_a_cpu_is_named_and_no_gpu_is_spoken_of_where_there_is_none(machine, monkeypatch):
    machine()
    for threads, said in ((1, "1 thread"), (2, "2 threads")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert device_line(CPU) == f"device: cpu, {environment.cpu_name()}, {said}"


def test_a_gpu_without_kernels_is_told_and_not_used(machine):
    machine(P100)
    assert not device.cuda_is_usable()
    assert "A GPU cannot be used: torch" in device_line(CPU) and "no kernels for its capability 6.0" in device_line(CPU)


def test_a_gpu_of_an_old_driver_is_told(machine):
    said = "The NVIDIA driver on your system is too old (found version 12020). Please update\nmore"
    machine(smi=Gpu("Tesla T4", "535.104.05"), error=said)
    line = device_line(CPU)
    assert "Tesla T4 cannot be used: its driver, 535.104.05, is older than the CUDA 13.0 of torch" in line


def test_a_gpu_beside_a_build_for_cpus_is_told(machine):
    machine(smi=Gpu("Tesla T4", "535.104.05"), cuda=None)
    assert "Tesla T4 cannot be used: torch" in device_line(CPU) and "a build without CUDA" in device_line(CPU)


def test_a_gpu_that_torch_does_not_see_for_another_reason_is_told_in_its_words(machine):
    machine(smi=Gpu("Tesla T4", "580"), error="No CUDA GPUs are available")
    assert "torch says: No CUDA GPUs are available" in device_line(CPU)


def test_the_driver_is_asked_for_gpus(monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: name)
    answers = SimpleNamespace(stdout="NVIDIA H100 80GB HBM3, 550.54.15\nanother, 550.54.15\n")
    monkeypatch.setattr(device.subprocess, "run", lambda *_, **__: answers)
    assert device.nvidia_gpu() == ("NVIDIA H100 80GB HBM3", "550.54.15")
    monkeypatch.setattr(answers, "stdout", "No devices were found\n")
    assert device.nvidia_gpu() is None

    def fail(*_, **__):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(device.subprocess, "run", fail)
    assert device.nvidia_gpu() is None
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    assert device.nvidia_gpu() is None


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ["sm_80", "sm_86", "sm_90"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((9, 0), ["sm_90a"], True),
        ((7, 0), BUILT, False),
        ((12, 0), BUILT, True),
        ((9, 0), ["gfx942"], True),
    ],
)
def test_kernels_run_within_a_major_version_or_are_compiled(capability, architectures, runs):
    assert has_kernels(capability, architectures) == runs


def test_the_best_precision_is_taken_and_what_a_gpu_lacks_is_refused_before_packing(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    monkeypatch.setattr(train, "this_process", lambda: SimpleNamespace(device=CUDA, is_main_process=True))
    machine(T4)
    for precision in ("bf16", "tf32"):
        said = rf"precision = '{precision}': needs a GPU of CUDA capability 8\.0 or more.*Tesla T4.* use fp16, or auto"
        with pytest.raises(TinyclfError, match=said):
            check_device(Settings(precision=precision))
    for precision in ("fp32", "fp16", "auto"):
        check_device(Settings(precision=precision))
    auto = Settings(precision="auto")
    assert with_precision(auto, CUDA).precision == "fp16" and with_precision(auto, MPS).precision == "fp32"
    machine((8, 0))
    assert with_precision(auto, CUDA).precision == "bf16"
    check_device(Settings(precision="tf32"))


def test_training_loads_no_data_that_it_cannot_train_on(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    monkeypatch.setattr(train, "load_data", lambda *_: pytest.fail("data were packed"))
    with pytest.raises(TinyclfError, match="precision = 'tf32'"):
        train.train_experiment("any", {"run_name": "any", "precision": "tf32"})


def test_the_record_has_the_versions_of_a_gpus_run(monkeypatch):
    monkeypatch.setattr(
        environment, "file_line", lambda path, key: "NVIDIA UNIX x86_64 Kernel Module  580.95.05  Sep 23"
    )
    found = environment.cuda_versions()
    assert found == {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": "580.95.05"}
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


def test_a_system_that_does_not_tell_its_memory_has_none_in_the_record(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(environment.os, "sysconf", unknown)
    assert environment.describe(CPU)["hardware"]["memory_gib"] is None
