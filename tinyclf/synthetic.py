"""The embedded data set `mini`: drawn on this machine, in exactly Tiny-ImageNet's layout on disk.

A class is a shape with a texture ("striped triangle"), every shape and every texture occurs in several classes, and
size, place, rotation, colours, light and background are drawn anew for each image: a model has to see both, and mean
colour tells little. `mini-pretrain` holds the combinations that `mini` leaves out; a ResNet18 trained on it is the
stand-in for ImageNet weights. Each image has a generator (NumPy's PCG64) seeded with its own name, so that the pixels,
and with the same Pillow the JPEG bytes, are the same every time.
"""

import colorsys
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tinyclf.errors import TinyclfError
from tinyclf.registry import Layout

VERSION = 2  # raise it when the pixels change: sets drawn by another version are drawn again
SIZE = 64  # pixels, height and width
GREY_EVERY = 50  # one image in 50 is greyscale; in Tiny-ImageNet 2,178 of 120,000 are (1.8 %)

LAYOUT = Layout("mini", classes=10, train=40, val=20, test=10)
PRETRAIN_LAYOUT = Layout("mini-pretrain", classes=20, train=100, val=5, test=1)

Array = NDArray[np.float64]


# Shapes: signed distance to the outline, negative inside, for points (u, v) of the object's own unit-sized plane. -----


def polygon(corners: int, u: Array, v: Array) -> Array:
    """Regular polygon whose corners lie on the unit circle."""
    angles = 2 * np.pi * np.arange(corners) / corners + np.pi / 2
    distance: Array = np.max([u * np.cos(a) + v * np.sin(a) for a in angles], axis=0) - np.cos(np.pi / corners)
    return distance


def star(u: Array, v: Array) -> Array:
    """Five-pointed star: one edge, folded over ten half-points."""
    fold = np.abs((np.arctan2(u, v) / (2 * np.pi / 5)) % 1 - 0.5) * (2 * np.pi / 5)  # 0 in a notch, pi / 5 at a point
    radius = np.hypot(u, v)
    x, y = radius * np.cos(fold), radius * np.sin(fold)
    notch, tip = (0.45, 0.0), (np.cos(np.pi / 5), np.sin(np.pi / 5))
    dx, dy = tip[0] - notch[0], tip[1] - notch[1]
    distance: Array = ((x - notch[0]) * dy - (y - notch[1]) * dx) / np.hypot(dx, dy)
    return distance


def cross(u: Array, v: Array) -> Array:
    """Two crossed bars."""
    wide, high = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(wide - 0.95, high - 0.33), np.maximum(wide - 0.33, high - 0.95))


def crescent(u: Array, v: Array) -> Array:
    """Disc with a bite taken out of it."""
    distance: Array = np.maximum(np.hypot(u, v) - 1, 0.75 - np.hypot(u - 0.6, v))
    return distance


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "triangle": lambda u, v: polygon(3, u, v),
    "square": lambda u, v: polygon(4, u, v),
    "disc": lambda u, v: np.hypot(u, v) - 0.9,
    "star": star,
    "cross": cross,
    "crescent": crescent,
}

# Textures: positive where the first of the object's two colours goes, for (u, v) in radians of the pattern. -----------

TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "striped": lambda u, v: np.sin(v),
    "checkered": lambda u, v: 1.6 * np.sin(u) * np.sin(v),
    "dotted": lambda u, v: np.cos(u) + np.cos(v) - 0.6,
    "ringed": lambda u, v: np.sin(np.hypot(u, v)),
    "zigzag": lambda u, v: np.sin(v + 1.6 * np.abs((u / np.pi) % 2 - 1)),
}
SYNONYMS = {
    "striped": "banded", "checkered": "chequered", "dotted": "spotted", "ringed": "rippled", "zigzag": "chevron",
}  # fmt: skip


def class_table(folder: str | None = None) -> dict[str, tuple[str, str]]:
    """wnid -> (shape, texture) of one of the two sets, or of both: words.txt names more than the set's own classes.

    `mini` has five of the six shapes, each with two textures, and each texture twice.
    """
    table = {}
    for s, shape in enumerate(SHAPES):
        for t, texture in enumerate(TEXTURES):
            owner = "mini" if (t - 2 * s) % 5 < 2 and s < 5 else "mini-pretrain"
            if folder in (None, owner):
                table[f"n9{s + 1:03d}{t + 1:03d}0"] = (shape, texture)
    return table


