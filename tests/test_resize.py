"""Enlarging and shrinking, against PIL: the very same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclf.data.cache import load_data
from tinyclf.data.resize import resize

RNG = np.random.default_rng(0)
IMAGES = {
    "noise": RNG.integers(0, 256, (6, 64, 64, 3), np.uint8),
    "black and white": (RNG.integers(0, 2, (6, 64, 64, 3)) * 255).astype(np.uint8),  # overshoots most
    "oblong": RNG.integers(0, 256, (2, 50, 301, 3), np.uint8),
}


@pytest.mark.parametrize("size", [224, 65, 63, 7, 1])
def test_pixels_are_those_of_pils_bicubic(size):
    synthetic = np.array(load_data("mini").train.images[::80])
    for images in (*IMAGES.values(), synthetic):
        resized = resize(torch.from_numpy(images), size)
        assert resized.dtype == torch.uint8 and resized.is_contiguous()
        pils = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images]
        np.testing.assert_array_equal(resized.numpy(), np.stack(pils))


@pytest.mark.parametrize("size", [37, 7])
def test_opencvs_pixels_are_those_of_a_plain_loop(size):
    """As OpenCV's resize.cpp has it for 8 bits: weights of 11 bits, one rounding at the end."""
    image = IMAGES["black and white"][0, :16, :16, 0].astype(int)
    a = -0.75

    def taps(position):
        start = int(np.floor(position))
        t = position - start
        first = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
        second = ((a + 2) * t - (a + 3)) * t * t + 1
        third = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) ** 2 + 1
        values = (first, second, third, 1 - first - second - third)
        return [(min(max(start - 1 + tap, 0), 15), round(2048 * value)) for tap, value in enumerate(values)]

    expected = np.zeros((size, size), np.uint8)
    for y, x in np.ndindex(size, size):
        down, across = (taps((each + 0.5) * 16 / size - 0.5) for each in (y, x))
        total = sum(v * w * image[row, column] for row, v in down for column, w in across)
        expected[y, x] = min(max((total + (1 << 21)) >> 22, 0), 255)
    found = resize(torch.from_numpy(IMAGES["black and white"][:1, :16, :16]), size, "opencv")
    np.testing.assert_array_equal(found[0, :, :, 0].numpy(), expected)


def test_a_gpu_gives_the_same_pixels(gpu):
    images = torch.from_numpy(IMAGES["black and white"])
    assert torch.equal(resize(images.to(gpu), 224).cpu(), resize(images, 224))
