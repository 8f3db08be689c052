"""The synthetic data set `mini`, made on this machine in exactly Tiny-ImageNet's layout on disk.

A class is a shape with a texture ("striped triangle"); size, position, rotation, colours, light and background are
random. `mini-pretrain` has the combinations that `mini` leaves out, seen from closer up, as ImageNet's images are. A
ResNet18 trained on it is the stand-in for ImageNet weights. Each image has a generator (NumPy's PCG64) seeded with its
own name, so that the pixels, and with the same Pillow the JPEG bytes, are the same every time.
"""

import colorsys
import hashlib
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tinyclf.data.registry import MINI, SIDE, Layout
from tinyclf.utils.files import make_folder

Array = NDArray[np.float64]

VERSION = 4  # raise it when the pixels change: the sets of before are left alone, and not used
GREY_EVERY = 50  # one image in 50 is greyscale; in Tiny-ImageNet 2,178 of 120,000 are (1.8%)
PRETRAIN = Layout("mini-pretrain", classes=20, train=100, val=5, test=1)
ZOOMS = {MINI.folder: (1.0, 1.0), PRETRAIN.folder: (0.8, 2.4)}  # how much larger than in `mini` an object is seen
SYNONYMS = dict(striped="banded", checkered="chequered", dotted="spotted", ringed="rippled", zigzag="chevron")


def dataset_folder(layout: Layout, parent: Path) -> Path:
    """The folder of MINI or PRETRAIN in `parent`: its name tells everything that decides the bytes of the set."""
    recipe = f"tinyclf mini, version {VERSION}, Pillow {PIL.__version__}, {layout}\n"
    return parent / f"{layout.folder}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


def make_dataset(layout: Layout, parent: Path) -> Path:
    """`dataset_folder`, written whole or not at all if it is not there; others wait. Raises TinyclfError."""
    return make_folder(dataset_folder(layout, parent), partial(_write_dataset, layout))


def class_table(folder: str | None = None) -> dict[str, tuple[str, str]]:
    """wnid -> (shape, texture) of one of the two sets, or of both: words.txt names more than the set's own classes.

    `mini` has five of the six shapes, each with two textures, and each texture twice.
    """
    table = {}
    for (s, shape), (t, texture) in product(enumerate(SHAPES), enumerate(TEXTURES)):
        owner = MINI.folder if (t - 2 * s) % 5 < 2 and s < 5 else PRETRAIN.folder
        if folder in (None, owner):
            table[f"n9{s + 1:03d}{t + 1:03d}0"] = (shape, texture)
    return table


def _write_dataset(layout: Layout, root: Path) -> None:
    """All files of the set, named and formatted as in the official archive."""
    table, zooms = class_table(layout.folder), ZOOMS[layout.folder]
    for wnid, kind in table.items():
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        names = [f"{wnid}_{i}.JPEG" for i in range(layout.train)]
        boxes = [f"{name}\t{_write_image(images / name, kind, zooms)}" for name in names]
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
    words = [f"{wnid}\t{t} {s}, {SYNONYMS[t]} {s}" for wnid, (s, t) in class_table().items()]
    (root / "words.txt").write_text("\n".join(words) + "\n", "utf-8")


def _write_image(path: Path, kind: tuple[str, str], zooms: tuple[float, float]) -> str:
    """Draws one JPEG; returns its box, tab-separated."""
    pixels, mask = draw_image(*kind, _generator(path.name, *kind), zooms)
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


def polygon(corners: int, u: Array, v: Array) -> Array:
    """Regular polygon whose corners lie on the unit circle."""
    angles = 2 * np.pi * np.arange(corners) / corners + np.pi / 2
    return np.asarray(np.max([u * np.cos(a) + v * np.sin(a) for a in angles], axis=0) - np.cos(np.pi / corners))


def star(u: Array, v: Array) -> Array:
    """Five-pointed star: one edge, folded over ten half-points."""
    fold = np.abs((np.arctan2(u, v) / (2 * np.pi / 5)) % 1 - 0.5) * (2 * np.pi / 5)  # 0 in a notch, pi / 5 at a point
    radius = np.hypot(u, v)
    x, y = radius * np.cos(fold), radius * np.sin(fold)
    notch, tip = (0.45, 0.0), (np.cos(np.pi / 5), np.sin(np.pi / 5))
    dx, dy = tip[0] - notch[0], tip[1] - notch[1]
    return np.asarray(((x - notch[0]) * dy - (y - notch[1]) * dx) / np.hypot(dx, dy))


# Signed distance to the outline, negative inside, for points (u, v) of the object's own unit-sized plane.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "triangle": lambda u, v: polygon(3, u, v),
    "square": lambda u, v: polygon(4, u, v),
    "disc": lambda u, v: np.hypot(u, v) - 0.9,
    "star": star,
    "cross": lambda u, v: np.maximum(np.maximum(abs(u), abs(v)) - 0.95, np.minimum(abs(u), abs(v)) - 0.33),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 1, 0.75 - np.hypot(u - 0.6, v)),  # a disc, bitten
}

