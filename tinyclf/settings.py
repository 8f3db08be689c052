"""The settings of one training run: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from tinyclf import naming
from tinyclf.errors import TinyclfError

# By data set: as published, and where there are few images, so that an epoch still has steps enough to learn in
BATCH_SIZES = {"mini": 20, "tiny-imagenet": 100, "tiny-imagenet-20": 20}
DATASETS = tuple(BATCH_SIZES)
WHOLE_DATASETS = ("mini", "tiny-imagenet")  # that are no part of another
NAMED_WEIGHTS = ("none", "imagenet", "mini")
OTHER_WEIGHTS = "or run:NAME, or the path of a .pth or .safetensors file"
STEMS = ("imagenet", "small", "small-pool", "sub-pixel")
SCHEDULES = ("step", "cosine", "linear")
SEEDS = (0, 2**31 - 1)
PRECISIONS = ("fp32", "tf32", "bf16")
ADAPTABLE = ("input_size", "normalization", "stem", "classes")  # what a model is made for
RUN = "run:"  # starts the name of weights that are another run's
# Mean and standard deviation of red, green and blue on the scale 0..1: as torchvision's ImageNet weights expect them,
# and as they go round for Tiny-ImageNet's training images.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], ...]] = {
    "none": (),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}

RANGES: dict[str, tuple[float, float]] = {
    "input_size": (16, 1024),
    "epochs": (1, 10_000),
    "batch_size": (2, 100_000),  # batch norm needs more than one image
    "learning_rate": (0, 100),
    "step_size": (1, 10_000),
    "gamma": (0, 1),
    "warmup": (0, 0.5),
    "layer_decay": (0, 1),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "label_smoothing": (0, 0.9),
    "ema": (0, 0.99999),
    "crop_padding": (0, 32),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "seed": SEEDS,
}
CHOICES = {"stem": STEMS, "schedule": SCHEDULES, "normalization": tuple(NORMALIZATIONS), "precision": PRECISIONS}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run. The defaults are the published recipe, on the embedded data set.

    Raises TinyclfError naming the setting, the value and what would be accepted.
    Source of the defaults: the open project Tiny-ImageNet-Classifier, Step 1.
    """

    dataset: str = "mini"  # mini | tiny-imagenet | tiny-imagenet-20, every tenth class of it
    weights: str = "none"  # none | imagenet | mini | run:NAME | path of a .pth or .safetensors state dict
    adapt: str = ""  # what may differ from what run:NAME was trained for: input_size, normalization, stem, classes
    input_size: int = 64  # pixels, height and width; images of another size are resized to it (bicubic)
    grow_from: int = 0  # input size of the first epoch, from which it grows to input_size in 2/3 of them; 0: no growth
    evaluate_at: int = 0  # another input size, at which the trained model is evaluated as well; 0: none
    mirror_test: bool = False  # evaluate as well on each image together with its mirror image
    hold_out: bool = False  # validate on every tenth training image, which is then not trained on, in place of val
    stem: str = "imagenet"  # imagenet: 7x7, max pool | small: 3x3 | small-pool: and max pool | sub-pixel: 5x5, 2x2 each
    shrink_stem: bool = False  # a small stem starts with the filters of the 7x7 one, shrunk, instead of afresh
    zero_init: bool = False  # the last norm of each block starts at 0, so that a block starts by changing nothing
    epochs: int = 15
    batch_size: int = 0  # images a step; 0: the data set's own, 100 as published, 20 on the small ones
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
    ema: float = 0.0  # share that each step keeps of an average of the weights, which is evaluated; 0: the weights are
    flip: bool = True  # mirror each training image with probability 1/2
    crop_padding: int = 0  # pixels of black around each training image before it is cropped to its size; 0: none
    mixup: float = 0.0  # alpha of the Beta distribution of its weights; 0: none
    cutmix: float = 0.0  # the same of its areas; with both, each image is mixed in one of the two ways
    normalization: str = "none"  # none | imagenet | tiny-imagenet: whose mean and deviation images are normalised by
    precision: str = "fp32"  # fp32 | tf32 | bf16: of convolutions and products; tf32 on a CUDA GPU alone
    seed: int = 0  # of initialisation, order and augmentation

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, typed(field.name, getattr(self, field.name), field.default))
        one_of("dataset", self.dataset, DATASETS)  # before what depends on it
        object.__setattr__(self, "batch_size", self.batch_size or BATCH_SIZES[self.dataset])
        if self.parent:
            naming.check(self.parent, "weights = run:NAME, NAME")
        elif not self.weights.endswith((".pth", ".safetensors")):
            one_of("weights", self.weights, NAMED_WEIGHTS, OTHER_WEIGHTS)
        for each in self.adapts:
            one_of("adapt", each, ADAPTABLE)
        if self.evaluate_at:
            in_range("evaluate_at", self.evaluate_at, *RANGES["input_size"])
        if self.grow_from:
            in_range("grow_from", self.grow_from, RANGES["input_size"][0], self.input_size)
            in_range("epochs of a run that grows", self.epochs, 2, 10_000)
        for name, limits in RANGES.items():
            in_range(name, getattr(self, name), *limits)
        for name, accepted in CHOICES.items():
            one_of(name, getattr(self, name), accepted)
        if self.shrink_stem and (self.stem == "imagenet" or self.weights == "none"):
            raise TinyclfError("shrink_stem = True: it takes another stem, and weights to shrink that of")
        if self.zero_init and self.weights != "none":
            raise TinyclfError("zero_init = True: it is for a run that starts from nothing, weights = 'none'")
        if self.nesterov:
            in_range("momentum of nesterov", self.momentum, 0.01, 1)

    def size_in(self, epoch: int) -> int:
        """The input size of an epoch, from 1: a multiple of 8 pixels while it grows, but for the first."""
        if self.grow_from and epoch == 1:
            return self.grow_from
        growing = max(1, round(self.epochs * 2 / 3))
        if not self.grow_from or epoch > growing:
            return self.input_size
        size = self.grow_from + (self.input_size - self.grow_from) * (epoch - 1) / growing
        return min(max(self.grow_from, round(size / 8) * 8), self.input_size)

    @property
    def planned(self) -> bool:
        """Whether every epoch depends on how many there are, so that a run cannot go on to more."""
        return self.schedule != "step" or bool(self.warmup or self.grow_from)

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
        """Settings from a notebook's variables, `globals()`; a setting that is not among them keeps its default."""
        return cls(**{name: namespace[name] for name in cls.names() if name in namespace})


