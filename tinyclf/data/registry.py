"""What has a name: data sets, with every fact that depends on that, stems, weights. Imports neither torch nor NumPy."""

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.paths import user_path

# Address of the official archive, from the data set's authors at Stanford (CS231n).
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

SIDE = 64  # pixels, width and height of every image
STEPS = 40  # of an epoch of own images by default, or more where their batches have 100

# Mean and standard deviation of red, green and blue on the scale 0..1: as torchvision's ImageNet weights expect them,
# and rounded ones of Tiny-ImageNet's training images.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], ...]] = {
    "none": (),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}

# Stems of ResNets, and initial weights: they have a name, are another run's, or are a file.
Stem = Literal["imagenet", "small", "small-pool", "sub-pixel"]
STEMS: tuple[str, ...] = get_args(Stem)
NAMED_WEIGHTS = ("none", "imagenet", "mini")
RUN = "run:"  # starts the name of weights that are another run's
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
FILE = f"the path of a state dict ({', '.join(SUFFIXES)})"


def is_file(weights: str) -> bool:
    """Whether `weights` are the path of a state dict, not a name."""
    return weights.endswith(SUFFIXES) and not weights.startswith(RUN)


@dataclass(frozen=True)
class Layout:
    """A set in Tiny-ImageNet's layout on disk: its folder, and how many images of each class a split has.

    Without classes, it is a folder of own images, of any number.
    """

    folder: str
    classes: int
    train: int
    val: int
    test: int  # these images do not say their class


@dataclass(frozen=True)
class DatasetInfo:
    """What depends on the data set."""

    name: str  # of own images: the absolute path of their folder
    title: str  # the name in words, for a heading
    help: str  # what it is, in a few words
    input_size: int  # by default, in pixels: as published, and smaller where all shall be quick
    batch_size: int  # by default: as published, and smaller where an epoch would have too few steps
    layout: Layout  # of the files
    class_step: int = 1  # it has every `class_step`-th class of its files, in sorted order, from the first
    synthetic: bool = False  # made on this machine: its images may be shown to anybody
    comparable: bool = False  # its results compare with the published ones

    @property
    def own(self) -> bool:
        """Whether it is a folder of own images."""
        return not self.layout.classes


TINY_IMAGENET = Layout("tiny-imagenet-200", classes=200, train=500, val=50, test=50)
MINI = Layout("mini", classes=10, train=40, val=20, test=10)

PART, MINI_HELP, WHOLE_HELP = "every tenth class of", "10 synthetic classes, made", "200 classes, downloaded"
INFOS = (  # name, title, help, input size, batch size, layout
    DatasetInfo("mini", "mini, a small synthetic data set", MINI_HELP, 24, 10, MINI, synthetic=True),
    DatasetInfo("tiny-imagenet", "Tiny-ImageNet", WHOLE_HELP, 64, 100, TINY_IMAGENET, comparable=True),
    DatasetInfo("tiny-imagenet-20", f"{PART} Tiny-ImageNet", f"{PART} tiny-imagenet", 64, 20, TINY_IMAGENET, 10),
)
DATASETS = {info.name: info for info in INFOS}
WHOLE_DATASETS = tuple(info.name for info in DATASETS.values() if info.class_step == 1)


def dataset_info(dataset: str) -> DatasetInfo:
    """The facts of a data set, by its name or by the path of a folder of own images, which need not be there.

    A path has a `/`, or is an existing folder. Raises TinyclfError for an unknown name.
    """
    path = Path() if dataset in DATASETS else Path(os.path.abspath(user_path(dataset)))
    if dataset in DATASETS or not (os.sep in dataset or (dataset and os.path.isdir(path))):
        one_of("dataset", dataset, DATASETS, "or the path of a folder with train/CLASS/* and val/CLASS/*")
        return DATASETS[dataset]
    files = (name for _, _, names in os.walk(path / "train") for name in names)
    batch_size = max(10, len(list(islice(files, 100 * STEPS))) // STEPS)
    return DatasetInfo(str(path), path.name, "images in a folder", SIDE, batch_size, Layout(path.name, 0, 0, 0, 0))


def folder_name(dataset: str) -> str:
    """The name of a data set's folder under reports: its own name, or that of the folder of own images.

    Raises TinyclfError where a folder of own images is called as one of DATASETS, or has no name.
    """
    info = dataset_info(dataset)
    name = info.name.rpartition("/")[2]
    if info.own and (name in DATASETS or not name or name.startswith(".")):
        fault = f"its pages go by its folder's name, which cannot be {name!r}: rename it"
        raise TinyclfError(f"dataset = {dataset!r}: {fault}")
    return name
