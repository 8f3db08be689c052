"""The settings of one training run: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tinyclf.data.registry import NORMALIZATIONS, dataset_info
from tinyclf.experiments.names import check_name
from tinyclf.models.choices import FILE, NAMED_WEIGHTS, RUN, STEM_INITS, STEMS, is_file
from tinyclf.utils.errors import TinyclfError, in_range, one_of, typed

BEFORE = {"ghost_batches": 1}  # of runs that are older than the setting
ADAPTABLE = ("input_size", "normalization", "stem", "classes")  # what a model is made for
SEEDS = (0, 2**31 - 1)

RANGES: dict[str, tuple[float, float]] = {
    "input_size": (16, 1024),
    "epochs": (1, 10_000),
    "batch_size": (2, 100_000),  # batch norm needs more than one image
    "ghost_batches": (1, 1000),
    "learning_rate": (0, 100),
    "step_size": (1, 10_000),
    "gamma": (0, 1),
    "shallow": (0, 0.99),
    "warmup": (0, 0.5),
    "layer_decay": (0, 1),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "label_smoothing": (0, 0.9),
    "ema_decay": (0, 0.99999),
    "crop_padding": (0, 32),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "seed": SEEDS,
}
CHOICES = {
    "stem": STEMS,
    "stem_init": STEM_INITS,
    "schedule": ("step", "cosine", "linear"),
    "normalization": tuple(NORMALIZATIONS),
    "precision": ("auto", "fp32", "tf32", "bf16", "fp16"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run. The defaults are the published recipe, on the embedded data set.

    Raises TinyclfError naming the setting, the value and what would be accepted.
    Source of the defaults: the open project Tiny-ImageNet-Classifier, Step 1.
    """

    dataset: str = "mini"  # mini | tiny-imagenet | tiny-imagenet-20, every tenth class of it
    model: str = "resnet18"  # any classification model of torchvision, by its name there
    weights: str = "none"  # none | imagenet | mini | run:NAME | path of a state dict
    adapt: str = ""  # what may differ from what weights were made for: input_size, normalization, stem, classes
    input_size: int = 0  # pixels, height and width, that images are resized to; 0: the data set's own, 64 but for mini
    start_size: int = 0  # input size of the first epoch, from which it grows to input_size in 2/3 of them; 0: no growth
    eval_size: int = 0  # another input size, at which the trained model is evaluated as well; 0: none
    flip_tta: bool = False  # evaluate as well on each image together with its mirror image
    hold_out: bool = False  # validate on every tenth training image, which is then not trained on, in place of val
    stem: str = "imagenet"  # imagenet: 7x7, max pool | small: 3x3 | small-pool: and max pool | sub-pixel: 5x5, 2x2 each
    stem_init: str = "random"  # random | shrunk: a small stem made of the 7x7 filters | whitened: 7x7 made of images
    zero_init: bool = False  # the last norm of each block starts at 0, so that a block starts by changing nothing
    shallow: float = 0.0  # share of the steps, from the first on, in which one block of each stage runs; as zero_init
    epochs: int = 15
    batch_size: int = 0  # images a step; 0: the data set's own, 100 as published, fewer on the small ones
    ghost_batches: int = 2  # parts of a batch that batch norms normalise by themselves, as on so many devices; 1: none
    learning_rate: float = 0.001
    schedule: str = "step"  # step: times gamma every step_size epochs | cosine | linear: to 0 at the end
    step_size: int = 7  # epochs between two decays of the learning rate
    gamma: float = 0.1  # factor of a decay
    warmup: float = 0.0  # share of the epochs over which the learning rate rises linearly from 0
    layer_decay: float = 1.0  # factor of the learning rate from each part of the model to the one before it; head first
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0  # of all weights but norms and biases
    label_smoothing: float = 0.0  # share of the target that is spread evenly over all classes
    ema_decay: float = 0.0  # of the moving average of the weights that is evaluated in their place; 0: no average
    flip: bool = True  # mirror each training image with probability 1/2
    crop_padding: int = 0  # pixels of black around each training image before it is cropped to its size; 0: none
    mixup: float = 0.0  # alpha of the Beta distribution of its weights; 0: none
    cutmix: float = 0.0  # the same of its areas; with both, each image is mixed in one of the two ways
    normalization: str = "none"  # none | imagenet | tiny-imagenet: whose mean and deviation images are normalised by
    precision: str = "fp32"  # fp32 | tf32 | bf16 | fp16, of convolutions and products; auto: the device's best
    seed: int = 0  # of initialisation, order and augmentation

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, typed(field.name, getattr(self, field.name), field.default))
        for name in ("input_size", "batch_size"):
            object.__setattr__(self, name, getattr(self, name) or getattr(dataset_info(self.dataset), name))
        for name, limits in RANGES.items():
            in_range(name, getattr(self, name), *limits)
        for name, accepted in CHOICES.items():
            one_of(name, getattr(self, name), accepted)
        self._check_weights()
        self._check_sizes()
        if self.nesterov:
            in_range("momentum of nesterov", self.momentum, 0.01, 1)

    def _check_weights(self) -> None:
        if self.parent:
            check_name(self.parent, "weights = run:NAME, NAME")
        elif not is_file(self.weights):
            one_of("weights", self.weights, NAMED_WEIGHTS, f"or run:NAME, or {FILE}")
        for name in self.adapts:
            one_of("adapt", name, ADAPTABLE)
        if self.stem_init == "shrunk" and (self.stem == "imagenet" or self.weights == "none"):
            raise TinyclfError("stem_init = 'shrunk': it needs a small stem, and weights whose stem can be shrunk")
        if self.stem_init == "whitened" and (self.stem != "imagenet" or self.weights != "none"):
            raise TinyclfError(
                "stem_init = 'whitened': it is for stem = 'imagenet' from scratch, weights = 'none'; "
                "give stem_init = 'random'"
            )
        if self.stem_init == "whitened" and self.normalization == "none":
            raise TinyclfError("stem_init = 'whitened': it needs images of mean 0, normalization = 'tiny-imagenet'")
        if (self.zero_init or self.shallow) and self.weights != "none":
            name = "zero_init = True" if self.zero_init else f"shallow = {self.shallow}"
            raise TinyclfError(f"{name}: it is for a run from scratch, weights = 'none'")

    def _check_sizes(self) -> None:
        if self.eval_size:
            in_range("eval_size", self.eval_size, *RANGES["input_size"])
        if self.start_size:
            in_range("start_size", self.start_size, RANGES["input_size"][0], self.input_size)
            in_range("epochs of a run that grows", self.epochs, 2, 10_000)

    def size_in(self, epoch: int) -> int:
        """The input size of an epoch, from 1: a multiple of 8 pixels while it grows, but for the first."""
        if self.start_size and epoch == 1:
            return self.start_size
        growing = max(1, round(self.epochs * 2 / 3))
        if not self.start_size or epoch > growing:
            return self.input_size
        size = self.start_size + (self.input_size - self.start_size) * (epoch - 1) / growing
        return min(max(self.start_size, round(size / 8) * 8), self.input_size)

    def steps(self, images: int) -> int:
        """The training steps of an epoch of so many images."""
        return -(-images // self.batch_size)

    def shallow_steps(self, images: int) -> int:
        """The first training steps, in which the first block of each stage runs alone: not all. images: in an epoch."""
        steps = self.epochs * self.steps(images)
        return min(round(self.shallow * steps), steps - 1)

    @property
    def planned(self) -> bool:
        """Whether every epoch depends on how many there are, so that a run cannot go on to more."""
        return self.schedule != "step" or bool(self.warmup or self.start_size or self.shallow)

    @property
    def parent(self) -> str:
        """Name of the run that this one starts from; empty where it starts from none."""
        return parent_of(self.weights)

    @property
    def adapts(self) -> list[str]:
        """What `adapt` lists."""
        return self.adapt.replace(",", " ").split()

    @classmethod
    def names(cls) -> list[str]:
        """The settings' names, in order."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Settings:
        """Settings from a notebook's variables, `globals()`; a setting that is not among them keeps its default.

        A variable that is no plain value is no setting: in a notebook, `model` is the network itself.
        """
        plain = {name: value for name, value in namespace.items() if isinstance(value, bool | int | float | str)}
        values: dict[str, Any] = {name: plain[name] for name in cls.names() if name in plain}
        return cls(**values)


def parent_of(weights: str) -> str:
    """Name of the run whose model `weights` asks for; empty where that is none."""
    return weights.removeprefix(RUN) if weights.startswith(RUN) else ""