def parent_of(weights: str) -> str:
    """Name of the run whose model `weights` asks for; empty where that is none."""
    return weights.removeprefix(RUN) if weights.startswith(RUN) else ""


def check_parameters(namespace: Mapping[str, Any]) -> None:
    """Raise TinyclfError for a parameter from papermill that the notebook lacks, or has as another type.

    namespace: the notebook's `globals()`, where IPython keeps the source of each cell that ran.

    papermill only warns of an unknown one and runs the default, hours of the wrong run for `-p epoch 3`; and its
    `-p force false` is a text, which is as good as True.
    """
    cells = list(namespace.get("In", []))
    injected = next((place for place, cell in enumerate(cells) if cell.startswith("# Parameters\n")), 0)
    if not injected or not (defaults := assigned(cells[injected - 1])):
        return
    for name, value in assigned(cells[injected]).items():
        one_of("parameter", name, tuple(defaults))
        typed(name, value, defaults[name])


def assigned(source: str) -> dict[str, Any]:
    """The names that a cell gives a literal, and its value; none for a cell that is not plain Python."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a %magic
        return {}
    found = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                with contextlib.suppress(ValueError, TypeError):
                    found[target.id] = ast.literal_eval(node.value)
    return found


def one_of(name: str, value: str, accepted: tuple[str, ...], also: str = "") -> None:
    """Raise TinyclfError unless `value` is one of `accepted`."""
    if value not in accepted:
        close = difflib.get_close_matches(value, accepted, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TinyclfError(f"{name} = {value!r}: expected one of {', '.join(accepted)} {also}".rstrip() + hint)


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise TinyclfError unless low <= value <= high."""
    if not (math.isfinite(value) and low <= value <= high):
        raise TinyclfError(f"{name} = {value!r}: expected a number from {low} to {high}")


def typed(name: str, value: Any, default: Any) -> Any:
    """`value` if it is of the default's type (an int may stand for a float), else TinyclfError."""
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        hint = " (papermill's -p reads True and False, and takes true and false as text)" if wanted is bool else ""
        raise TinyclfError(f"{name} = {value!r}: expected {wanted.__name__}, got {type(value).__name__}{hint}")
    return value
