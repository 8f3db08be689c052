"""The images that everyone is measured on: a data set as arrays, and a sample of it as files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyclf.data.cache import PackedSplit, load_data
from tinyclf.data.locate import locate_dataset
from tinyclf.data.tiny_imagenet import TinyImageNet

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Data:
    """A data set as arrays, whole, and as `folder/<split>/<wnid>/*.JPEG`, a sample of it for who reads files."""

    folder: Path
    arrays: dict[str, PackedSplit]
    classes: int


def write_sample(dataset: str, folder: Path, count: int) -> None:
    """Write `count` images of each split to `folder`, evenly spread over it, as they lie in the set, whether folder or
    zip. Of a smaller set, images are repeated, and `<split>.npy` holds the rows of the array that was scaled up so.
    """
    source, layout = locate_dataset(dataset)
    for split in SPLITS:
        images = TinyImageNet(source, split, layout=layout)
        rows = np.arange(count) * len(images) // count
        for number, row in enumerate(rows):
            name, target = images.samples[row]
            path = folder / split / images.classes[target] / f"{number:06d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.source.read(name))
        if count > len(images):
            np.save(folder / f"{split}.npy", getattr(load_data(dataset), split).images[rows])
            np.save(folder / f"{split}_labels.npy", np.array(images.targets)[rows])


def open_data(dataset: str, folder: Path) -> Data:
    """The data set, with the sample that `write_sample` left in `folder`; all of it in the system's cache."""
    packed = load_data(dataset)
    arrays = {split: getattr(packed, split) for split in SPLITS}
    for split in SPLITS:
        if (scaled := folder / f"{split}.npy").is_file():
            labels = np.load(folder / f"{split}_labels.npy")
            arrays[split] = PackedSplit(np.load(scaled, mmap_mode="r"), labels)
        with open(arrays[split].images.filename, "rb") as file:  # so that none waits for the disk
            while file.read(2**24):
                pass
    return Data(folder, arrays, len(packed.classes))
