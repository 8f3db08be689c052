"""Training of an experiment by its name, as its notebook does it, and what is checked before data are packed."""

from typing import Any

from tinyclf.data.cache import load_data
from tinyclf.experiments.parameters import RUN_NAME
from tinyclf.experiments.parent import checkpoint_of
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.run import Run, default_name, with_precision
from tinyclf.experiments.settings import Settings
from tinyclf.training import checkpoint
from tinyclf.training.device import refuse_unsupported, this_process, unsupported_reason
from tinyclf.training.loop import silent
from tinyclf.utils.errors import TinyclfError


def train_experiment(name: str, parameters: dict[str, Any]) -> None:
    """Train an experiment as its notebook does, in this process or as one of several, to the record but no page."""
    if RUN_NAME not in parameters:
        raise TinyclfError(f"there is nothing to train; `tinyclf run {name}` makes its page")
    settings = Settings.from_notebook(parameters)
    check_device(settings, parameters[RUN_NAME], force=parameters.get("force", False))
    data = load_data(settings.dataset, settings.hold_out)
    run = Run(settings, data, parameters[RUN_NAME], force=parameters.get("force", False))
    if run.is_recorded():
        return
    run.fit(**vars(build_recipe(settings, data)))
    if run.process.is_main_process:
        run.finish()
    run.process.wait_for_everyone()


def check_device(settings: Settings, name: str = "", *, force: bool = False) -> None:
    """Raise TinyclfError for a precision that the device does not support, unless the run has finished elsewhere.

    Call it before data are packed, which takes a while.
    """
    process = this_process()
    settings = with_precision(settings, process.device)
    if unsupported_reason(settings.precision, process.device):
        path = checkpoint_of(name or default_name(settings), settings.dataset)
        saved = None if force else checkpoint.newest(path, report=silent)
        if saved is None or len(saved.about["history"]) < settings.epochs:
            refuse_unsupported(settings.precision, process.device)