# One image. -----------------------------------------------------------------------------------------------------------


def colour(hue: float, saturation: float, value: float) -> Array:
    """RGB in 0..1, shape (3, 1, 1); hue is taken modulo 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)).reshape(3, 1, 1)


@cache
def stretch(cells: int) -> Array:
    """(64, cells) weights that interpolate linearly from `cells` values to 64 pixels."""
    at = np.linspace(0, cells - 1, SIZE)[:, None]
    weights: Array = np.clip(1 - np.abs(at - np.arange(cells)), 0, 1)
    return weights


def place(x: float, y: float, radius: float, angle: float, aspect: float = 1.0) -> tuple[Array, Array]:
    """Coordinates (u, v), each (64, 64), of the pixels in the plane of an object put there."""
    pixels = np.arange(SIZE)
    dx, dy = (pixels - x) / radius, (pixels[:, None] - y) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    return (dx * cos + dy * sin) * aspect, (dy * cos - dx * sin) / aspect


def blend(picture: Array, paint: Array, cover: Array) -> Array:
    """`paint` laid over `picture`, both (3, 64, 64) or one colour (3, 1, 1), where `cover` (64, 64) is 1."""
    return picture + (paint - picture) * cover


def background(rng: np.random.Generator) -> Array:
    """A gradient between two colours, cloudy, with up to three plain small shapes that are nobody's class."""
    u, v = place(31.5, 31.5, 45, rng.uniform(0, 2 * np.pi))
    ends = [colour(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.9)) for _ in range(2)]
    picture = blend(ends[0], ends[1], np.clip(u / 2 + 0.5, 0, 1))
    for cells in (5, 14):
        picture = picture + stretch(cells) @ rng.normal(0, 0.05, (3, cells, cells)) @ stretch(cells).T
    for _ in range(rng.integers(0, 4)):
        radius = rng.uniform(3, 8)
        x, y = rng.uniform(0, SIZE, 2)
        u, v = place(x, y, radius, rng.uniform(0, 2 * np.pi))
        outline = list(SHAPES.values())[rng.integers(len(SHAPES))](u, v)
        paint = colour(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.2, 1))
        picture = blend(picture, paint, rng.uniform(0.4, 0.9) * np.clip(0.5 - outline * radius, 0, 1))
    return picture


