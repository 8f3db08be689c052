"""The settings of one training run: one frozen dataclass, checked when it is made."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from tinyclf.data.registry import FILE, NAMED_WEIGHTS, NORMALIZATIONS, RUN, Stem, dataset_info, is_file
from tinyclf.experiments.names import check_name
from tinyclf.experiments.parameters import RUN_NAME, checked, injected, notebook_parameters
from tinyclf.utils.errors import TinyclfError, in_range, one_of, typed
from tinyclf.utils.paths import NOTEBOOKS

BEFORE: dict[str, Any] = {"ghost_batches": 1}  # of runs that are older than the setting
ADAPTABLE = ("input_size", "normalization", "stem", "classes")  # what a model is made for
UNKNOWN = "unexpected_keyword_argument"  # as pydantic calls it
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, le=1)]
Warmup = Annotated[float, Field(ge=0, le=0.5)]
Part = Annotated[float, Field(ge=0, le=0.99999)]  # never all of it
Positive = Annotated[float, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=16, le=1024)] | Literal[0]
Count = Annotated[int, Field(ge=1, le=10_000)]
Images = Annotated[int, Field(ge=2, le=100_000)] | Literal[0]  # batch norm needs more than one
Padding = Annotated[int, Field(ge=0, le=32)]
Quality = Annotated[int, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


def in_one_sentence(cls: Any, values: Any, validate: Callable[[Any], Any]) -> Any:
    """A validator around pydantic's own: of all that it refuses, TinyclfError tells the first, in one sentence."""
    try:
        return validate(values)
    except ValidationError as error:
        faults = error.errors()
    fields = cls.__pydantic_fields__
    fault = min(faults, key=lambda fault: fault["type"] != UNKNOWN)  # a name that is no field's comes first
    name, value = str(fault["loc"][0]), fault["input"]
    one_of("key", name, fields)
    typed(name, value, fields[name].default)
    if get_origin(fields[name].annotation) is Literal:
        one_of(name, value, get_args(fields[name].annotation))
    raise TinyclfError(f"{name} = {value!r}: {fault['msg'].replace('Input should be', 'expected')}")


