"""What a training is refused for before its first step."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tinyclf.data.loader import ImageLoader
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.device import autocast, device_line, precisions
from tinyclf.training.loop import Plan
from tinyclf.utils.errors import TinyclfError, one_of


def refuse_what_cannot_train(state: TrainingState, criterion: Any, train: ImageLoader, plan: Plan) -> None:
    """Raise TinyclfError for what cannot train by `plan`. One forward pass of two images shows the outputs.

    It changes neither buffers nor random numbers, and leaves the model on the device, in evaluation mode.
    """
    one_of("scheduler_interval", plan.scheduler_interval, ("epoch", "step"))
    if isinstance(state.scheduler, ReduceLROnPlateau) and plan.scheduler_interval == "step":
        raise TinyclfError("scheduler: ReduceLROnPlateau needs a validation loss, so give scheduler_interval='epoch'")
    if isinstance(state.optimizer, torch.optim.LBFGS):
        raise TinyclfError("optimizer: LBFGS computes the loss several times a step, which this loop does not; use SGD")
    one_of("reduction of the criterion", getattr(criterion, "reduction", "mean"), ("mean",))
    one_of("precision", plan.precision, precisions(train.device), f"on this {device_line(train.device)}")
    images = next(train.epoch(1, plan.transform)).images[:2]
    model = state.model.to(train.device).eval()
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    cuda = [train.device] if train.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(cuda), autocast(plan.precision, train.device):
        outputs = model(images)
        for buffer, before in kept:
            buffer.copy_(before)
    wanted = (len(images), train.classes)
    if not isinstance(outputs, Tensor) or outputs.shape != wanted:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TinyclfError(f"model: expected logits {wanted} of {len(images)} images, one for each class, got {got}")
