"""The stand-in for ImageNet weights on `mini`: a ResNet18 trained on other synthetic classes, once, and cached."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save
from torch.nn.functional import cross_entropy

from tinyclf.data.augment import Augmentation
from tinyclf.data.cache import pack
from tinyclf.data.loader import ImageLoader
from tinyclf.data.synthetic import PRETRAIN, VERSION, make_dataset
from tinyclf.models.resnet import build_model
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.utils.files import atomic_write, locked
from tinyclf.utils.paths import data_dir

# Chosen for a minute on one core; it is no part of the published recipe.
EPOCHS = 2
SIZE = 40  # pixels
BATCH_SIZE = 25
LEARNING_RATE = 0.02  # peak of the one-cycle schedule
WEIGHT_DECAY = 5e-4
RECIPE = f"{VERSION} {PRETRAIN} {EPOCHS} {SIZE} {BATCH_SIZE} {LEARNING_RATE} {WEIGHT_DECAY}"


def weights_file() -> Path:
    """The state dict, safetensors in torchvision's names, with a head for the synthetic classes of its training."""
    path = data_dir() / f"mini-pretrained-{hashlib.sha256(RECIPE.encode()).hexdigest()[:8]}.safetensors"
    if path.is_file():
        return path
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.is_file():  # else another process trained it meanwhile
            print(
                "weights = 'mini': training a stand-in for ImageNet weights on other synthetic classes, once, for a "
                "minute"
            )
            atomic_write(path, save(pretrain()))
    return path


def pretrain() -> dict[str, torch.Tensor]:
    """Train on `mini-pretrain`, SGD with a one-cycle learning rate; the same state dict every time on one machine."""
    data = pack(make_dataset(PRETRAIN, data_dir()), PRETRAIN, PRETRAIN.folder)
    loader = ImageLoader(
        data.train.images,
        data.train.labels,
        BATCH_SIZE,
        shuffle=True,
        augmentation=Augmentation(flip=True),
        input_size=SIZE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("resnet18", len(data.classes))
    use_small_map_conv(model)
    optimizer = torch.optim.SGD(
        model.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        for batch in loader.epoch(epoch):
            optimizer.zero_grad()
            cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
            schedule.step()
    return model.state_dict()
