"""The train loop: any model, loss, optimizer and scheduler, on one device or several, resumable after every epoch."""

import copy
import ctypes
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from torch.distributed import broadcast

from tinyclf.data.augment import MODEL, Transform, random
from tinyclf.data.loader import ImageLoader
from tinyclf.data.resize import has_float64
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.device import autocast, data_parallel, this_process
from tinyclf.training.evaluate import enough_memory, evaluate, progress, refuse_non_finite, say
from tinyclf.utils.errors import TinyclfError

Epoch = dict[str, float]  # one row of a history, see `fit`
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, classes) and labels (B,) or probabilities (B, classes)
BeforeStep = Callable[[int], None]  # of the number of steps that were made before
LINE = (  # of an epoch
    "epoch {epoch:2d}/{epochs}  lr {learning_rate:.0e}  train {train_loss:.3f} {train_accuracy:.1%}  "
    "val {val_loss:.3f} {val_accuracy:.1%}  {seconds:.0f} s  {images_per_second:.0f} images/s"
)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Plan:
    """How a model is trained."""

    epochs: int
    scheduler_interval: str = "epoch"  # epoch | step: when the scheduler steps
    before_step: BeforeStep | None = None  # may freeze parts of the model, or change which of them run
    transform: Transform | None = None  # of training images
    precision: str = "fp32"
    save_to: Path | None = None  # a checkpoint, written before the first epoch and after every one
    about: dict[str, Any] = field(default_factory=dict)  # what else the checkpoint shall say; it gets the history too
    on_epoch: Callable[[Epoch], None] | None = None  # called with each new row of the history


def fit(state: TrainingState, criterion: Loss, train: ImageLoader, val: ImageLoader, plan: Plan) -> list[Epoch]:
    """Train the model of `state` in place, and evaluate it on `val` after each epoch.

    Returns one row an epoch: epoch (from 1), learning_rate (the highest of the parameter groups, in the middle of the
    epoch), train_loss, train_accuracy, val_loss, val_accuracy, seconds (training and evaluation), images_per_second
    (training alone), load (the machine's average of the last minute, by which to judge these two). Losses and
    accuracies (0..1) are means over images; the validation loss is cross-entropy in nats.
    The train figures are taken while the epoch trains, on its images as they were augmented. With `state.ema`, the
    average of the weights is evaluated.

    Where the plan's `save_to` exists, training continues from it. `before_step` is called before each step with the
    number of those before it, after an interruption as without one, and when training is found finished.
    criterion: gives the mean over a batch. train, val: on the device of this process. Where `torchrun` started several
    processes, each gets its own part of every batch (see `ImageLoader`), and the result is that of one process but for
    rounding.
    Raises TinyclfError when the loss is not finite, naming epoch, step and learning rate, and when memory runs out.
    """
    training = Training(state, criterion, train, val, plan)
    history = training.resume()
    if history:
        if plan.before_step:
            plan.before_step(len(history) * len(train))
        what = "continuing after" if len(history) < plan.epochs else "nothing to train: this run reached"
        say(f"{what} epoch {len(history)} of {plan.epochs}")
    for epoch in range(len(history) + 1, plan.epochs + 1):
        history.append(training.one_epoch(epoch))
        training.save(history)
        say(LINE.format(epochs=plan.epochs, **history[-1]))
        if plan.on_epoch and training.process.is_main_process:
            plan.on_epoch(dict(history[-1]))
    return history


