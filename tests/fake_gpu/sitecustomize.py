"""A GPU that is none: with this folder in PYTHONPATH, the CPU computes what is asked of `cuda`, and torch sees one.

    PYTHONPATH=tests/fake_gpu DATASET=mini benchmarks/gpu.sh

It shows that what is for a GPU runs, and what it prints and records; neither speed nor a GPU's rounding.
"""

from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode

FIXED = {
    **{"is_available": True, "device_count": 1, "current_device": 0, "is_initialized": False},
    **{"get_device_name": "fake GPU", "get_device_capability": (9, 0), "get_arch_list": ["sm_90"]},
    **{"get_device_properties": SimpleNamespace(name="fake GPU", uuid="", major=9, minor=0, total_memory=2**36)},
    **dict.fromkeys(("init", "set_device", "synchronize", "empty_cache", "set_rng_state", "manual_seed_all")),
    **{"is_bf16_supported": True, "max_memory_allocated": 0, "reset_peak_memory_stats": None},
}


def real(value):
    """The CPU in place of the GPU; anything else as it is."""
    name = str(value) if isinstance(value, str | torch.device) else ""
    return torch.device("cpu") if name == "cuda" or name.startswith("cuda:") else value


class OnTheCpu(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:  # a name alone
            return function(*args, **kwargs or {})
        return function(*map(real, args), **{name: real(value) for name, value in (kwargs or {}).items()})


class Autocast(torch.autocast):
    def __init__(self, device_type, dtype=None, **options):
        dtype = torch.bfloat16 if dtype == torch.float16 else dtype  # for which CPUs lack instructions
        super().__init__(str(real(device_type)), dtype, **options)


class GradScaler(torch.amp.GradScaler):
    def __init__(self, device="cuda", **options):
        super().__init__(str(real(device)), **options)


for name, value in FIXED.items():
    setattr(torch.cuda, name, lambda *_, _value=value, **__: _value)
torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
torch.accelerator.current_device_index, torch.accelerator.set_device_index = lambda: 0, lambda _: None
torch.autocast, torch.amp.GradScaler = Autocast, GradScaler
torch.Tensor.is_cuda, torch.Tensor.pin_memory = property(lambda tensor: True), lambda tensor, *_: tensor
OnTheCpu().__enter__()
