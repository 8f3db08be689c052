"""An ablation of which the head alone trains in the first epoch.

    python head_first.py ABLATION SEED WEIGHTS
"""

import sys

from tinyclf import Run, load_data
from tinyclf.experiments.catalog import select
from tinyclf.experiments.names import family
from tinyclf.experiments.recipe import build_recipe

name, seed, weights = sys.argv[1:]
(experiment,) = select([name], "tiny-imagenet-20", imagenet=weights, seeds=[int(seed)])
settings = experiment.settings
data = load_data(settings.dataset, settings.hold_out)
recipe = build_recipe(settings, data)
epoch = settings.steps(len(data.train.labels))  # in steps


def head_first(step):
    """Freeze all but the head in the first epoch."""
    for part, parameter in recipe.model.named_parameters():
        parameter.requires_grad_(step >= epoch or part.startswith("fc."))


recipe.before_step = head_first
run = Run(settings, data, name=experiment.name.replace(family(experiment.name), f"{name}-head-first"))
run.fit(**vars(recipe))
run.finish()
