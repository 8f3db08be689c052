"""The train loop: any model, loss, optimizer and scheduler, on one device or several, resumable after every epoch."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tinyclf.data.augment import MODEL, random
from tinyclf.data.loader import ImageLoader
from tinyclf.data.resize import has_float64
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.distributed import accelerate, share_buffers
from tinyclf.training.evaluate import evaluate
from tinyclf.training.guards import enough_memory, refuse_non_finite
from tinyclf.training.optim import start_momenta, update
from tinyclf.training.precision import autocast
from tinyclf.training.prepare import prepare
from tinyclf.training.progress import progress
from tinyclf.utils.errors import TinyclfError

Epoch = dict[str, float]  # one row of a history, see `fit`
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, classes) and labels (B,) or probabilities (B, classes)
BeforeStep = Callable[[int], None]  # of the number of steps that were made before


def fit(
    state: TrainingState,
    criterion: Loss,
    train: ImageLoader,
    val: ImageLoader,
    *,
    epochs: int,
    scheduler_interval: str = "epoch",
    before_step: BeforeStep | None = None,
    precision: str = "fp32",
    save_to: Path | None = None,
    about: dict[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> list[Epoch]:
    """Train the model of `state` in place, and evaluate it on `val` after each epoch.

    Returns one row an epoch: epoch (from 1), learning_rate (the highest of the parameter groups, in the middle of the
    epoch), train_loss, train_accuracy, val_loss, val_accuracy, seconds (training and evaluation), images_per_second
    (training alone), load (the machine's average of the last minute, by which to judge these two). Losses and
    accuracies (0..1) are means over images; the validation loss is cross-entropy in nats.
    The train figures are taken while the epoch trains, on its images as they were augmented. With `state.ema`, the
    average of the weights is evaluated.

    criterion: gives the mean over a batch. scheduler_interval: `epoch` or `step`, when the scheduler steps.
    before_step: is called before each step with the number of those before it, after an interruption as without one,
    and when training continues or is found finished. It may freeze parts of the model, or change which of them run.
    train, val: on the device of this process. Where `torchrun` started several processes, each gets its own part of
    every batch (see `ImageLoader`), and the result is that of one process but for rounding.
    save_to: a checkpoint file, written before the first epoch and after every one. Where it exists, training continues
    from it. about: what else the checkpoint shall say of the run; the history is added to it.
    report: called with a line for each epoch.
    Raises TinyclfError when the loss is not finite, naming epoch, step and learning rate, and when memory runs out.
    """
    accelerator = accelerate()
    model = prepare(state, accelerator, changes=before_step is not None)
    if precision == "fp16" and state.scaler is None:
        state.scaler = torch.amp.GradScaler(accelerator.device.type)  # its gradients would often round to 0
    if isinstance(criterion, nn.Module):
        criterion.to(accelerator.device)  # it may hold weights of classes
    report = report if accelerator.is_main_process else silent
    history = resume(state, save_to, about or {}, accelerator, report)
    if history and before_step:
        before_step(len(history) * len(train))
    if history:
        what = "continuing after" if len(history) < epochs else "nothing to train: this run reached"
        report(f"{what} epoch {len(history)} of {epochs}, as {save_to and save_to.name} holds it")
    for epoch in range(len(history) + 1, epochs + 1):
        row = one_epoch(
            model, state, criterion, train, val, epoch, scheduler_interval, precision, accelerator, before_step
        )
        history.append(row)
        if save_to and accelerator.is_main_process:
            checkpoint.save(save_to, state, (about or {}) | {"history": history})
        report(line(row, epochs))
    return history


def one_epoch(
    model: nn.Module,
    state: TrainingState,
    criterion: Loss,
    train: ImageLoader,
    val: ImageLoader,
    epoch: int,
    scheduler_interval: str,
    precision: str,
    accelerator: Accelerator,
    before_step: BeforeStep | None,
) -> Epoch:
    """Train for an epoch, evaluate, and step a scheduler that steps each epoch; returns the row of the history."""
    started = time.perf_counter()
    with enough_memory(train.batch_size):
        metrics = train_epoch(
            model, state, criterion, train, epoch, scheduler_interval, precision, accelerator, before_step
        )
        if train.parts > 1:
            share_buffers(state.model)
            share_buffers(state.trained_model)
        trained = time.perf_counter()
        evaluation = evaluate(state.trained_model, val, epoch, precision=precision, accelerator=accelerator)
    if isinstance(state.scheduler, ReduceLROnPlateau):
        state.scheduler.step(evaluation.loss)
    elif state.scheduler and scheduler_interval == "epoch":
        state.scheduler.step()
    return {
        "epoch": epoch,
        **metrics,
        "val_loss": evaluation.loss,
        "val_accuracy": evaluation.top1,
        "seconds": time.perf_counter() - started,
        "images_per_second": len(train.labels) / (trained - started),
        "load": os.getloadavg()[0],
    }


def resume(
    state: TrainingState,
    save_to: Path | None,
    about: dict[str, Any],
    accelerator: Accelerator,
    report: Callable[[str], None],
) -> list[Epoch]:
    """Load the checkpoint at `save_to` into `state`, or save the first one; returns the history so far.

    Raises TinyclfError where several processes do not see the same checkpoint.
    """
    saved = checkpoint.newest(save_to, report) if save_to else None
    accelerator.wait_for_everyone()  # before the first one changes files
    history: list[Epoch] = saved.about["history"] if saved else []
    if save_to and saved:
        checkpoint.restore(saved, state)
        if accelerator.is_main_process and saved.path != save_to:
            save_to.unlink(missing_ok=True)  # it is damaged, and must not replace the good one before it
    elif save_to and accelerator.is_main_process:
        checkpoint.save(save_to, state, about | {"history": []})
    if accelerator.num_processes > 1:
        epochs = accelerator.gather(torch.tensor([len(history)], device=accelerator.device)).tolist()
        if len(set(epochs)) > 1:
            raise TinyclfError(
                f"the processes do not see the same checkpoint: epoch {epochs} of it; let them share the reports folder"
            )
    return history


def train_epoch(
    model: nn.Module,
    state: TrainingState,
    criterion: Loss,
    train: ImageLoader,
    epoch: int,
    scheduler_interval: str = "epoch",
    precision: str = "fp32",
    accelerator: Accelerator | None = None,
    before_step: BeforeStep | None = None,
) -> Epoch:
    """One pass over `train` with a step for each batch; returns learning_rate, train_loss and train_accuracy.

    model: what to call, the model of `state` itself or its data-parallel wrapper.
    """
    model.train()
    # For dropout: an epoch must not depend on those before it.
    torch.manual_seed(int(random(train.seed, epoch, MODEL + train.part).integers(2**63)))
    device, count, name = train.device, len(train.labels), f"epoch {epoch} training"
    # Results of each batch stay on the device, so that no step waits for the host; and in one tensor, as thousands of
    # small ones, kept between the large ones that come and go, leave the heap in pieces (2.5 MB a step, measured).
    # float64 for a model in it; a Mac's GPU has none.
    losses = torch.zeros(len(train), dtype=torch.float64 if has_float64(device) else torch.float32, device=device)
    right = torch.zeros(count, dtype=torch.bool, device=device)
    check_every = 1 if device.type == "cpu" else 50  # steps, as a check of the loss waits for a GPU
    total_loss, middle_rate, slices = summed(criterion), 0.0, train.slices()
    for step, batch in enumerate(progress(train.epoch(epoch), name, len(train))):
        rate = max(float(group["lr"]) for group in state.optimizer.param_groups)
        middle_rate = rate if step == len(train) // 2 else middle_rate
        if before_step:
            before_step((epoch - 1) * len(train) + step)
        state.optimizer.zero_grad()
        with autocast(precision, device):
            logits = model(batch.images)
            loss = total_loss(logits, batch.targets)
        # Gradients are averaged over processes: times their number that is the sum, of the mean over the batch.
        share = torch.full_like(loss, train.parts / min(train.batch_size, count - step * train.batch_size))
        if state.scaler:
            loss.backward(state.scaler.scale(share))
            start_momenta(state.optimizer)
            state.scaler.step(state.optimizer)
            state.scaler.update()
        else:
            loss.backward(share)
            update(state.optimizer)
        if state.scheduler and scheduler_interval == "step":
            state.scheduler.step()
        if state.ema:
            state.ema.update_parameters(state.model)
        losses[step] = loss.detach()
        torch.eq(logits.detach().argmax(1), batch.labels, out=right[next(slices)])
        if (step + 1) % check_every == 0 or step + 1 == len(train):
            refuse_non_finite(losses[: step + 1], name, len(train), rate=rate)
    correct = right.sum()
    if accelerator is not None and train.parts > 1:
        losses, correct = accelerator.reduce(losses), accelerator.reduce(correct)
    return {
        "learning_rate": middle_rate,
        "train_loss": losses.cpu().double().sum().item() / count,
        "train_accuracy": correct.item() / count,
    }


def summed(criterion: Loss) -> Loss:
    """`criterion`, a mean over images, as their sum: what makes the mean over an epoch and over processes exact.

    Plain cross-entropy is asked for the sum itself, which rounds once less than a mean times a number.
    """
    if isinstance(criterion, nn.CrossEntropyLoss) and criterion.reduction == "mean" and criterion.weight is None:
        return nn.CrossEntropyLoss(
            ignore_index=criterion.ignore_index, reduction="sum", label_smoothing=criterion.label_smoothing
        )
    return lambda logits, targets: criterion(logits, targets) * len(targets)


def line(row: Epoch, epochs: int) -> str:
    """An epoch of a history as text."""
    return (
        f"epoch {row['epoch']:2d}/{epochs}  lr {row['learning_rate']:.0e}  "
        f"train {row['train_loss']:.3f} {row['train_accuracy']:.1%}  "
        f"val {row['val_loss']:.3f} {row['val_accuracy']:.1%}  "
        f"{row['seconds']:.0f} s  {row['images_per_second']:.0f} images/s"
    )


def silent(line: str) -> None:
    """Report nothing, as processes other than the first do."""
