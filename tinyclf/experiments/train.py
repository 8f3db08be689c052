"""Training of an experiment by its name, as its notebook does it."""

from typing import Any

from tinyclf.data.cache import load_data
from tinyclf.experiments.cells import RUN_NAME
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.experiments.toml_files import Experiment
from tinyclf.training.device import connected
from tinyclf.utils.errors import TinyclfError


def train(*experiments: Experiment) -> None:
    """Train experiments to their records, one after the other."""
    for experiment in experiments:
        train_experiment(experiment.name, experiment.parameters)


def train_experiment(name: str, parameters: dict[str, Any]) -> None:
    """Train an experiment as its notebook does, in this process or as one of several, to the record but no page."""
    if RUN_NAME not in parameters:
        raise TinyclfError(f"there is nothing to train; `tinyclf run {name}` makes its page")
    settings = Settings.of(parameters)
    with connected():
        data = load_data(settings.dataset, settings.hold_out)
        run = Run(settings, data, parameters[RUN_NAME], force=parameters.get("force", False))
        if run.is_recorded():
            return
        run.fit(**vars(build_recipe(settings, data)))
        if run.process.is_main_process:
            run.finish()
        run.process.wait_for_everyone()
