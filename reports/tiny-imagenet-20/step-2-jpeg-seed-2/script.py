"""Step 2 with the published JPEG step: the enlarged training images are saved as JPEG, quality 95, and read again.

    python jpeg_step.py SEED WEIGHTS
"""

import sys

from torchvision.transforms import v2

from tinyclf import Run, Settings, load_data
from tinyclf.experiments.recipe import build_recipe

seed, weights = int(sys.argv[1]), sys.argv[2]
step_2 = {"input_size": 224, "eval_size": 64, "kernel": "opencv", "flip": False}
settings = Settings("tiny-imagenet-20", weights=weights, epochs=3, precision="bf16", seed=seed, **step_2)
data = load_data(settings.dataset)
run = Run(settings, data, name=f"step-2-jpeg-seed-{seed}" if seed else "step-2-jpeg")
run.fit(**vars(build_recipe(settings, data)) | {"transform": v2.JPEG(95)})
run.finish()