@dataclass
class Training:
    """A model that is being trained, on its device and in the form that is fastest there: the same but for rounding."""

    state: TrainingState
    criterion: Loss
    train: ImageLoader
    val: ImageLoader
    plan: Plan
    process: PartialState = field(default_factory=this_process)

    def __post_init__(self) -> None:
        """Bring models and loss to the device."""
        state, device = self.state, self.process.device
        for model in (state.model, state.trained_model):
            model.to(device).to(memory_format=torch.channels_last)
            if device.type == "cpu":
                use_small_map_conv(model)
        if device.type == "cpu":
            keep_memory()
        # What is called in a step: in every process with the weights of the first one
        self.model = data_parallel(state.model, self.process, changes=self.plan.before_step is not None)
        if state.ema and self.process.num_processes > 1:
            state.ema.module.load_state_dict(state.model.state_dict())
        # Gradients of fp16 would often round to 0; of any other precision, they stay as they are.
        state.scaler = state.scaler or torch.amp.GradScaler(device.type, enabled=self.plan.precision == "fp16")
        if isinstance(self.criterion, nn.Module):
            state.criterion = self.criterion.to(device)

    def save(self, history: list[Epoch]) -> None:
        """Write a checkpoint, in the first process, where the plan has a place for one."""
        if self.plan.save_to and self.process.is_main_process:
            checkpoint.save(self.plan.save_to, self.state, self.plan.about | {"history": history})

    def resume(self) -> list[Epoch]:
        """Load the checkpoint where there is one, or save the first one; returns the history so far.

        Raises TinyclfError where several processes do not see the same checkpoint.
        """
        saved = checkpoint.read(self.plan.save_to) if self.plan.save_to else None
        history: list[Epoch] = saved.about["history"] if saved else []
        if len(set(epochs := gather_object([len(history)]))) > 1:
            raise TinyclfError(f"the processes see different checkpoints, of epochs {epochs}: let them share it")
        if saved:
            checkpoint.restore(saved, self.state)
        else:
            self.save(history)
        return history

    def one_epoch(self, epoch: int) -> Epoch:
        """Train for an epoch, evaluate, and step a scheduler that steps each epoch; returns the row of the history."""
        state, train, started = self.state, self.train, time.perf_counter()
        with enough_memory(train.batch_size):
            metrics = self.train_epoch(epoch)
            if train.parts > 1:  # in every process the running values of the first one's batch norms
                for buffer in (*state.model.buffers(), *state.trained_model.buffers()):
                    broadcast(buffer, 0)
            trained = time.perf_counter()
            evaluation = evaluate(state.trained_model, self.val, epoch, precision=self.plan.precision)
        if isinstance(state.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            state.scheduler.step(evaluation.loss)
        elif state.scheduler and self.plan.scheduler_interval == "epoch":
            state.scheduler.step()
        return {
            "epoch": epoch,
            **metrics,
            "val_loss": evaluation.loss,
            "val_accuracy": evaluation.top1,
            "seconds": elapsed(started, time.perf_counter()),
            "images_per_second": len(train.labels) / elapsed(started, trained),
            "load": os.getloadavg()[0],
        }

    def train_epoch(self, epoch: int) -> Epoch:
        """A step for each batch; returns learning_rate, train_loss and train_accuracy."""
        self.model.train()
        train, device, optimizer = self.train, self.train.device, self.state.optimizer
        # For dropout: an epoch must not depend on those before it.
        torch.manual_seed(int(random(train.seed, epoch, MODEL + train.part).integers(2**63)))
        count, steps, name = len(train.labels), len(train), f"epoch {epoch} training"
        # Results of each batch stay on the device, so that no step waits for the host; and in one tensor, as thousands
        # of small ones, kept between the large ones that come and go, leave the heap in pieces (2.5 MB a step).
        # float64 for a model in it; a Mac's GPU has none.
        losses = torch.zeros(steps, dtype=torch.float64 if has_float64(device) else torch.float32, device=device)
        right = torch.zeros(count, dtype=torch.bool, device=device)
        check_every = 1 if device.type == "cpu" else 50  # steps, as a check of the loss waits for a GPU
        total_loss, slices, rates = summed(self.criterion), train.slices(), list[float]()
        for step, batch in enumerate(progress(train.epoch(epoch, self.plan.transform), name, steps)):
            rates.append(max(float(group["lr"]) for group in optimizer.param_groups))
            if self.plan.before_step:
                self.plan.before_step((epoch - 1) * steps + step)
            optimizer.zero_grad()
            with autocast(self.plan.precision, device):
                logits = self.model(batch.images)
                loss = total_loss(logits, batch.targets)
            # Gradients are averaged over processes: times their number that is the sum, of the mean over the batch.
            self.update(loss, train.parts / min(train.batch_size, count - step * train.batch_size))
            losses[step] = loss.detach()
            torch.eq(logits.detach().argmax(1), batch.labels, out=right[next(slices)])
            if (step + 1) % check_every == 0 or step + 1 == steps:
                refuse_non_finite(losses[: step + 1], name, steps, rate=rates[-1])
        losses, correct = reduce((losses, right.sum()), "sum")  # over processes
        mean, accuracy = losses.cpu().double().sum().item() / count, correct.item() / count
        return {"learning_rate": rates[len(rates) // 2], "train_loss": mean, "train_accuracy": accuracy}

    def update(self, loss: Tensor, factor: float) -> None:
        """Update the weights by the gradient of `loss` times `factor`, and what follows them in each step."""
        state, scaler = self.state, cast(torch.amp.GradScaler, self.state.scaler)
        loss.backward(scaler.scale(torch.full_like(loss, factor)))
        scaler.step(state.optimizer)
        scaler.update()
        if state.scheduler and self.plan.scheduler_interval == "step":
            state.scheduler.step()
        if state.ema:
            state.ema.update_parameters(state.model)


def elapsed(start: float, end: float) -> float:
    """Seconds between two times: more than 0, though a clock stands still or jumps back."""
    return max(end - start, 1e-6)


def keep_memory() -> None:
    """From now on, let this process keep the memory that it frees. Does nothing without glibc.

    glibc maps each block of more than 32 MB and unmaps it after use, so that the kernel zeroes all its pages at every
    step: in bf16, with batches of 100 at 224x224, a bare step of ResNet18 took 1.12 to 1.17 times as long.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def summed(criterion: Loss) -> Loss:
    """`criterion`, a mean over images, as their sum: what makes the mean over an epoch and over processes exact.

    Plain cross-entropy is asked for the sum itself, which rounds once less than a mean times a number.
    """
    if type(criterion) is nn.CrossEntropyLoss and criterion.weight is None:
        criterion = copy.copy(criterion)
        criterion.reduction = "sum"
        return criterion

    def total(logits: Tensor, targets: Tensor) -> Tensor:
        loss = criterion(logits, targets)
        if loss.numel() != 1:
            raise TinyclfError(f"criterion: expected one number, a mean over the batch, got {tuple(loss.shape)}")
        return loss * len(targets)

    return total