def draw_image(shape: str, texture: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels (64, 64, 3) uint8 of one object on a background, and its mask (64, 64) bool."""
    picture = background(rng)
    # Sizes, tilts and noise are chosen so that the published recipe, with batches of 20, gets well above chance in its
    # 15 epochs from scratch, and clearly further from weights pretrained on the other classes.
    radius, angle, aspect = rng.uniform(18, 28), rng.uniform(-0.5, 0.5), rng.uniform(0.85, 1.18)
    x, y = rng.uniform(radius * 0.9, SIZE - 1 - radius * 0.9, 2)
    u, v = place(x, y, radius, angle, aspect)
    cover = np.clip(0.5 - SHAPES[shape](u, v) * radius, 0, 1)  # antialiased over one pixel

    shadow = SHAPES[shape](*place(x + 2, y + 3, radius, angle, aspect)) * radius
    picture = picture * (1 - 0.45 * np.clip(0.5 - shadow / 5, 0, 1))

    period = rng.uniform(8, 11)  # pixels
    turn = rng.uniform(-0.4, 0.4)
    frequency = 2 * np.pi * radius / period
    centre = rng.uniform(-0.25, 0.25, 2)
    a, b = (u - centre[0]) * frequency, (v - centre[1]) * frequency
    pattern = TEXTURES[texture](a * np.cos(turn) + b * np.sin(turn), b * np.cos(turn) - a * np.sin(turn))
    hue = list(SHAPES).index(shape) * 0.37 + list(TEXTURES).index(texture) * 0.23 + rng.normal(0, 0.08)
    light = colour(hue, rng.uniform(0.2, 0.8), rng.uniform(0.75, 1))
    dark = colour(hue + rng.normal(0, 0.15), rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.5))
    paint = blend(dark, light, np.clip(0.5 + 1.5 * pattern, 0, 1))
    shading = 1 + rng.uniform(0, 0.3) * (u * np.cos(turn) + v * np.sin(turn))
    picture = blend(picture, paint * shading, cover)

    picture = rng.uniform(0.8, 1.15) * picture + rng.normal(0, rng.uniform(0.01, 0.05), picture.shape)
    pixels = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), cover > 0.5


def box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the mask: first and last column and row, both inside it, as the official boxes have it."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


# A data set. ----------------------------------------------------------------------------------------------------------


def draw(parent: Path) -> Path:
    """`parent`/mini, drawn if it is not there yet; see `_draw`."""
    return _draw(LAYOUT, parent)


def draw_pretrain(parent: Path) -> Path:
    """`parent`/mini-pretrain, drawn if it is not there yet; see `_draw`."""
    return _draw(PRETRAIN_LAYOUT, parent)


def _draw(layout: Layout, parent: Path) -> Path:
    """The folder of one set. A set of another recipe is drawn again; a set is there whole or not at all.

    Processes that draw at once wait for each other. Raises TinyclfError where the folder cannot be written.
    """
    target = Path(parent) / layout.folder
    if _recipe_of(target) == _recipe(layout):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(target.parent):
            if _recipe_of(target) != _recipe(layout):  # not drawn by whom we waited for
                _draw_beside_and_rename(layout, target)
    except OSError as error:
        raise TinyclfError(
            f"The data set {layout.folder} could not be drawn as {target}: {error}. Free some space or make the folder "
            "writable, and run again; nothing half-drawn is left."
        ) from error
    return target


def _recipe(layout: Layout) -> str:
    """What decides the bytes of a set."""
    return f"tinyclf mini, version {VERSION}, Pillow {PIL.__version__}, {layout}\n"


def _recipe_of(folder: Path) -> str | None:
    """The recipe that a drawn set carries; None where there is no such set."""
    try:
        return (folder / ".recipe").read_text()
    except OSError:
        return None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time: a lock on the folder itself, which leaves no lock file and ends with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _draw_beside_and_rename(layout: Layout, target: Path) -> None:
    """`target`, through a folder beside it; call it alone in the parent folder."""
    beside = target.with_name(target.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)  # a killed process may have left one
    try:
        _write_set(layout, beside / "new")
        if target.exists():
            target.rename(beside / "old")
        (beside / "new").rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_set(layout: Layout, root: Path) -> None:
    """All files of the set, named and formatted as the official archive has them."""
    table = class_table(layout.folder)
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)

    for wnid in table:
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        lines = [
            f"{wnid}_{i}.JPEG\t" + _write_image(images / f"{wnid}_{i}.JPEG", table[wnid]) for i in range(layout.train)
        ]
        (images.parent / f"{wnid}_boxes.txt").write_text("\n".join(lines) + "\n")

    lines = []
    for i, wnid in enumerate(_shuffled(list(table) * layout.val, "val")):
        lines.append(f"val_{i}.JPEG\t{wnid}\t" + _write_image(root / "val" / "images" / f"val_{i}.JPEG", table[wnid]))
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    for i, wnid in enumerate(_shuffled(list(table) * layout.test, "test")):
        _write_image(root / "test" / "images" / f"test_{i}.JPEG", table[wnid])

    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in _shuffled(list(table), "wnids")))
    words = [f"{wnid}\t{t} {s}, {SYNONYMS[t]} {s}\n" for wnid, (s, t) in class_table().items()]
    (root / "words.txt").write_text("".join(words))
    (root / ".recipe").write_text(_recipe(layout))


def _generator(*name: str) -> np.random.Generator:
    """The random numbers that belong to a name."""
    seed = hashlib.sha256("/".join(name).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed[:16])))


def _shuffled(items: list[str], name: str) -> list[str]:
    return [items[i] for i in _generator(name).permutation(len(items))]


def _write_image(path: Path, kind: tuple[str, str]) -> str:
    """Draws one JPEG; returns its box, tab-separated."""
    pixels, mask = draw_image(*kind, _generator(path.name, *kind))
    image = Image.fromarray(pixels)
    if int(path.stem.rsplit("_", 1)[1]) % GREY_EVERY == 7:
        image = image.convert("L")
    image.save(path, "JPEG", quality=90)
    return "\t".join(map(str, box(mask)))
