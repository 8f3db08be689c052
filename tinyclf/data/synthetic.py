"""The synthetic data set `mini`, made on this machine in exactly Tiny-ImageNet's layout on disk.

A class is a letter; font size, position, rotation, colours, light and background are random. `mini-pretrain` has the
letters that `mini` leaves out, seen from closer up, as ImageNet's images are. A ResNet18 trained on it is the stand-in
for ImageNet weights. Each image has a generator (NumPy's PCG64) seeded with its own name, so that with the same Pillow
the pixels and the JPEG bytes are the same every time.
"""

import colorsys
import hashlib
from functools import partial
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFont

from tinyclf.data.registry import MINI, SIDE, Layout
from tinyclf.utils.files import make_folder

VERSION = 5  # raise it when the pixels change: the sets of before are left alone, and not used
GREY_EVERY = 50  # one image in 50 is greyscale; in Tiny-ImageNet 2,178 of 120,000 are (1.8%)
PRETRAIN = Layout("mini-pretrain", classes=16, train=125, val=5, test=1)
LETTERS = {MINI.folder: "ABCDEFGHIJ", PRETRAIN.folder: "KLMNOPQRSTUVWXYZ"}
ZOOMS = {MINI.folder: (1.0, 1.0), PRETRAIN.folder: (0.8, 2.4)}  # how much larger than in `mini` a letter is seen


def dataset_folder(layout: Layout, parent: Path) -> Path:
    """The folder of MINI or PRETRAIN in `parent`: its name tells everything that decides the bytes of the set."""
    recipe = f"tinyclf mini, version {VERSION}, Pillow {PIL.__version__}, {layout}\n"
    return parent / f"{layout.folder}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


def make_dataset(layout: Layout, parent: Path) -> Path:
    """`dataset_folder`, written whole or not at all if it is not there; others wait. Raises TinyclfError."""
    return make_folder(dataset_folder(layout, parent), partial(_write_dataset, layout))


def _write_dataset(layout: Layout, root: Path) -> None:
    """All files of the set, named and formatted as in the official archive."""
    table, zooms = {wnid_of(letter): letter for letter in LETTERS[layout.folder]}, ZOOMS[layout.folder]
    for wnid, letter in table.items():
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        names = [f"{wnid}_{i}.JPEG" for i in range(layout.train)]
        boxes = [f"{name}\t{_write_image(images / name, letter, zooms)}" for name in names]
        (images.parent / f"{wnid}_boxes.txt").write_text("\n".join(boxes) + "\n", "utf-8")
    for split, count in (("val", layout.val), ("test", layout.test)):
        images, lines = root / split / "images", []
        images.mkdir(parents=True)
        for i, wnid in enumerate(_generator(split).permutation(list(table) * count)):
            name = f"{split}_{i}.JPEG"
            lines.append(f"{name}\t{wnid}\t{_write_image(images / name, table[wnid], zooms)}")
        if split == "val":
            (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (root / "wnids.txt").write_text("\n".join(_generator("wnids").permutation(list(table))) + "\n", "utf-8")
    words = [f"{wnid_of(letter)}\tletter {letter}, capital {letter}" for letter in ascii_uppercase]
    (root / "words.txt").write_text("\n".join(words) + "\n", "utf-8")


def wnid_of(letter: str) -> str:
    """The name of a class."""
    return f"n9{ord(letter):07d}"


def _write_image(path: Path, letter: str, zooms: tuple[float, float]) -> str:
    """Draws one JPEG; returns its box, tab-separated."""
    pixels, mask = draw_image(letter, _generator(path.name, letter), zooms)
    image = Image.fromarray(pixels)
    if int(path.stem.rsplit("_", 1)[1]) % GREY_EVERY == 7:
        image = image.convert("L")
    image.save(path, "JPEG", quality=90)
    left, upper, right, lower = Image.fromarray(mask).getbbox() or (1, 1, 0, 0)  # right and lower lie one beyond
    return f"{left}\t{upper}\t{right - 1}\t{lower - 1}"


def _generator(*name: str) -> np.random.Generator:
    """The random numbers that belong to a name."""
    seed = hashlib.sha256("/".join(name).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed[:16])))


def draw_image(
    letter: str, rng: np.random.Generator, zooms: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (64, 64, 3) uint8 of a letter on a background, and its mask (64, 64) bool.

    zooms: the least and the largest multiple of its size in `mini`; a large one leaves the frame.
    """
    zoom = np.exp(rng.uniform(*np.log(zooms)))
    # Sizes, tilts, colours and noise: chosen so that the published recipe gets well above chance, further if pretrained
    font, place = ImageFont.load_default(zoom * rng.uniform(38, 58)), tuple(rng.uniform(24, 40, 2))
    layer = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(layer).text(place, letter, 255, font, "mm", stroke_width=2)
    cover = np.asarray(layer.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, center=place))[..., None] / 255
    hue = ord(letter) * 0.618 + rng.normal(0, 0.06)  # a letter has some colours more often than others
    paint = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.3, 0.9), rng.uniform(0.6, 1)))
    picture = clouds(rng)
    picture = picture + (paint - picture) * cover
    picture = rng.uniform(0.8, 1.15) * picture + rng.normal(0, rng.uniform(3, 13), picture.shape)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), cover[..., 0] > 0.5


def clouds(rng: np.random.Generator) -> np.ndarray:
    """A picture (64, 64, 3) of soft spots around one colour, five in a row."""
    coarse = np.clip(rng.integers(0, 160, 3) + rng.normal(0, 25, (5, 5, 3)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
