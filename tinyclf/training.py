"""The train loop: the published recipe, on one device, resumable after every epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from tinyclf import checkpoint
from tinyclf.batches import Batches
from tinyclf.errors import TinyclfError
from tinyclf.settings import Settings

Epoch = dict[str, float]  # one row of a history, see `fit`


def learning_rate(settings: Settings, epoch: int) -> float:
    """The step decay: rate of `epoch` (from 1). The published run stepped its scheduler at the end of an epoch."""
    return settings.learning_rate * settings.gamma ** ((epoch - 1) // settings.step_size)


def fit(
    model: nn.Module,
    train: Batches,
    val: Batches,
    settings: Settings,
    *,
    save_to: Path | None = None,
    about: dict[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> list[Epoch]:
    """Train all of `model` in place with cross-entropy and SGD, evaluating on `val` after each epoch.

    Returns one row an epoch: epoch (from 1), learning_rate, train_loss, train_accuracy, val_loss, val_accuracy,
    seconds (training and evaluation), images_per_second (training alone). Losses are in nats and, like accuracies
    (0..1), means over images. The train figures are taken while the epoch trains, so its model changes meanwhile.

    save_to: a checkpoint file, written before the first epoch and after every one. Where it exists, training continues
    from it, so that a model whose first epoch was interrupted starts as it did.
    about: what else the checkpoint shall say of the run; the history is added to it.
    report: called with a line for each epoch.
    Raises TinyclfError when the loss is not finite, naming epoch, step and learning rate.
    """
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum)
    history: list[Epoch] = []
    about = about or {}
    if save_to and save_to.is_file():
        history = checkpoint.read_about(save_to)["history"]
        checkpoint.load(save_to, model, optimizer)
    elif save_to:
        checkpoint.save(save_to, model, optimizer, about | {"history": []})
    if history:
        what = "continuing after" if len(history) < settings.epochs else "nothing to train: this run reached"
        report(f"{what} epoch {len(history)} of {settings.epochs}, as {save_to.name} holds it")
    for epoch in range(len(history) + 1, settings.epochs + 1):
        started = time.perf_counter()
        optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch)
        train_loss, train_accuracy = train_epoch(model, train, optimizer, epoch)
        trained = time.perf_counter()
        val_loss, val_accuracy = evaluate(model, val, epoch)
        row = {
            "epoch": epoch,
            "learning_rate": learning_rate(settings, epoch),
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": time.perf_counter() - started,
            "images_per_second": len(train.labels) / (trained - started),
        }
        history.append(row)
        if save_to:
            checkpoint.save(save_to, model, optimizer, about | {"history": history})
        report(
            f"epoch {epoch:2d}/{settings.epochs}  lr {row['learning_rate']:.0e}  "
            f"train {train_loss:.3f} {train_accuracy:.1%}  val {val_loss:.3f} {val_accuracy:.1%}  "
            f"{row['seconds']:.0f} s  {row['images_per_second']:.0f} images/s"
        )
    return history


def train_epoch(
    model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, epoch: int
) -> tuple[float, float]:
    """One pass over `batches` with a step for each; returns the mean loss and the accuracy over its images."""
    model.train()
    return one_pass(model, batches, epoch, optimizer)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, epoch: int = 0) -> tuple[float, float]:
    """Mean loss (nats) and top-1 accuracy (0..1) of `model` over all images, each counted once.

    epoch: the one that the model was trained for, to be named where the loss is not finite.
    """
    model.eval()
    return one_pass(model, batches, epoch, None)


def one_pass(
    model: nn.Module, batches: Batches, epoch: int, optimizer: torch.optim.Optimizer | None
) -> tuple[float, float]:
    # Sums over each batch stay on the device, so that no step waits for the host; and in one tensor, as thousands of
    # small ones, kept between the large ones that come and go, leave the heap in pieces (2.5 MB a step, measured).
    losses = torch.zeros(len(batches), dtype=torch.float64, device=batches.device)
    correct = torch.zeros((), dtype=torch.int64, device=batches.device)
    patience = 1 if batches.device.type == "cpu" else 50  # steps between two looks at the loss, which wait for a GPU
    steps = batches.epoch(epoch)
    name = f"epoch {epoch} {'validation' if optimizer is None else 'training'}"
    # disable=None: a bar where a terminal can show one, nothing elsewhere
    for step, (images, labels) in enumerate(tqdm(steps, name, len(batches), leave=False, disable=None)):
        logits = model(images)
        loss = cross_entropy(logits, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[step] = loss.detach().double() * len(labels)
        correct += (logits.detach().argmax(1) == labels).sum()
        if (step + 1) % patience == 0 or step + 1 == len(batches):
            refuse_non_finite(losses, name, optimizer)
    count = len(batches.labels)
    return losses.sum().item() / count, correct.item() / count


def refuse_non_finite(losses: Tensor, name: str, optimizer: torch.optim.Optimizer | None) -> None:
    """Raise TinyclfError at the first of a pass's losses that is NaN or infinite; `name` says which pass."""
    wrong = (~torch.isfinite(losses)).nonzero()
    if len(wrong):
        step = int(wrong[0])
        rate = "" if optimizer is None else f", learning rate {optimizer.param_groups[0]['lr']:g}"
        raise TinyclfError(
            f"the loss became {losses[step].item()} at {name} step {step + 1} of {len(losses)}{rate}: "
            "lower the learning rate, or look for what is wrong in the data or the starting weights"
        )
