"""The synthetic data set `mini`, made on this machine in exactly Tiny-ImageNet's layout on disk.

A class is a shape with a texture ("striped triangle"). `mini-pretrain` has the combinations that `mini` leaves out,
seen from closer up, as ImageNet's images are. A ResNet18 trained on it is the stand-in for ImageNet weights, and
enlarged images suit it better, as they suit those. Each image has a generator (NumPy's PCG64) seeded with its own name,
so that the pixels, and with the same Pillow the JPEG bytes, are the same every time.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from tinyclf.data.drawing import SHAPES, TEXTURES, bounding_box, draw_image
from tinyclf.data.registry import MINI, Layout
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked, writable
from tinyclf.utils.owned import atomic_folder

VERSION = 4  # raise it when the pixels change: sets of another version are made again
GREY_EVERY = 50  # one image in 50 is greyscale; in Tiny-ImageNet 2,178 of 120,000 are (1.8%)

MARKER = ".recipe"  # the file that says of which version a set is
# All other files that a set has: a folder with any other in it is somebody else's, and is never replaced.
FILES = re.compile(
    r"wnids\.txt|words\.txt|train/n9\d{7}/(n9\d{7}_boxes\.txt|images/n9\d{7}_\d+\.JPEG)|"
    r"val/val_annotations\.txt|(val|test)/images/(val|test)_\d+\.JPEG"
)

PRETRAIN = Layout("mini-pretrain", classes=20, train=100, val=5, test=1)
ZOOMS = {MINI.folder: (1.0, 1.0), PRETRAIN.folder: (0.8, 2.4)}  # how much larger than in `mini` an object is seen

REMEDY = "work in another folder"

SYNONYMS = {
    "striped": "banded", "checkered": "chequered", "dotted": "spotted", "ringed": "rippled", "zigzag": "chevron",
}  # fmt: skip


def make_dataset(layout: Layout, parent: Path) -> Path:
    """The folder of MINI or PRETRAIN in `parent`; writes it first where it is missing or of another version.

    It is written whole or not at all, by one process; others wait. Raises TinyclfError if it cannot be written.
    """
    target = Path(parent) / layout.folder
    if is_made(layout, parent):
        return target
    writable(target.parent, REMEDY)
    try:
        with locked(target.with_name(f".{target.name}.lock")):
            if not is_made(layout, parent):  # else another process wrote it meanwhile
                with atomic_folder(target, MARKER, FILES) as folder:
                    _write_dataset(layout, folder)
    except OSError as error:
        raise TinyclfError(
            f"The synthetic data set {layout.folder} cannot be written to {target}: {error.strerror}. Free some space, "
            f"or {REMEDY}, and run again; no part of it is left."
        ) from error
    return target


def is_made(layout: Layout, parent: Path) -> bool:
    """Whether the set of this version is in `parent`."""
    try:
        return (parent / layout.folder / MARKER).read_text(encoding="utf-8", errors="replace") == _version(layout)
    except OSError:
        return False


def class_table(folder: str | None = None) -> dict[str, tuple[str, str]]:
    """wnid -> (shape, texture) of one of the two sets, or of both: words.txt names more than the set's own classes.

    `mini` has five of the six shapes, each with two textures, and each texture twice.
    """
    table = {}
    for s, shape in enumerate(SHAPES):
        for t, texture in enumerate(TEXTURES):
            owner = MINI.folder if (t - 2 * s) % 5 < 2 and s < 5 else PRETRAIN.folder
            if folder in (None, owner):
                table[f"n9{s + 1:03d}{t + 1:03d}0"] = (shape, texture)
    return table


def _version(layout: Layout) -> str:
    """Everything that decides the bytes of a set."""
    return f"tinyclf mini, version {VERSION}, Pillow {PIL.__version__}, {layout}\n"


def _write_dataset(layout: Layout, root: Path) -> None:
    """All files of the set, named and formatted as in the official archive."""
    table, zooms = class_table(layout.folder), ZOOMS[layout.folder]
    for wnid, kind in table.items():
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        names = [f"{wnid}_{i}.JPEG" for i in range(layout.train)]
        boxes = [f"{name}\t{_write_image(images / name, kind, zooms)}" for name in names]
        _write_lines(images.parent / f"{wnid}_boxes.txt", boxes)
    for split, count in (("val", layout.val), ("test", layout.test)):
        images, lines = root / split / "images", []
        images.mkdir(parents=True)
        for i, wnid in enumerate(_shuffled(list(table) * count, split)):
            name = f"{split}_{i}.JPEG"
            lines.append(f"{name}\t{wnid}\t{_write_image(images / name, table[wnid], zooms)}")
        if split == "val":
            _write_lines(root / "val" / "val_annotations.txt", lines)
    _write_lines(root / "wnids.txt", _shuffled(list(table), "wnids"))
    words = [f"{wnid}\t{t} {s}, {SYNONYMS[t]} {s}" for wnid, (s, t) in class_table().items()]
    _write_lines(root / "words.txt", words)
    (root / MARKER).write_text(_version(layout), encoding="utf-8")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_image(path: Path, kind: tuple[str, str], zooms: tuple[float, float]) -> str:
    """Draws one JPEG; returns its box, tab-separated."""
    pixels, mask = draw_image(*kind, _generator(path.name, *kind), zooms)
    image = Image.fromarray(pixels)
    if int(path.stem.rsplit("_", 1)[1]) % GREY_EVERY == 7:
        image = image.convert("L")
    image.save(path, "JPEG", quality=90)
    return "\t".join(map(str, bounding_box(mask)))


def _generator(*name: str) -> np.random.Generator:
    """The random numbers that belong to a name."""
    seed = hashlib.sha256("/".join(name).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed[:16])))


def _shuffled(items: list[str], name: str) -> list[str]:
    return [items[i] for i in _generator(name).permutation(len(items))]
