"""The train loop: any model, loss, optimizer and scheduler, on one device or several, resumable after every epoch."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from torch.distributed import broadcast
from torch.optim import Optimizer, lr_scheduler, swa_utils

from tinyclf.data.augment import MODEL, Transform, random
from tinyclf.data.loader import ImageLoader
from tinyclf.data.resize import has_float64
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training import checkpoint
from tinyclf.training.device import autocast, data_parallel, keep_memory, this_process
from tinyclf.training.evaluate import enough_memory, evaluate, progress, refuse_non_finite, say
from tinyclf.training.identity import Texts, canonical
from tinyclf.utils.errors import TinyclfError

Epoch = dict[str, float]  # one row of a history, see `fit`
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, classes) and labels (B,) or probabilities (B, classes)
BeforeStep = Callable[[int], None]  # of the number of steps that were made before
LINE = (  # of an epoch
    "epoch {epoch:2d}/{epochs}  lr {learning_rate:.0e}  train {train_loss:.3f} {train_accuracy:.1%}  "
    "val {val_loss:.3f} {val_accuracy:.1%}  {seconds:.0f} s  {images_per_second:.0f} images/s"
)


@dataclass
class Recipe:
    """What trains, and how: what `Run.fit` takes, by the names of its arguments: `run.fit(**vars(recipe))`."""

    model: nn.Module
    criterion: Loss
    optimizer: Optimizer
    scheduler: lr_scheduler.LRScheduler | None = None
    scheduler_interval: str = "epoch"  # epoch | step: when the scheduler steps
    ema: swa_utils.AveragedModel | None = None
    before_step: BeforeStep | None = None  # may freeze parts of the model, or change which of them run
    transform: Transform | None = None  # of training images

    @property
    def trained_model(self) -> nn.Module:
        """The model to evaluate and to use: the average where there is one."""
        return self.ema.module if self.ema else self.model

    def identity(self) -> Texts:
        """What decides the numbers, as texts of which the first line sums each up: see identity.py."""
        model, optimizer, scheduler, ema = self.model, self.optimizer, self.scheduler, self.ema
        parts = (*model.named_parameters(), *model.named_modules())
        names = {id(part): f"the model's {name}".removesuffix("'s ") for name, part in parts}
        told = (optimizer, "the optimizer"), (scheduler, "the scheduler"), (ema, "the average")
        names |= {id(part): name for part, name in told if part is not None}
        count = sum(parameter.numel() for parameter in model.parameters())
        groups, rates = optimizer.param_groups, [float(group["lr"]) for group in optimizer.param_groups]
        made = scheduler.get_last_lr() if scheduler else [group.get("initial_lr", group["lr"]) for group in groups]
        by_hand = "" if rates == list(map(float, made)) else f", with rates set to {rates}"
        return {
            "model": f"{type(model).__name__}, {count:,} parameters\n{canonical(model)}",
            "criterion": canonical(self.criterion, names),
            "optimizer": canonical(optimizer) + by_hand,
            "scheduler": f"{canonical(scheduler)} each {self.scheduler_interval}" if scheduler else None,
            "ema": canonical(ema) if ema else None,
            "before_step": canonical(self.before_step, names) if self.before_step else None,
            "transform": canonical(self.transform, names) if self.transform else None,
        }


@dataclass
class Training:
    """A recipe while it trains, its model on the device in the form that is fastest there: the same but for rounding.

    train, val: on the device of this process. Of several processes, as by `torchrun`, each gets its own part of every
    batch (see `ImageLoader`), and the result is that of one process but for rounding.
    """

    recipe: Recipe
    train: ImageLoader
    val: ImageLoader
    epochs: int
    precision: str = "fp32"
    on_epoch: Callable[[Epoch], None] | None = None  # called with each new row of the history
    save_to: Path | None = None  # a checkpoint, written before the first epoch and after every one
    about: dict[str, Any] = field(default_factory=dict)  # what else the checkpoint shall say; it gets the history too
    process: PartialState = field(default_factory=this_process)

    def __post_init__(self) -> None:
        """Bring models and loss to the device."""
        recipe, device = self.recipe, self.process.device
        for model in (recipe.model, recipe.trained_model):
            model.to(device).to(memory_format=torch.channels_last)
            if device.type == "cpu":
                use_small_map_conv(model)
        if device.type == "cpu":
            keep_memory()
        # What is called in a step: in every process with the weights of the first one
        self.model = data_parallel(recipe.model, self.process, changes=recipe.before_step is not None)
        if recipe.ema and self.process.num_processes > 1:
            recipe.ema.module.load_state_dict(recipe.model.state_dict())
        if isinstance(recipe.criterion, nn.Module):
            recipe.criterion.to(device)
        # Gradients of fp16 would often round to 0; of any other precision, they stay as they are.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def fit(self) -> list[Epoch]:
        """Train the model in place, and evaluate it on `val` after each epoch.

        Returns one row an epoch: epoch (from 1), learning_rate (the highest of the parameter groups, in the middle of
        the epoch), train_loss, train_accuracy, val_loss, val_accuracy, seconds (training and evaluation),
        images_per_second (training alone), load (the machine's average of the last minute, by which to judge these
        two). Losses and accuracies (0..1) are means over images; the validation loss is cross-entropy in nats. The
        train figures are taken while the epoch trains, on its images as they were augmented. With `ema`, the average of
        the weights is evaluated.

        Where `save_to` exists, training continues from it; `before_step` is called also when it is found finished.
        Raises TinyclfError when the loss is not finite, naming epoch, step and learning rate, and when memory runs out.
        """
        history = self.resume()
        if history:
            if self.recipe.before_step:
                self.recipe.before_step(len(history) * len(self.train))
            what = "continuing after" if len(history) < self.epochs else "nothing to train: this run reached"
            say(f"{what} epoch {len(history)} of {self.epochs}")
        for epoch in range(len(history) + 1, self.epochs + 1):
            history.append(self.one_epoch(epoch))
            self.save(history)
            say(LINE.format(epochs=self.epochs, **history[-1]))
            if self.on_epoch and self.process.is_main_process:
                self.on_epoch(dict(history[-1]))
        return history

    def parts(self) -> dict[str, Any]:
        """What has a state, by name. A loss without weights and buffers has none."""
        held = vars(self.recipe) | {"scaler": self.scaler}
        return {name: part for name, part in held.items() if hasattr(part, "state_dict") and part.state_dict()}

    def save(self, history: list[Epoch]) -> None:
        """Write a checkpoint, in the first process, where there is a place for one."""
        if self.save_to and self.process.is_main_process:
            checkpoint.save(self.save_to, self.parts(), self.about | {"history": history})

    def resume(self) -> list[Epoch]:
        """Load the checkpoint where there is one, or save the first one; returns the history so far.

        Raises TinyclfError where several processes do not see the same checkpoint.
        """
        saved = checkpoint.read(self.save_to) if self.save_to else None
        history: list[Epoch] = saved.about["history"] if saved else []
        if len(set(epochs := gather_object([len(history)]))) > 1:
            raise TinyclfError(f"the processes see different checkpoints, of epochs {epochs}: let them share it")
        if saved:
            for name, part in self.parts().items():
                part.load_state_dict(saved.state[name])
        else:
            self.save(history)
        return history

    def one_epoch(self, epoch: int) -> Epoch:
        """Train for an epoch, evaluate, and step a scheduler that steps each epoch; returns the row of the history."""
        recipe, train, started = self.recipe, self.train, time.perf_counter()
        with enough_memory(train.batch_size):
            metrics = self.train_epoch(epoch)
            if train.parts > 1:  # in every process the running values of the first one's batch norms
                for buffer in (*recipe.model.buffers(), *recipe.trained_model.buffers()):
                    broadcast(buffer, 0)
            trained = time.perf_counter()
            evaluation = evaluate(recipe.trained_model, self.val, epoch, precision=self.precision)
        if isinstance(recipe.scheduler, lr_scheduler.ReduceLROnPlateau):
            recipe.scheduler.step(evaluation.loss)
        elif recipe.scheduler and recipe.scheduler_interval == "epoch":
            recipe.scheduler.step()
        return {
            "epoch": epoch,
            **metrics,
            "val_loss": evaluation.loss,
            "val_accuracy": evaluation.top1,
            "seconds": time.perf_counter() - started,
            "images_per_second": len(train.labels) / (trained - started),
            "load": os.getloadavg()[0],
        }

    def train_epoch(self, epoch: int) -> Epoch:
        """A step for each batch; returns learning_rate, train_loss and train_accuracy."""
        self.model.train()
        recipe, train, device = self.recipe, self.train, self.train.device
        # For dropout: an epoch must not depend on those before it.
        torch.manual_seed(int(random(train.seed, epoch, MODEL + train.part).integers(2**63)))
        count, steps, name = len(train.labels), len(train), f"epoch {epoch} training"
        # Results of each batch stay on the device, so that no step waits for the host; and in one tensor, as thousands
        # of small ones, kept between the large ones that come and go, leave the heap in pieces (2.5 MB a step).
        # float64 for a model in it; a Mac's GPU has none.
        losses = torch.zeros(steps, dtype=torch.float64 if has_float64(device) else torch.float32, device=device)
        right = torch.zeros(count, dtype=torch.bool, device=device)
        check_every = 1 if device.type == "cpu" else 50  # steps, as a check of the loss waits for a GPU
        total_loss, slices, rates = summed(recipe.criterion), train.slices(), list[float]()
        for step, batch in enumerate(progress(train.epoch(epoch, recipe.transform), name, steps)):
            rates.append(max(float(group["lr"]) for group in recipe.optimizer.param_groups))
            if recipe.before_step:
                recipe.before_step((epoch - 1) * steps + step)
            recipe.optimizer.zero_grad()
            with autocast(self.precision, device):
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
        recipe, scaler = self.recipe, self.scaler
        loss.backward(scaler.scale(torch.full_like(loss, factor)))
        scaler.step(recipe.optimizer)
        scaler.update()
        if recipe.scheduler and recipe.scheduler_interval == "step":
            recipe.scheduler.step()
        if recipe.ema:
            recipe.ema.update_parameters(recipe.model)


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
