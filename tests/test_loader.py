"""ImageLoader against plain indexing: every image once, the right pixels, parameters of its own for each image."""

from dataclasses import replace

import numpy as np
import pytest
import random_data
import torch
from PIL import Image

from tinyclf import Settings
from tinyclf.data.augment import Augmentation
from tinyclf.data.cache import PackedSplit
from tinyclf.data.loader import ImageLoader
from tinyclf.data.registry import NORMALIZATIONS
from tinyclf.data.resize import resize
from tinyclf.experiments.recipe import train_loader, val_loader
from tinyclf.training.device import this_process
from tinyclf.utils.errors import TinyclfError

COUNT = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)
LABELS = np.arange(COUNT)  # each image's label tells which image it is
FLIP = Augmentation(flip=True)


def together(batches):
    """The images (N, H, W, 3) and labels of batches."""
    images, labels, _ = zip(*batches, strict=True)
    return torch.cat(images).permute(0, 2, 3, 1).numpy(), torch.cat(labels).numpy()


@pytest.mark.parametrize("batch_size", [1, COUNT - 1, COUNT + 1])
def test_in_order_they_are_the_images_scaled(batch_size):
    loader = ImageLoader(IMAGES, LABELS, batch_size)
    batches = list(loader.epoch())
    assert len(batches) == len(loader)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    pixels, labels = together(batches)
    np.testing.assert_array_equal(pixels, IMAGES.astype(np.float32) / 255)
    assert labels.tolist() == LABELS.tolist()


def test_at_another_input_size_they_are_the_images_as_pil_resizes_them():
    options = {"augmentation": FLIP, "normalization": "imagenet", "input_size": 96}
    pixels, _ = together(ImageLoader(IMAGES, LABELS, COUNT, **options).epoch(3))
    plain, _ = together(ImageLoader(IMAGES, LABELS, COUNT, augmentation=FLIP).epoch(3))
    small = (plain * 255).round().astype(np.uint8)
    large = np.stack([Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC) for image in small])
    mean, deviation = (np.array(values, np.float32) for values in NORMALIZATIONS["imagenet"])
    expected = (large.astype(np.float32) / 255 - mean) / deviation
    np.testing.assert_allclose(pixels, expected, rtol=1e-6, atol=1e-6)


def test_shuffled_every_image_comes_once_an_epoch_with_its_label():
    loader = ImageLoader(IMAGES, LABELS, 5, shuffle=True)
    (first, order), (_, other) = (together(loader.epoch(epoch)) for epoch in (1, 2))
    assert sorted(order) == sorted(other) == LABELS.tolist() and order.tolist() != other.tolist()
    np.testing.assert_array_equal(first, IMAGES[order].astype(np.float32) / 255)
    torch.rand(7)  # what else is drawn, or was loaded before, does not matter: the seed does
    assert together(loader.epoch(1))[1].tolist() == order.tolist()
    other_seed = ImageLoader(IMAGES, LABELS, 5, shuffle=True, seed=4)
    assert together(other_seed.epoch(1))[1].tolist() != order.tolist()


def test_a_memory_map_gives_the_same_batches_as_its_array_whole_or_in_part(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for part, some in ((slice(None), mapped), (slice(5, 20), mapped[5:20])):
        labels = LABELS[part] - LABELS[part].min()
        from_map, from_array = (ImageLoader(array, labels, 6, shuffle=True) for array in (some, IMAGES[part]))
        for one, other in zip(from_map.epoch(1), from_array.epoch(1), strict=True):
            assert all(map(torch.equal, one, other))
    loader = ImageLoader(mapped, LABELS, COUNT)
    with open(tmp_path / "images.npy", "r+b") as file:
        file.truncate(IMAGES.nbytes - 1)
    with pytest.raises(TinyclfError, match=r"images\.npy was cut short"):
        list(loader.epoch())


def test_a_run_trains_on_shuffled_and_augmented_images_and_validates_on_all_as_they_are():
    mixed = {"flip": False, "crop_padding": 2, "mixup": 0.1, "cutmix": 0.3}
    settings = Settings(batch_size=8, input_size=96, kernel="opencv", normalization="imagenet", seed=3, **mixed)
    data = random_data.data()
    told_apart = {"train": PackedSplit(data.train.images, np.arange(20)), "classes": [*"abcdefghijklmnopqrst"]}
    train = train_loader(replace(data, **told_apart), settings, this_process())
    orders = [together(train.epoch(epoch))[1].tolist() for epoch in (1, 2)]
    assert all(sorted(order) == [*range(20)] for order in orders) and len({*map(tuple, orders), (*range(20),)}) == 3
    assert train.augmentation == Augmentation(**mixed) and train.seed == 3
    pixels, labels = together(val_loader(data, settings, this_process()).epoch())
    mean, deviation = map(np.array, NORMALIZATIONS["imagenet"])
    large = resize(torch.from_numpy(data.val.images), 96, "opencv").numpy()
    np.testing.assert_allclose(pixels, (large / 255 - mean) / deviation, rtol=1.3e-6, atol=1e-5)
    assert labels.tolist() == data.val.labels.tolist()
