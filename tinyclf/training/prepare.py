"""What is to be trained, brought to the device in the form that is fastest there."""

import torch
from accelerate import Accelerator
from torch import nn

from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.distributed import data_parallel
from tinyclf.training.guards import keep_memory


def prepare(state: TrainingState, accelerator: Accelerator, *, changes: bool = False) -> nn.Module:
    """Bring the models of `state` to the device, in the layout that is fastest there; returns what to call in a step.

    The results stay the same but for rounding: on a CPU, convolutions of small maps become those of
    small_map_conv.py, and plain SGD updates all parameters in one pass (`fused`) unless it was told how to.
    changes: whether other parts of the model may run in one step than in another.
    """
    for model in (state.model, state.trained_model):
        model.to(accelerator.device).to(memory_format=torch.channels_last)
        if accelerator.device.type == "cpu":
            use_small_map_conv(model)
    for group in state.optimizer.param_groups:
        unset = group.get("fused") is None and group.get("foreach") is None
        if isinstance(state.optimizer, torch.optim.SGD) and unset and not group["dampening"]:  # see start_momenta
            group["fused"] = True
            state.optimizer._step_supports_amp_scaling = True  # as if it had been told so
    if accelerator.device.type == "cpu":
        keep_memory()
    # In every process with the weights of the first one
    parallel = data_parallel(state.model, accelerator, changes=changes)
    if accelerator.num_processes > 1 and state.ema and not state.ema.n_averaged:
        state.ema.module.load_state_dict(state.model.state_dict())
    return parallel
