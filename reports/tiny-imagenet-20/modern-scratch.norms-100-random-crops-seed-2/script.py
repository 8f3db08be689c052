"""An ablation with RandomResizedCrop, of half of the area or more, in place of pad and crop.

    python random_crops.py ABLATION SEED [WEIGHTS]
"""

import dataclasses
import sys

import torch
from torchvision.transforms import v2

from tinyclf import Run, load_data
from tinyclf.experiments.catalog import select
from tinyclf.experiments.names import family
from tinyclf.experiments.recipe import build_recipe

name, seed, *weights = sys.argv[1:]
(experiment,) = select([name], "tiny-imagenet-20", imagenet=weights[0] if weights else "", seeds=[int(seed)])
settings = dataclasses.replace(experiment.settings, crop_padding=0)
data = load_data(settings.dataset, settings.hold_out)
crop = v2.RandomResizedCrop(settings.input_size, scale=(0.5, 1.0))


def crop_each(images):
    """Crops of uint8 images (B, 3, H, W), each with draws of its own."""
    return torch.stack([crop(image) for image in images])


run = Run(settings, data, name=experiment.name.replace(family(experiment.name), f"{name}-random-crops"))
run.fit(**vars(build_recipe(settings, data)) | {"transform": crop_each})
run.finish()
