"""The train loop: the published recipe, on one device or several, resumable after every epoch."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

from tinyclf import checkpoint
from tinyclf.loader import ImageLoader
from tinyclf.distributed import accelerate, shared
from tinyclf.errors import TinyclfError
from tinyclf.evaluate import evaluate
from tinyclf.guards import enough_memory, keep_memory
from tinyclf.precision import precisely, refuse_non_finite
from tinyclf.optim import Average, learning_rate, set_rate, sgd
from tinyclf.progress import progress
from tinyclf.settings import Settings

Epoch = dict[str, float]  # one row of a history, see `fit`


def fit(
    model: nn.Module,
    train: ImageLoader,
    val: ImageLoader,
    settings: Settings,
    *,
    save_to: Path | None = None,
    about: dict[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> list[Epoch]:
    """Train all of `model` in place with cross-entropy and SGD, evaluating on `val` after each epoch.

    Returns one row an epoch: epoch (from 1), learning_rate (in its middle), train_loss, train_accuracy, val_loss,
    val_accuracy, seconds (training and evaluation), images_per_second (training alone). Losses are in nats and, like
    accuracies (0..1), means over images. The train figures are taken while the epoch trains, so its model changes
    meanwhile, and on its images as they were mixed and with labels as they were smoothed. With `settings.ema_decay`, the
    average of the weights is what is evaluated after each epoch, and what `model` holds in the end.

    train, val: on the model's device. Where `accelerate launch` or `torchrun` started several processes, each is given
    its own part of every batch (see `ImageLoader`), and the result is that of one process but for rounding.
    save_to: a checkpoint file, written before the first epoch and after every one. Where it exists, training continues
    from it, so that a model whose first epoch was interrupted starts as it did.
    about: what else the checkpoint shall say of the run; the history is added to it.
    report: called with a line for each epoch.
    Raises TinyclfError when the loss is not finite, naming epoch, step and learning rate, and when memory runs out.
    """
    accelerator = accelerate()
    if accelerator.device.type == "cpu":
        keep_memory()
    parallel, optimizer = shared(model, accelerator), sgd(model, settings)
    average = Average(model, settings.ema_decay) if settings.ema_decay else None
    history: list[Epoch] = []
    about, first = about or {}, accelerator.is_main_process
    report = report if first else silent
    saved = checkpoint.newest(save_to, report) if save_to else None
    accelerator.wait_for_everyone()  # all have looked
    if save_to and saved:
        history = saved.about["history"]
        checkpoint.restore(saved, model, optimizer, average)
        if first and saved.path != save_to:
            save_to.unlink(missing_ok=True)  # damaged, and not to be kept in place of the good one before it
    elif save_to and first:
        checkpoint.save(save_to, model, optimizer, about | {"history": []}, average)
    refuse_other_starts(accelerator, len(history))
    if save_to and history:
        what = "continuing after" if len(history) < settings.epochs else "nothing to train: this run reached"
        report(f"{what} epoch {len(history)} of {settings.epochs}, as {save_to.name} holds it")
    for epoch in range(len(history) + 1, settings.epochs + 1):
        started = time.perf_counter()
        train.input_size = settings.size_in(epoch)
        with enough_memory(settings.batch_size):
            train_loss, train_accuracy = train_epoch(parallel, train, optimizer, epoch, settings, average, accelerator)
            trained = time.perf_counter()
            with average.in_model() if average else nullcontext():
                result = evaluate(model, val, epoch, precision=settings.precision, accelerator=accelerator)
        row = {
            "epoch": epoch,
            "learning_rate": learning_rate(settings, epoch - 0.5),
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": result.loss,
            "val_accuracy": result.top1,
            "seconds": time.perf_counter() - started,
            "images_per_second": len(train.labels) / (trained - started),
        }
        history.append(row)
        if save_to and first:
            checkpoint.save(save_to, model, optimizer, about | {"history": history}, average)
        report(
            f"epoch {epoch:2d}/{settings.epochs}  lr {row['learning_rate']:.0e}  "
            f"train {train_loss:.3f} {train_accuracy:.1%}  val {result.loss:.3f} {result.top1:.1%}  "
            f"{row['seconds']:.0f} s  {row['images_per_second']:.0f} images/s"
        )
    if average:
        average.put_into_model()
    return history


def refuse_other_starts(accelerator: Accelerator, epochs: int) -> None:
    """Raise TinyclfError unless all processes found so many epochs in the checkpoint."""
    if accelerator.num_processes > 1:
        found = accelerator.gather(torch.tensor([epochs], device=accelerator.device)).tolist()
        if len(set(found)) > 1:
            raise TinyclfError(
                f"the processes do not see the same checkpoint: epoch {found} of it; let them share the reports folder"
            )


def silent(line: str) -> None:
    """Report nothing, as processes other than the first do."""


def train_epoch(
    model: nn.Module,
    batches: ImageLoader,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    settings: Settings,
    average: Average | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[float, float]:
    """One pass over `batches` with a step for each; returns the mean loss and the accuracy over its images.

    optimizer: as `sgd` made it; average: what takes in the model after each step.
    """
    model.train()
    device, size, count = batches.device, batches.batch_size, len(batches.labels)
    # Sums over each batch stay on the device, so that no step waits for the host; and in one tensor, as thousands of
    # small ones, kept between the large ones that come and go, leave the heap in pieces (2.5 MB a step, measured).
    losses = torch.zeros(len(batches), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    patience = 1 if device.type == "cpu" else 50  # steps between two looks at the loss, which wait for a GPU
    name = f"epoch {epoch} training"
    for step, batch in enumerate(progress(batches.epoch(epoch), name, len(batches))):
        rate = learning_rate(settings, epoch - 1 + step / len(batches))
        set_rate(optimizer, rate)
        optimizer.zero_grad()
        with precisely(settings.precision, device):
            logits = model(batch.images)
            loss = cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=settings.label_smoothing)
            # Gradients are averaged over processes: times their number that is the sum, of the mean over the batch.
            (loss * (batches.parts / min(size, count - step * size))).backward()
        optimizer.step()
        if average:
            average.update((epoch - 1) * len(batches) + step + 1)
        losses[step] = loss.detach()
        correct += (logits.detach().argmax(1) == batch.labels).sum()
        if (step + 1) % patience == 0 or step + 1 == len(batches):
            refuse_non_finite(losses[: step + 1], name, len(batches), rate=rate)
    if accelerator is not None and batches.parts > 1:
        losses, correct = accelerator.reduce(losses), accelerator.reduce(correct)
    return losses.sum().item() / count, correct.item() / count
