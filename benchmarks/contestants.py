"""Who is measured: tinyclf, the published way, and the limit, a bare step.

Each loads, trains and evaluates ResNet18 in batches of 100 in fp32, mirroring training images at random, until a watch
has seen enough.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from measure import BATCH, Watch
from sample import SPLITS, Data, open_data
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import Compose, InterpolationMode, RandomHorizontalFlip, Resize, ToTensor

from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import Batch, ImageLoader
from tinyclf.data.registry import SIDE
from tinyclf.experiments.recipe import recipe_for
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import build_model
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.training.evaluate import evaluate
from tinyclf.training.loop import Training

RECIPE = Settings(batch_size=BATCH)


class Published:
    """torchvision's ImageFolder, PyTorch's DataLoader and a plain loop, as the published project has them.

    size: of the images in a batch, in pixels; read files are resized to it. small_map_conv: the model is tinyclf's,
    with convolutions that are fast at small maps on a CPU, in place of torchvision's.
    """

    def __init__(self, data: Data, device: torch.device, size: int = SIDE, *, small_map_conv: bool = False) -> None:
        self.data, self.device, self.size = data, device, size
        torch.manual_seed(0)
        model = build_model("resnet18", data.classes) if small_map_conv else resnet18(num_classes=data.classes)
        if small_map_conv:
            use_small_map_conv(model)
        self.model: nn.Module = model.to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), RECIPE.learning_rate, RECIPE.momentum)

    def batches(self, split: str, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches of one epoch: images float32 (B, 3, size, size) in 0..1, and labels int64 (B,)."""
        train, cuda = split == "train", self.device.type == "cuda"
        resize = Resize(self.size, InterpolationMode.BICUBIC)  # which leaves images of that size as they are
        transform = Compose([resize, *[RandomHorizontalFlip()] * train, ToTensor()])
        images = ImageFolder(self.data.folder / split, transform)
        return DataLoader(images, BATCH, shuffle=train, num_workers=workers, pin_memory=cuda)

    def on_device(self, watch: Watch, split: str, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in watch.around(self.batches(split, workers)):
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def load(self, watch: Watch, workers: int) -> None:
        for _ in self.on_device(watch, "train", workers):
            pass

    def train(self, watch: Watch, workers: int) -> None:
        self.model.train()
        total, correct = 0.0, 0
        for images, labels in self.on_device(watch, "train", workers):
            self.optimizer.zero_grad()
            logits = self.model(images)
            loss = cross_entropy(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()

    @torch.no_grad()
    def evaluate(self, watch: Watch, workers: int) -> None:
        self.model.eval()
        total, correct = 0.0, 0
        for images, labels in self.on_device(watch, "val", workers):
            logits = self.model(images)
            total += cross_entropy(logits, labels).item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()


class WatchedBatches(ImageLoader):
    """tinyclf's batches, of which an epoch ends when the watch has seen enough."""

    watch: Watch

    def epoch(self, *arguments: Any) -> Iterator[Batch]:
        return self.watch.around(super().epoch(*arguments))


class Tinyclf(Published):
    """tinyclf's own loader, training epoch and evaluation, on the whole set."""

    def __init__(self, data: Data, device: torch.device, size: int = SIDE) -> None:
        super().__init__(data, device, size, small_map_conv=True)
        self.model.to(memory_format=torch.channels_last)
        train, val = (data.arrays[split] for split in SPLITS)
        self.recipe = recipe_for(self.model, RECIPE, len(train.labels))
        augmented: dict[str, Any] = {"shuffle": True, "augmentation": Augmentation(flip=RECIPE.flip)}
        self.split = {
            "train": WatchedBatches(train.images, train.labels, BATCH, device, input_size=size, **augmented),
            "val": WatchedBatches(val.images, val.labels, BATCH, device, input_size=size),
        }
        self.epoch = 0

    def watched(self, split: str, watch: Watch) -> WatchedBatches:
        self.epoch += 1
        self.split[split].watch = watch
        return self.split[split]

    def load(self, watch: Watch, workers: int) -> None:
        for _ in self.watched("train", watch).epoch(self.epoch):
            pass

    def train(self, watch: Watch, workers: int) -> None:
        batches = self.watched("train", watch)
        Training(self.recipe, batches, batches, epochs=1).train_epoch(self.epoch)

    def evaluate(self, watch: Watch, workers: int) -> None:
        evaluate(self.model, self.watched("val", watch))


class Limit(Published):
    """The bare step as tinyclf does it, on one batch that stays where it is."""

    def __init__(self, data: Data, device: torch.device, size: int = SIDE) -> None:
        super().__init__(data, device, size, small_map_conv=True)
        self.model.to(memory_format=torch.channels_last)
        train = data.arrays["train"]
        few = ImageLoader(train.images[:BATCH], train.labels[:BATCH], BATCH, device, input_size=size)
        images, labels, _ = next(few.epoch())
        self.batch = images.contiguous(memory_format=torch.channels_last), labels

    def batches(self, split: str, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
        return itertools.repeat(self.batch)

    def train(self, watch: Watch, workers: int) -> None:
        self.model.train()
        for images, labels in watch.around(self.batches("train", workers)):
            self.optimizer.zero_grad()
            (cross_entropy(self.model(images), labels, reduction="sum") / len(labels)).backward()
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self, watch: Watch, workers: int) -> None:
        self.model.eval()
        for images, _ in watch.around(self.batches("val", workers)):
            self.model(images)


WAYS: dict[str, type[Published]] = {"tinyclf": Tinyclf, "limit": Limit, "published": Published}


def whole_job(name: str, dataset: str, folder: Path) -> None:
    """What the memory of a contestant is measured of: some steps of training and of evaluation.

    Between them tinyclf, which holds its data set as arrays, loads every image of it; what others take does not depend
    on how many images there are.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    way = WAYS[name](open_data(dataset, folder), device)
    way.train(Watch(10, 1, device), 0)
    if isinstance(way, Tinyclf):
        train = way.split["train"]
        way.load(Watch(len(train), 0, device), 0)
    way.evaluate(Watch(10, 1, device), 0)
