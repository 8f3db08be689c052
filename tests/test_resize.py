"""Enlarging and shrinking, against PIL: the very same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclf.data.cache import load_data
from tinyclf.data.resize import resize, resize_in_int32

RNG = np.random.default_rng(0)
IMAGES = {
    "noise": RNG.integers(0, 256, (6, 64, 64, 3), np.uint8),
    "black and white": (RNG.integers(0, 2, (6, 64, 64, 3)) * 255).astype(np.uint8),  # overshoots most
    "oblong": RNG.integers(0, 256, (2, 50, 301, 3), np.uint8),
}


@pytest.mark.parametrize("size", [224, 128, 65, 64, 63, 32, 7, 1])
def test_pixels_are_those_of_pils_bicubic(size):
    synthetic = np.array(load_data("mini").train.images[::80])
    for images in (*IMAGES.values(), synthetic):
        resized = resize(torch.from_numpy(images), size)
        assert resized.dtype == torch.uint8 and resized.is_contiguous()
        pils = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images]
        np.testing.assert_array_equal(resized.numpy(), np.stack(pils))


@pytest.mark.parametrize("size", [1, 7, 31, 32, 63, 65, 100, 128, 224, 513])
def test_whole_numbers_of_32_bits_give_the_same_pixels(size):
    for images in IMAGES.values():
        pixels = torch.from_numpy(images)
        assert torch.equal(resize_in_int32(pixels, size), resize(pixels, size))


def test_images_of_the_right_size_are_left_alone():
    images = torch.from_numpy(IMAGES["noise"])
    assert resize(images, 64) is images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_pixels():
    images = torch.from_numpy(IMAGES["black and white"])
    assert torch.equal(resize(images.cuda(), 224).cpu(), resize(images, 224))
