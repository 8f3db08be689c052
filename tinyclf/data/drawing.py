"""One synthetic image: an object with a shape and a texture on a background, 64x64 pixels, and its mask.

Size, position, rotation, colours, light and background are random, and every shape and every texture occurs in several
classes: a model has to see both, and mean colour tells little. All randomness comes from the generator given.
"""

import colorsys
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tinyclf.data.registry import SIDE

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

# Textures: positive where the first of the object's two colours goes, for (u, v) in radians of the pattern.
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
    weights: Array = np.clip(1 - np.abs(positions - np.arange(cells)), 0, 1)
    return weights


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
    shading: Array = 1 + rng.uniform(0, 0.3) * (u * np.cos(turn) + v * np.sin(turn))
    return paint * shading


def draw_image(
    shape: str, texture: str, rng: np.random.Generator, zooms: tuple[float, float] = (1.0, 1.0)
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels (64, 64, 3) uint8 of one object on a background, and its mask (64, 64) bool.

    zooms: from the least to the largest multiple of its size in `mini`, pattern and all, at which the object is seen; a
    large one leaves the frame.
    """
    zoom = np.exp(rng.uniform(*np.log(zooms)))
    picture = background(rng)
    # Sizes, tilts and noise are chosen so that the published recipe, with batches of 20, gets well above chance in its
    # 15 epochs from scratch, and clearly further from weights pretrained on the other classes.
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


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the mask: its first and last column and row, inclusive, as in the official boxes."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
