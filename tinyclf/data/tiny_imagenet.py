"""Tiny-ImageNet as a torchvision data set, read from the official folder or zip, which is never unpacked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.datasets import VisionDataset
from tqdm import tqdm

from tinyclf.data.annotations import SPLITS, read_classes, read_own, read_split
from tinyclf.data.archive import Source
from tinyclf.data.images import decode, decode_any
from tinyclf.data.locate import locate_or_download
from tinyclf.data.registry import TINY_IMAGENET, Layout
from tinyclf.utils.errors import TinyclfError, one_of


class TinyImageNet(VisionDataset):  # type: ignore[type-arg]  # torchvision 0.26's takes none
    """Pairs of an RGB PIL image, 64x64, and its class, an int; greyscale files become RGB, none is dropped.

    Args:
        root: holds `tiny-imagenet-200` or `tiny-imagenet-200.zip` (the folder wins), or is one of the two. val may be
            sorted into folders of classes, as in many copies.
        split: `train` (100,000 images), `val` (10,000) or `test` (10,000 without labels: every target is -1, as in
            torchvision's STL10).
        transform: from PIL image to whatever the model takes.
        target_transform: the same for the target.
        download: fetches the official zip into `root` where the set is not there yet.
        layout: name and numbers, for other sets in the same layout, and for own images in `train/CLASS/*` and
            `val/CLASS/*`, of any size, which are made 64x64 as `decode_any` says.

    Attributes:
        classes: the wnids, sorted; a target is an index of this list.
        class_to_idx: wnid -> target.
        class_names: the words of each class, in the order of `classes`.
        samples: (name of the file in the set, target) of every image; `targets` has the targets alone.
        boxes: (N, 4) int64, the corners x0 y0 x1 y1 in pixels as the files give them; None for test, and for a
            sorted val without annotations.

    Raises TinyclfError when the set is missing or is not of its layout: numbers and names of the files are checked on
    construction, the images themselves when they are read, or all at once by `check`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Image.Image], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        download: bool = False,
        *,
        layout: Layout = TINY_IMAGENET,
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        one_of("split", split, SPLITS)
        self.split = split
        self.source = Source(locate_or_download(Path(self.root), layout, download))
        if layout.classes:
            self.classes, self.class_names = read_classes(self.source, layout)
            files, self._decode = read_split(self.source, layout, split, self.classes), decode
        else:
            self.classes, files = read_own(self.source, split)
            self.class_names, self._decode = self.classes, decode_any
        self.class_to_idx = {wnid: target for target, wnid in enumerate(self.classes)}
        names, self.targets, self.boxes = files
        self.samples = list(zip(names, self.targets, strict=True))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = self.load(index), self.targets[index]
        return self.transforms(image, target) if self.transforms else (image, target)

    def load(self, index: int) -> Image.Image:
        """The image alone, 64x64 and RGB, not transformed. Raises TinyclfError naming the file when it is damaged."""
        name = self.samples[index][0]
        try:
            return self._decode(self.source.read(name))
        except ValueError as error:
            raise TinyclfError(f"{name} in {self.source.path}: {error}. Replace that file, or the set.") from error

    def check(self) -> None:
        """Decodes every image. Raises one TinyclfError naming those damaged or not 64x64."""
        for _ in self.decoded("checking"):
            pass

    def decoded(self, verb: str) -> Iterator[Image.Image]:
        """Every image that can be used. Raises one TinyclfError at the end, for all that cannot."""
        faults = []
        for index in tqdm(range(len(self)), f"{verb} {self.split}", unit=" images", disable=None):
            try:
                image = self.load(index)
            except TinyclfError as error:
                faults.append(str(error))
            else:
                yield image
        if faults:
            listed = "\n  - ".join(faults[:100])
            raise TinyclfError(f"{len(faults):,} of the images cannot be used:\n  - {listed}")