@dataclass(frozen=True, config=STRICT)
class Settings:
    """What decides the numbers of a run. The defaults are the published recipe, on the embedded data set.

    Raises TinyclfError naming the setting, the value and what would be accepted.
    Source of the defaults: the open project Tiny-ImageNet-Classifier, Step 1.
    """

    dataset: str = "mini"  # mini | tiny-imagenet | tiny-imagenet-20, every tenth class of it
    model: str = "resnet18"  # any classification model of torchvision, by its name there
    weights: str = "none"  # none | imagenet | mini | run:NAME | path of a state dict
    adapt: str = ""  # what may differ from what weights were made for: input_size, normalization, stem, classes
    input_size: Side = 0  # pixels, height and width, that images are resized to; 0: the data set's own, 64 but for mini
    # input size of the first epoch, from which it grows to input_size in 2/3 of them; 0: no growth
    start_size: Side = 0
    eval_size: Side = 0  # another input size, at which the trained model is evaluated as well; 0: none
    kernel: Literal["pil", "opencv"] = "pil"  # whose bicubic kernel resizes images: pil | opencv, as published
    jpeg_quality: Quality = 0  # of the JPEG that a resized training image is saved as and read from; 0: none
    flip_tta: bool = False  # evaluate as well on each image together with its mirror image
    hold_out: bool = False  # validate on every tenth training image, which is then not trained on, in place of val
    # imagenet: 7x7, max pool | small: 3x3 | small-pool: and max pool | sub-pixel: 5x5, 2x2 each
    stem: Stem = "imagenet"
    # random | shrunk: a small stem made of the 7x7 filters | whitened: 7x7 made of images
    stem_init: Literal["random", "shrunk", "whitened"] = "random"
    zero_init: bool = False  # the last norm of each block starts at 0, so that a block starts by changing nothing
    shallow: Part = 0.0  # share of the steps, from the first on, in which one block of each stage runs; as zero_init
    epochs: Count = 15
    batch_size: Images = 0  # images a step; 0: the data set's own, 100 as published, fewer on the small ones
    # parts of a batch that batch norms normalise by themselves, as on so many devices; 1: none
    ghost_batches: Count = 2
    learning_rate: Positive = 0.001
    # step: times gamma every step_size epochs | cosine | linear: to 0 at the end
    schedule: Literal["step", "cosine", "linear"] = "step"
    step_size: Count = 7  # epochs between two decays of the learning rate
    gamma: Share = 0.1  # factor of a decay
    warmup: Warmup = 0.0  # share of the epochs over which the learning rate rises linearly from 0
    layer_decay: Share = 1.0  # factor of the learning rate from each part of the model to the one before it; head first
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Share = 0.0  # of all weights but norms and biases
    label_smoothing: Part = 0.0  # share of the target that is spread evenly over all classes
    ema_decay: Part = 0.0  # of the moving average of the weights that is evaluated in their place; 0: no average
    flip: bool = True  # mirror each training image with probability 1/2
    crop_padding: Padding = 0  # pixels of black around each training image before it is cropped to its size; 0: none
    mixup: Positive = 0.0  # alpha of the Beta distribution of its weights; 0: none
    cutmix: Positive = 0.0  # the same of its areas; with both, each image is mixed in one of the two ways
    normalization: str = "none"  # none | imagenet | tiny-imagenet: whose mean and deviation images are normalised by
    precision: Precision = "fp32"  # fp32 | tf32 | bf16 | fp16, of convolutions and products; auto: the device's best
    seed: Seed = 0  # of initialisation, order and augmentation

    _in_one_sentence = model_validator(mode="wrap")(in_one_sentence)

    def __post_init__(self) -> None:
        info = dataset_info(self.dataset)
        object.__setattr__(self, "dataset", info.name)  # of own images, the whole path
        for name in ("input_size", "batch_size"):
            object.__setattr__(self, name, getattr(self, name) or getattr(info, name))
        one_of("normalization", self.normalization, NORMALIZATIONS)
        if self.parent:
            check_name(self.parent, "weights = run:NAME, NAME")
        elif not is_file(self.weights):
            one_of("weights", self.weights, NAMED_WEIGHTS, f"or run:NAME, or {FILE}")
        for name in self.adapts:
            one_of("adapt", name, ADAPTABLE)
        if self.start_size:
            in_range("start_size", self.start_size, 16, self.input_size)
            in_range("epochs of a run that grows", self.epochs, 2, 10_000)
        if self.nesterov:
            in_range("momentum of nesterov", self.momentum, 0.01, 1)
        self._check_start()

    def _check_start(self) -> None:
        """Refuse a first layer, or first steps, that do not go with the initial weights."""
        scratch = self.weights == "none"
        if self.stem_init == "shrunk" and (self.stem == "imagenet" or scratch):
            raise TinyclfError("stem_init = 'shrunk': it needs a small stem, and weights whose stem can be shrunk")
        if self.stem_init == "whitened" and not (self.stem == "imagenet" and scratch and self.normalization != "none"):
            needs = "stem = 'imagenet', weights = 'none', and images of mean 0, normalization = 'tiny-imagenet'"
            raise TinyclfError(f"stem_init = 'whitened': it needs {needs}; or give stem_init = 'random'")
        if (self.zero_init or self.shallow) and not scratch:
            name = "zero_init = True" if self.zero_init else f"shallow = {self.shallow}"
            raise TinyclfError(f"{name}: it is for a run from scratch, weights = 'none'")

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
    def of(cls, parameters: Mapping[str, Any]) -> "Settings":
        """The settings among parameters; a setting that is not among them keeps its default."""
        return cls(**{name: parameters[name] for name in cls.names() if name in parameters})

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> "Settings":
        """Settings from a notebook's variables; namespace: its `globals()`, where `model` may be the network itself."""
        return cls.of({name: value for name, value in namespace.items() if not callable(value)})


def accepted_parameters(notebook: Path, *refused: str) -> dict[str, Any]:
    """What a notebook takes, with a value of the right type: its own parameters, and any setting if it trains.

    refused: those that are not given in this way.
    """
    own = notebook_parameters(notebook)
    settings = {name: getattr(Settings, name) for name in Settings.names()} if RUN_NAME in own else {}
    return {name: value for name, value in (settings | dict(own)).items() if name not in refused}


def check_parameters(namespace: Mapping[str, Any], notebook: str) -> None:
    """Raise TinyclfError for a parameter from papermill that the notebook does not take, or has as another type.

    namespace: the notebook's `globals()`. notebook: its file under notebooks/, whose parameters cell is what counts; a
    copy elsewhere gives its whole path.

    papermill only warns of an unknown one and runs the default, hours of the wrong run for `-p epoch 3`; and its
    `-p force false` is a text, which is as good as True.
    """
    if given := injected(namespace):
        checked(given, accepted_parameters(NOTEBOOKS / notebook))


def parent_of(weights: str) -> str:
    """Name of the run whose model `weights` asks for; empty where that is none."""
    return weights.removeprefix(RUN) if weights.startswith(RUN) else ""


def changed_settings(settings: Settings, expected: Settings) -> dict[str, Any]:
    """The settings that are others than expected."""
    before = dataclasses.asdict(expected)
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != before[name]}


def default_name(settings: Settings) -> str:
    """A name from what differs from the published recipe, `weights-imagenet-epochs-3`, or `published-recipe`."""
    changes = changed_settings(settings, Settings(dataset=settings.dataset)).items()
    parts = [f"{name}-{Path(value).stem if isinstance(value, str) else value}" for name, value in changes]
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts), flags=re.ASCII)[:100] or "published-recipe"
