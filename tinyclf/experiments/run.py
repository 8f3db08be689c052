"""A run: settings and data in, a folder with its record out. The record is what every table and figure is made from."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from tinyclf.data.packed import Packed
from tinyclf.experiments import catalog
from tinyclf.experiments.compute import compute
from tinyclf.experiments.identity import default_name, identity, identity_differences
from tinyclf.experiments.initial import checkpoint_of, describe_initial_weights, is_finished
from tinyclf.experiments.names import check_name, family
from tinyclf.experiments.recipe import expected_recipe, train_loader, val_loader
from tinyclf.experiments.record import RECORD, Record, read_record, write_record
from tinyclf.experiments.settings import Settings
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.describe import describe
from tinyclf.training.device import (
    best_precision,
    device_line,
    refuse_unsupported,
    supported_precision,
    this_process,
)
from tinyclf.training.evaluate import Evaluation, enough_memory, evaluate
from tinyclf.training.loop import BeforeStep, Epoch, Loss, Plan, fit, silent
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable

TRAINED: WeakSet[nn.Module] = WeakSet()  # every model that a run of this process has trained
HOLDERS: WeakValueDictionary[Path, "Run"] = WeakValueDictionary()  # by folder: fitted, not recorded, and so locked


class Run:
    """One training run and its folder, `reports/<dataset>/<name>/`.

    The folder holds the checkpoints (git-ignored), and after `finish` the record (see record.py). `fit` continues a
    checkpoint of the same settings, data, initial weights, model, loss, optimizer and scheduler, also to more epochs;
    one that differs is never mixed in. Raises TinyclfError when the folder cannot be written or holds another run,
    naming the differences.

    From `fit` to `finish`, no other process can train in the folder. Another `Run` of this process can, as after a cell
    that was run again, and the first one can then no longer be recorded.
    """

    def __init__(self, settings: Settings, data: Packed, name: str = "", *, force: bool = False) -> None:
        self.process = this_process()
        self.device = self.process.device
        settings = with_precision(settings, self.device)
        self.settings, self.data, self.force, self.started = settings, data, force, False
        self.lock = ExitStack()
        self.has_own_name = bool(name) and family(name) not in catalog.read_experiments(settings.dataset)
        self.name = name or default_name(settings)
        check_name(self.name)
        if data.name != settings.dataset:
            raise TinyclfError(f"dataset = {settings.dataset!r}: the data are those of {data.name}, load them again")
        refuse_single_image(settings, len(data.train.labels))
        if settings.parent == self.name:
            raise TinyclfError(f"run {self.name!r} cannot start from itself: give it another name, or other weights")
        self.checkpoint = checkpoint_of(self.name, settings.dataset)
        with self.process.main_process_first():  # which downloads them
            weights = describe_initial_weights(settings, data.classes)
        self.folder = writable(self.checkpoint.parent)
        self.about = identity(self.name, settings, data, weights)
        self._continue_from_checkpoint()

    def _continue_from_checkpoint(self) -> None:
        """Take over what a checkpoint says of the run. A checkpoint to be dropped stays until training starts."""
        saved = None if self.force else checkpoint.newest(self.checkpoint, report=silent)
        # A run that finished no epoch loses nothing by a new start. But if it started in this process, its model has
        # changed since, and the checkpoint still has the initial weights.
        self.fresh = saved is None or not (saved.about["history"] or self.started)
        if saved is None or self.fresh:
            return
        if different := identity_differences(saved.about, self.about, self.settings):
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
        batch. optimizer: of the model's parameters. scheduler: steps each `epoch` or each `step`, as
        `scheduler_interval` says. ema: an average of the weights, updated after each step and evaluated in place of
        the model; any of torch's `AveragedModel`. before_step: is called before each step with the number of those
        before it, and may freeze parts of the model, or change which of them run. At the end all must run, for
        `tinyclf predict` to see the same model. An object is told from others by its public numbers, texts and lists,
        which must not change. The compute on record is that of the settings.
        Raises TinyclfError when the checkpoint is of another recipe, when a name of the catalog is given to another
        recipe than its own, when this run is under way in another process, and when it would start with a model that
        was trained before in this process.
        """
        self._set_recipe(describe(model, criterion, optimizer, scheduler, scheduler_interval, ema, before_step), model)
        self.state = TrainingState(model, optimizer, scheduler, ema)
        with self._locked() as lock:
            self._continue_from_checkpoint()  # again, as no other process changes it now
            if len(self.about["history"]) < self.settings.epochs:
                refuse_unsupported(self.settings.precision, self.device)  # before a checkpoint is dropped
                if self.process.is_main_process:
                    print(device_line(self.device))
            if self.fresh and model in TRAINED:
                raise TinyclfError(
                    f"run {self.name!r} would start with a model that is trained already: make model, optimizer and "
                    "scheduler again (in a notebook: run their cells again)"
                )
            TRAINED.add(model)
            if self.fresh and self.process.is_main_process:
                checkpoint.delete(self.checkpoint)
            self.process.wait_for_everyone()
            self.force, self.started = False, True  # so that this, interrupted and called again, goes on
            now = environment.describe(self.device, self.process.num_processes)
            if len(self.about["history"]) < self.settings.epochs and now not in self.about["environments"]:
                self.about["environments"].append(now)
            with enough_memory(self.settings.batch_size):
                self.about["history"] = fit(
                    self.state,
                    criterion,
                    train_loader(self.data, self.settings, self.process),
                    val_loader(self.data, self.settings, self.process),
                    Plan(
                        self.settings.epochs,
                        scheduler_interval,
                        before_step,
                        self.settings.precision,
                        self.checkpoint,
                        self.about,
                    ),
                )
            self.lock = lock.pop_all()  # until it is recorded
            HOLDERS[self.folder] = self
        history: list[Epoch] = self.about["history"]
        return history

    def _locked(self) -> ExitStack:
        """The folder held against other processes; taken over from a run of this process that is not recorded."""
        busy = f"run {self.name} on {self.data.name} is under way already; wait for it, or give this one another name"
        if holder := HOLDERS.pop(self.folder, None):
            return holder.lock.pop_all()
        lock = ExitStack()
        if self.process.is_main_process:
            lock.enter_context(locked(self.folder / ".lock", busy))
        return lock

    def _set_recipe(self, recipe: dict[str, str | None], model: nn.Module) -> None:
        """Note what is trained, and what it costs. A recipe other than that of the settings needs a name of its own."""
        by_settings = expected_recipe(self.settings, len(self.data.classes), len(self.data.train.labels))
        expected = by_settings.describe()
        swapped = {name: text for name, text in recipe.items() if text != expected[name]}
        layers, expected_layers = (str(net).replace("(1, 1)", "1") for net in (model, by_settings.model))
        if layers != expected_layers:  # another pool or stride keeps the class and the number of parameters
            swapped.setdefault("model", f"{recipe['model']}, of other layers")
        if swapped and not self.has_own_name:
            changes = "; ".join(f"{name}: {expected[name]} by its settings, {swapped[name]} here" for name in swapped)
            raise TinyclfError(
                f"run {self.name!r} would be recorded as what it is not ({changes}): give it another name "
                "(in a notebook: run_name), or have `tinyclf train` build it from the settings"
            )
        if swapped:  # no command builds these
            self.about["overrides"] |= swapped
            self.about["command"] = ""
        self.about |= {"recipe": recipe, "layers": layers, "compute": compute(model, self.settings, self.data)}

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
        with enough_memory(self.settings.batch_size):
            loader = val_loader(self.data, self.settings, self.process, input_size=input_size, alone=True)
            precision = supported_precision(self.settings.precision, self.device)
            model = self.state.trained_model
            return evaluate(model, loader, self.settings.epochs, precision=precision, flip_tta=flip_tta)

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
    return dataclasses.replace(settings, precision=best_precision(device))


def refuse_single_image(settings: Settings, images: int) -> None:
    """Raise TinyclfError where batch norm would see a single pixel of a single image: it has no variance."""
    stride = 32 if settings.stem == "imagenet" else 8
    batches = {min(settings.batch_size, images), images % settings.batch_size} - {0}
    parts = [len(part) for batch in batches for part in torch.empty(batch).chunk(settings.ghost_batches)]
    if 1 in parts and settings.size_in(1) <= stride:
        raise TinyclfError(
            f"batch_size = {settings.batch_size}, ghost_batches = {settings.ghost_batches}: of {images:,} images, a "
            f"batch or a part of one is a single image, too few for batch norm at {settings.size_in(1)} pixels; give "
            f"another batch_size, or more than {stride} pixels"
        )
