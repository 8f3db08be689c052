"""A run: settings and data in, a folder with its record out. The record is what every table and figure is made from.

`train` makes the runs of experiments.
"""

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from weakref import WeakSet

from torch import nn
from torch.optim import Optimizer, lr_scheduler, swa_utils

from tinyclf.data.augment import Transform
from tinyclf.data.cache import Packed, load_data
from tinyclf.data.loader import ImageLoader
from tinyclf.experiments import catalog, names, rules
from tinyclf.experiments.parent import CHECKPOINT, changes, find_parent, is_finished, start_of
from tinyclf.experiments.recipe import build_recipe, compute, expected_recipe, train_loader, val_loader
from tinyclf.experiments.record import RECORD, Record, read_record, write_record
from tinyclf.experiments.settings import Settings, default_name
from tinyclf.training import checkpoint
from tinyclf.training.device import connected, device_line, precisions, supported_precision, this_process
from tinyclf.training.evaluate import Evaluation, enough_memory, evaluate, say
from tinyclf.training.identity import differences, headlines
from tinyclf.training.loop import BeforeStep, Epoch, Loss, Recipe, Training
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable

TRAINED: WeakSet[nn.Module] = WeakSet()  # every model that a run of this process has trained


class Run:
    """One training run and its folder, `reports/<dataset>/<name>/`.

    The folder holds the checkpoints (git-ignored), and after `finish` the record (see record.py). `fit` continues a
    checkpoint of the same settings, data, initial weights and recipe, also to more epochs; one that differs is never
    mixed in. A name of the catalog, and a run without a name, takes no other recipe, initial weights or data than those
    of its settings.
    Raises TinyclfError for what rules.py refuses, and when the folder cannot be written or holds another run, naming
    the differences. Nothing recorded is replaced, unless the run continues it, or starts over by `force`.

    During `fit` and `finish`, no other process can train in the folder. Where another `Run` trained there between the
    two, as after a cell that was run again, the first one can no longer be recorded.
    """

    def __init__(self, settings: Settings, data: Packed, name: str = "", *, force: bool = False) -> None:
        rules.refuse_other_data(settings, data)
        self.process = this_process()
        self.device = self.process.device
        if settings.precision == "auto":  # the record of a run has the one that this stands for
            settings = Settings.of(dataclasses.asdict(settings) | {"precision": precisions(self.device)[0]})
        self.settings = settings
        self.data, self.force, self.started = data, force, False
        self.name = name or default_name(settings)
        self.has_own_name = bool(name) and names.family(name) not in catalog.read_experiments(settings.dataset)
        self.checkpoint = names.run_folder(self.name, settings.dataset) / CHECKPOINT
        rules.refuse_other_seed(self.name, settings)
        if settings.parent == self.name:
            raise TinyclfError(f"run {self.name!r} cannot start from itself: give it another name, or other weights")
        with self.process.main_process_first():  # which downloads weights
            self.parent = find_parent(settings, data.classes)
            self.about = start_of(self.name, settings, data, self.parent)
        self.by_settings = {key: self.about[key] for key in ("command", "overrides")}  # `fit` adds what is not in them
        self.folder = writable(self.checkpoint.parent)
        self._continue_from_checkpoint()

    def _continue_from_checkpoint(self) -> None:
        """Take over what a checkpoint says of the run. A checkpoint to be dropped stays until training starts."""
        saved = None if self.force else checkpoint.read(self.checkpoint)
        # A run that finished no epoch loses nothing by a new start. But if it started in this process, its model has
        # changed since, and the checkpoint still has the initial weights.
        self.fresh = saved is None or not (saved.about["history"] or self.started)
        if self.fresh and not (self.force or self.started) and (self.folder / RECORD).is_file():
            raise TinyclfError(f"{self.folder / RECORD} is there, and no checkpoint to go on from: {rules.FORCE}")
        if saved is None or self.fresh:
            return
        if different := changes(saved.about, self.about, self.settings):
            raise TinyclfError(f"{self.folder} holds another run ({'; '.join(different)}): {rules.FORCE}")
        kept = ("environments", "history", "script", "own_weights")
        self.about |= {key: saved.about[key] for key in kept if key in saved.about}

    def fit(
        self,
        model: nn.Module,
        criterion: Loss,
        optimizer: Optimizer,
        scheduler: lr_scheduler.LRScheduler | None = None,
        *,
        scheduler_interval: str = "epoch",
        ema: swa_utils.AveragedModel | None = None,
        before_step: BeforeStep | None = None,
        transform: Transform | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> list[Epoch]:
        """Train `model` in place, continuing from the checkpoint if there is one; returns the whole history.

        model: images float32 (B, 3, H, W) to logits (B, classes). criterion: of logits and labels, a mean over the
        batch. optimizer: of the model's parameters. scheduler: steps each `scheduler_interval`, `epoch` or `step`. ema:
        an average of the weights, updated after each step and evaluated in place of the model. before_step: is called
        before each step with the number of those before it, and may freeze parts of the model, or change which of them
        run; at the end all must. transform: of each batch of training images, augmented and resized, uint8 (B, 3, H,
        W) to such, as those of `torchvision.transforms.v2`; or a `v2.MixUp`, `v2.CutMix`, or choice of these, of
        normalised images and targets. torch's random numbers depend in it on the seed, the epoch and the step.
        on_epoch: is called with each new row of the history, in the first process, when its checkpoint is written; it
        may watch, and what it changes is not on record.
        `Recipe.identity` tells what decides the numbers from others. The compute on record is that of the settings.
        Raises TinyclfError when the checkpoint is of another recipe, when a name of the catalog is given to another
        recipe than its own, when this run is under way in another process, and for a model that was trained before.
        """
        recipe = Recipe(model, criterion, optimizer, scheduler, scheduler_interval, ema, before_step, transform)
        rules.refuse_other_parameters(recipe)
        self._identify(recipe)
        self.recipe, settings = recipe, self.settings
        train, val = (make(self.data, settings, self.process) for make in (train_loader, val_loader))
        with self._locked():
            self._start(recipe, train)
            training = Training(recipe, train, val, settings.epochs, settings.precision, on_epoch)
            training.save_to, training.about = self.checkpoint, self.about
            self.about["history"] = training.fit()
        return list(self.about["history"])

    def _identify(self, recipe: Recipe) -> None:
        """Note what is trained, and what it costs. What the settings do not say needs a name of its own."""
        data, about = self.data, self.about
        expected = expected_recipe(self.settings, data).identity()
        expected["data"] = f"sha256 {data.fingerprint}"
        texts = recipe.identity()
        about["recipe"] = headlines(texts)
        about["identity"] = texts | {"data": f"sha256 {about['data']['sha256']}"}
        other = differences(expected, about["identity"])
        if other and not self.has_own_name:
            text = "; ".join(f"{name}: {said} by its settings, {here} here" for name, (said, here) in other.items())
            raise TinyclfError(f"run {self.name!r} would be recorded as what it is not ({text}): give it another name")
        about["own_code"] = bool(other)
        about["overrides"] = self.by_settings["overrides"] | {name: here for name, (_, here) in other.items()}
        about["command"] = "" if other else self.by_settings["command"]  # none builds these
        about["compute"] = compute(recipe.model, self.settings, data, self.parent)

    def _locked(self) -> AbstractContextManager[None]:
        """The folder, held against other processes than those of this run."""
        busy = f"run {self.name} on {self.data.name} is under way already; wait for it, or give this one another name"
        return locked(self.folder / ".lock", busy) if self.process.is_main_process else nullcontext()

    def _start(self, recipe: Recipe, train: ImageLoader) -> None:
        """Refuse what cannot train, then drop the checkpoint of a run that starts over."""
        self._continue_from_checkpoint()  # again, as no other process changes it now
        if self.fresh and recipe.model in TRAINED:
            fault = f"run {self.name!r} would start with a model that is trained already"
            raise TinyclfError(f"{fault}: make it and its optimizer again")
        self._tell_weights(recipe.model)
        if to_train := len(self.about["history"]) < self.settings.epochs:
            rules.refuse_what_cannot_train(recipe, train, self.settings.precision)
            self._introduce(recipe)
        TRAINED.add(recipe.model)
        if self.fresh and self.process.is_main_process:
            self.checkpoint.unlink(missing_ok=True)
        self.process.wait_for_everyone()
        self.force, self.started = False, True  # so that this, interrupted and called again, goes on
        now = environment.describe(self.device, self.process.num_processes)
        if to_train and now not in self.about["environments"]:
            self.about["environments"].append(now)

    def _tell_weights(self, model: nn.Module) -> None:
        """Note initial weights other than those of the settings: a name of the catalog has none, and no command."""
        about = self.about
        if self.fresh:
            expected = build_recipe(self.settings, self.data).model
            about["own_weights"] = rules.own_weights(model, expected, about["weights"]["label"])
        if own := about.get("own_weights", ""):
            if not self.has_own_name:
                fault = f"run {self.name!r} would start with other weights than its settings make, of another seed or"
                raise TinyclfError(f"{fault} trained: make the model and its optimizer again, or give another name")
            about |= {"own_code": True, "command": "", "overrides": about["overrides"] | {"weights": own}}
            about["weights"] = about["weights"] | {"label": own}

    def _introduce(self, recipe: Recipe) -> None:
        """Print on what it trains, and own code by what it made; the script that this process runs is kept."""
        say(device_line(self.device))
        if self.about["own_code"]:
            say(f"own code, which no command repeats:\n{recipe.model}\n{recipe.transform or ''}".rstrip())
            with suppress(AttributeError, OSError, UnicodeError):  # a notebook has no file; its page has its code
                self.about["script"] = Path(sys.modules["__main__"].__file__ or "").read_text("utf-8")

    def is_recorded(self) -> bool:
        """Whether the folder holds the record of this very run, at its end, and it is not to start over."""
        finished = not self.force and is_finished(self.name, self.settings.dataset)
        return finished and bool(read_record(self.folder / RECORD)["settings"] == self.about["settings"])

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
            return evaluate(self.recipe.trained_model, loader, settings.epochs, precision=precision, flip_tta=flip_tta)

    def finish(self) -> Record:
        """Evaluate the trained model, write the record and its tables into the folder; returns the record.

        Raises TinyclfError where the folder does not hold the checkpoint of this very training any more.
        """
        size, flip = self.settings.eval_size, self.settings.flip_tta
        with self._locked():
            saved = checkpoint.read(self.checkpoint)
            if saved is None or saved.about["history"] != self.about["history"]:
                fault = f"{self.checkpoint} is that of another training since"
                raise TinyclfError(f"run {self.name!r} is not recorded: {fault}; fit again")
            also: Record = {"flip_tta": self.evaluate(flip_tta=True).summary() if flip else None}
            also["other_sizes"] = {str(size): self.evaluate(size).summary()} if size else {}
            # The time is not now: a finished run may be shown again years later
            return write_record(self.folder, self.about, self.evaluate(), saved.time, also)


def train(*experiments: catalog.Experiment) -> None:
    """Train experiments as their notebooks do, in this process or as one of several, to their records but no pages."""
    for experiment in experiments:
        if not experiment.trains:
            raise TinyclfError(f"there is nothing to train; `tinyclf run {experiment.name}` makes its page")
        settings = experiment.settings
        with connected():
            data = load_data(settings.dataset, settings.hold_out)
            run = Run(settings, data, experiment.name, force=experiment.parameters.get("force", False))
            if run.is_recorded():
                continue
            run.fit(**vars(build_recipe(settings, data)))
            if run.process.is_main_process:
                run.finish()
            run.process.wait_for_everyone()