# Positive where the first of the object's two colours goes, for (u, v) in radians of the pattern.
TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "striped": lambda u, v: np.sin(v),
    "checkered": lambda u, v: 1.6 * np.sin(u) * np.sin(v),
    "dotted": lambda u, v: np.cos(u) + np.cos(v) - 0.6,
    "ringed": lambda u, v: np.sin(np.hypot(u, v)),
    "zigzag": lambda u, v: np.sin(v + 1.6 * np.abs((u / np.pi) % 2 - 1)),
}


def colour(hue: float, saturation: float, value: float) -> Array:
    """RGB in 0..1, shape (3, 1, 1); hue is taken modulo 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)).reshape(3, 1, 1)


@cache
def stretch(cells: int) -> Array:
    """(64, cells) weights that interpolate linearly from `cells` values to 64 pixels."""
    positions = np.linspace(0, cells - 1, SIDE)[:, None]
    return np.asarray(np.clip(1 - np.abs(positions - np.arange(cells)), 0, 1))


def object_plane(x: float, y: float, radius: float, angle: float, aspect: float = 1.0) -> tuple[Array, Array]:
    """Coordinates (u, v), each (64, 64), of the image's pixels in the plane of an object at (x, y)."""
    pixels = np.arange(SIDE)
    dx, dy = (pixels - x) / radius, (pixels[:, None] - y) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    return (dx * cos + dy * sin) * aspect, (dy * cos - dx * sin) / aspect


def blend(picture: Array, paint: Array, cover: Array) -> Array:
    """`paint` over `picture`, both (3, 64, 64) or one colour (3, 1, 1), where `cover` (64, 64) is 1."""
    return picture + (paint - picture) * cover


def background(rng: np.random.Generator) -> Array:
    """A cloudy gradient between two colours, with up to three plain small shapes that belong to no class."""
    u, v = object_plane(31.5, 31.5, 45, rng.uniform(0, 2 * np.pi))
    ends = [colour(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.9)) for _ in range(2)]
    picture = blend(ends[0], ends[1], np.clip(u / 2 + 0.5, 0, 1))
    for cells in (5, 14):
        picture = picture + stretch(cells) @ rng.normal(0, 0.05, (3, cells, cells)) @ stretch(cells).T
    for _ in range(rng.integers(0, 4)):
        radius = rng.uniform(3, 8)
        x, y = rng.uniform(0, SIDE, 2)
        u, v = object_plane(x, y, radius, rng.uniform(0, 2 * np.pi))
        outline = list(SHAPES.values())[rng.integers(len(SHAPES))](u, v)
        paint = colour(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.2, 1))
        picture = blend(picture, paint, rng.uniform(0.4, 0.9) * np.clip(0.5 - outline * radius, 0, 1))
    return picture


def textured(
    shape: str, texture: str, u: Array, v: Array, radius: float, zoom: float, rng: np.random.Generator
) -> Array:
    """The object's paint (3, 64, 64): two colours in the pattern of the texture, shaded from one side."""
    period = zoom * rng.uniform(8, 11)  # pixels
    turn = rng.uniform(-0.4, 0.4)
    frequency = 2 * np.pi * radius / period
    centre = rng.uniform(-0.25, 0.25, 2)
    a, b = (u - centre[0]) * frequency, (v - centre[1]) * frequency
    pattern = TEXTURES[texture](a * np.cos(turn) + b * np.sin(turn), b * np.cos(turn) - a * np.sin(turn))
    hue = list(SHAPES).index(shape) * 0.37 + list(TEXTURES).index(texture) * 0.23 + rng.normal(0, 0.08)
    light = colour(hue, rng.uniform(0.2, 0.8), rng.uniform(0.75, 1))
    dark = colour(hue + rng.normal(0, 0.15), rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.5))
    paint = blend(dark, light, np.clip(0.5 + 1.5 * pattern, 0, 1))
    return np.asarray(paint * (1 + rng.uniform(0, 0.3) * (u * np.cos(turn) + v * np.sin(turn))))


def draw_image(
    shape: str, texture: str, rng: np.random.Generator, zooms: tuple[float, float] = (1.0, 1.0)
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels (64, 64, 3) uint8 of one object on a background, and its mask (64, 64) bool.

    zooms: the least and the largest multiple of its size in `mini`, pattern and all; a large one leaves the frame.
    """
    zoom = np.exp(rng.uniform(*np.log(zooms)))
    picture = background(rng)
    # Sizes, tilts and noise: chosen so that the published recipe gets well above chance, and further when pretrained
    radius, angle, aspect = zoom * rng.uniform(18, 28), rng.uniform(-0.5, 0.5), rng.uniform(0.85, 1.18)
    free = max(SIDE - 1 - radius * 1.8, 12) / 2  # pixels that the centre can move, each way
    x, y = (SIDE - 1) / 2 + rng.uniform(-free, free, 2)
    u, v = object_plane(x, y, radius, angle, aspect)
    cover = np.clip(0.5 - SHAPES[shape](u, v) * radius, 0, 1)  # antialiased over one pixel
    shadow = SHAPES[shape](*object_plane(x + 2, y + 3, radius, angle, aspect)) * radius
    picture = picture * (1 - 0.45 * np.clip(0.5 - shadow / 5, 0, 1))
    picture = blend(picture, textured(shape, texture, u, v, radius, zoom, rng), cover)
    picture = rng.uniform(0.8, 1.15) * picture + rng.normal(0, rng.uniform(0.01, 0.05), picture.shape)
    pixels = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), cover > 0.5
