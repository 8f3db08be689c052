"""A run: settings and data in, a folder with its record out. The record is what every table and figure is made from."""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import cast
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from tinyclf.data.cache import Packed
from tinyclf.experiments import catalog
from tinyclf.experiments.names import family
from tinyclf.experiments.parent import changes, checkpoint_of, find_parent, is_finished, start_of
from tinyclf.experiments.recipe import compute, expected_recipe, refuse_single_image, train_loader, val_loader
from tinyclf.experiments.record import RECORD, Record, read_record, write_record
from tinyclf.experiments.settings import Precision, Settings, default_name
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.describe import describe
from tinyclf.training.device import best_precision, device_line, refuse_unsupported, supported_precision, this_process
from tinyclf.training.evaluate import Evaluation, enough_memory, evaluate
from tinyclf.training.loop import BeforeStep, Epoch, Loss, Plan, fit, silent
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable

TRAINED: WeakSet[nn.Module] = WeakSet()  # every model that a run of this process has trained


class Run:
    """One training run and its folder, `reports/<dataset>/<name>/`.

    The folder holds the checkpoints (git-ignored), and after `finish` the record (see record.py). `fit` continues a
    checkpoint of the same settings, data, initial weights, model, loss, optimizer and scheduler, also to more epochs;
    one that differs is never mixed in. Raises TinyclfError when the folder cannot be written or holds another run,
    naming the differences.

    During `fit` and `finish`, no other process can train in the folder. Where another `Run` trained there between the
    two, as after a cell that was run again, the first one can no longer be recorded.
    """

    def __init__(self, settings: Settings, data: Packed, name: str = "", *, force: bool = False) -> None:
        if data.name != settings.dataset:
            raise TinyclfError(f"dataset = {settings.dataset!r}: the data are those of {data.name}, load them again")
        refuse_single_image(settings, len(data.train.labels))
        self.process = this_process()
        self.device = self.process.device
        self.settings = settings = with_precision(settings, self.device)
        self.data, self.force, self.started = data, force, False
        self.name = name or default_name(settings)
        self.has_own_name = bool(name) and family(name) not in catalog.read_experiments(settings.dataset)
        self.checkpoint = checkpoint_of(self.name, settings.dataset)
        if settings.parent == self.name:
            raise TinyclfError(f"run {self.name!r} cannot start from itself: give it another name, or other weights")
        with self.process.main_process_first():  # which downloads weights
            self.parent = find_parent(settings, data.classes)
            self.about = start_of(self.name, settings, data, self.parent)
        self.folder = writable(self.checkpoint.parent)
        self._continue_from_checkpoint()

    def _continue_from_checkpoint(self) -> None:
        """Take over what a checkpoint says of the run. A checkpoint to be dropped stays until training starts."""
        saved = None if self.force else checkpoint.newest(self.checkpoint, report=silent)
        # A run that finished no epoch loses nothing by a new start. But if it started in this process, its model has
        # changed since, and the checkpoint still has the initial weights.
        self.fresh = saved is None or not (saved.about["history"] or self.started)
        if saved is None and not self.force:
            checkpoint.refuse_older(self.checkpoint)
        if saved is None or self.fresh:
            return
        if different := changes(saved.about, self.about, self.settings):
            raise TinyclfError(
                f"{self.folder} holds another run ({'; '.join(different)}): give this one another name, "
                "or start over with --force (in a notebook: force = True)"
            )
        self.about |= {"environments": saved.about["environments"], "history": saved.about["history"]}

    def fit(
        self,
        model: nn.Module,
        criterion: Loss,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        *,
        scheduler_interval: str = "epoch",
        ema: AveragedModel | None = None,
        before_step: BeforeStep | None = None,
    ) -> list[Epoch]:
        """Train `model` in place, continuing from the checkpoint if there is one; returns the whole history.

        model: images float32 (B, 3, H, W) to logits (B, classes). criterion: of logits and labels, a mean over the
        batch. optimizer: of the model's parameters. scheduler: steps each `scheduler_interval`, `epoch` or `step`. ema:
        an average of the weights, updated after each step and evaluated in place of the model. before_step: is called
        before each step with the number of those before it, and may freeze parts of the model, or change which of them
        run; at the end all must. An object is told from others by its public numbers, texts and lists, which must not
        change. The compute on record is that of the settings.
        Raises TinyclfError when the checkpoint is of another recipe, when a name of the catalog is given to another
        recipe than its own, when this run is under way in another process, and for a model that was trained before.
        """
        self._set_recipe(describe(model, criterion, optimizer, scheduler, scheduler_interval, ema, before_step), model)
        self.state = TrainingState(model, optimizer, scheduler, ema)
        with self._locked():
            self._start(model)
            training, validation = (make(self.data, self.settings, self.process) for make in (train_loader, val_loader))
            epochs, precision = self.settings.epochs, self.settings.precision
            plan = Plan(epochs, scheduler_interval, before_step, precision, self.checkpoint, self.about)
            self.about["history"] = fit(self.state, criterion, training, validation, plan)
        return list(self.about["history"])

    def _set_recipe(self, recipe: dict[str, str | None], model: nn.Module) -> None:
        """Note what is trained, and what it costs. A recipe other than that of the settings needs a name of its own."""
        by_settings = expected_recipe(self.settings, len(self.data.classes), len(self.data.train.labels))
        expected = by_settings.describe()
        swapped = {name: text for name, text in recipe.items() if text != expected[name]}
        layers, expected_layers = (str(net).replace("(1, 1)", "1") for net in (model, by_settings.model))
        if layers != expected_layers:  # another pool or stride keeps the class and the number of parameters
            swapped.setdefault("model", f"{recipe['model']}, of other layers")
        if swapped and not self.has_own_name:
            text = "; ".join(f"{name}: {expected[name]} by its settings, {swapped[name]} here" for name in swapped)
            raise TinyclfError(f"run {self.name!r} would be recorded as what it is not ({text}): give it another name")
        if swapped:  # no command builds these
            self.about["overrides"] |= swapped
            self.about["command"] = ""
        cost = compute(model, self.settings, self.data, self.parent)
        self.about |= {"recipe": recipe, "layers": layers, "compute": cost}

    def _locked(self) -> AbstractContextManager[None]:
        """The folder, held against other processes than those of this run."""
        if not self.process.is_main_process:
            return nullcontext()
        busy = f"run {self.name} on {self.data.name} is under way already; wait for it, or give this one another name"
        return locked(self.folder / ".lock", busy)

    def _start(self, model: nn.Module) -> None:
        """Refuse what cannot train, then drop the checkpoint of a run that starts over."""
        self._continue_from_checkpoint()  # again, as no other process changes it now
        if to_train := len(self.about["history"]) < self.settings.epochs:
            refuse_unsupported(self.settings.precision, self.device)
            if self.process.is_main_process:
                print(device_line(self.device))
        if self.fresh and model in TRAINED:
            raise TinyclfError(
                f"run {self.name!r} would start with a model that is trained already: make it and its optimizer again"
            )
        TRAINED.add(model)
        if self.fresh and self.process.is_main_process:
            checkpoint.delete(self.checkpoint)
        self.process.wait_for_everyone()
        self.force, self.started = False, True  # so that this, interrupted and called again, goes on
        now = environment.describe(self.device, self.process.num_processes)
        if to_train and now not in self.about["environments"]:
            self.about["environments"].append(now)

    def is_recorded(self) -> bool:
        """Whether the folder holds the record of this very run, at its end, and it is not to start over."""
        if self.force or not is_finished(self.name, self.settings.dataset):
            return False
        return bool(read_record(self.folder / RECORD)["settings"] == self.about["settings"])

    def evaluate(self, input_size: int = 0, *, flip_tta: bool = False) -> Evaluation:
        """The metrics of the trained model on the validation images, in this process alone; call it after `fit`.

        input_size: pixels to resize them to instead of those that it was trained for. flip_tta: take the mean of the
        logits of each image and of its mirror image.
        """
        if not self.started:
            raise TinyclfError(f"run {self.name!r} has no trained model: call `fit` first")
        settings, precision = self.settings, supported_precision(self.settings.precision, self.device)
        with enough_memory(settings.batch_size):
            loader = val_loader(self.data, settings, self.process, input_size=input_size, alone=True)
            model = self.state.trained_model
            return evaluate(model, loader, settings.epochs, precision=precision, flip_tta=flip_tta)

    def finish(self) -> Record:
        """Evaluate the trained model, write the record and its tables into the folder; returns the record.

        Raises TinyclfError where the folder does not hold the checkpoint of this very training any more.
        """
        size = self.settings.eval_size
        with self._locked():
            saved = checkpoint.newest(self.checkpoint)
            if saved is None or saved.about["history"] != self.about["history"]:
                raise TinyclfError(
                    f"run {self.name!r} is not recorded: {self.checkpoint} is that of another training since; fit again"
                )
            return write_record(
                self.folder,
                self.name,
                self.about,
                self.evaluate(),
                saved.time,  # not now: a finished run may be shown again years later
                other_sizes={size: self.evaluate(size)} if size else {},
                flip_tta=self.evaluate(flip_tta=True) if self.settings.flip_tta else None,
            )


def with_precision(settings: Settings, device: torch.device) -> Settings:
    """`settings` with the precision that `auto` stands for on `device`: the record of a run has that one."""
    if settings.precision != "auto":
        return settings
    return dataclasses.replace(settings, precision=cast(Precision, best_precision(device)))
