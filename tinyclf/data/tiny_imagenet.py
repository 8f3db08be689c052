"""Image files decoded; Tiny-ImageNet as a torchvision data set, read from the official folder or zip."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets import VisionDataset
from tqdm import tqdm

from tinyclf.data.annotations import SPLITS, read_classes, read_own, read_split
from tinyclf.data.archive import Source
from tinyclf.data.locate import locate_or_download
from tinyclf.data.registry import SIDE, TINY_IMAGENET, Layout
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.paths import user_file

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")  # of PIL's, those that run no other program


def decode(data: bytes) -> Image.Image:
    """A JPEG file's image as `Image.open(...).convert("RGB")` gives it. Raises ValueError unless whole and 64x64."""
    image = _opened(data, ("JPEG",))
    if image.size != (SIDE, SIDE):
        raise ValueError(f"it is {image.width}x{image.height} pixels instead of {SIDE}x{SIDE}")
    try:
        return image.convert("RGB")
    except Exception as error:  # the ways in which PIL gives up on bytes are many
        raise ValueError(f"it is not a whole {image.format} ({error})") from error


def decode_any(data: bytes) -> Image.Image:
    """The middle square of an image of any size, in one of FORMATS, as RGB of 64x64 pixels (bicubic).

    It is turned as its EXIF says, and what is transparent is laid on white. An opaque image of 64x64 pixels stays as it
    is. Raises ValueError for what is no whole image, and for floats and integers of 32 bits, whose range nobody knows.
    """
    image = _opened(data)
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # of PNG and PPM, "I" too is 16 bits
        raise ValueError("it has 32 bits, a sign or floating-point numbers: save it with 8 or 16 bits")
    try:
        upright = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, which PIL would cut off at 255
            upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return ImageOps.fit(upright.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)
    except Exception as error:
        raise ValueError(f"it is not a whole {image.format} ({error})") from error


def _opened(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"it is no {' or '.join(formats)}") from None
    except Exception as error:
        raise ValueError(f"it cannot be decoded ({error})") from error


def read_image(path: str | Path) -> np.ndarray:
    """An image file by `decode_any`: uint8 (64, 64, 3). Raises TinyclfError."""
    try:
        data = user_file(path, "image").read_bytes()
        if _opened(data).has_transparency_data:
            print(f"{path}: transparent, shown on white", file=sys.stderr)
        return np.asarray(decode_any(data))
    except (OSError, ValueError, TinyclfError) as error:
        raise TinyclfError(f"{path} is no image that can be read: {error}") from error


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
