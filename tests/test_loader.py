"""ImageLoader against plain indexing: every image once, the right pixels, parameters of its own for each image."""

from dataclasses import replace

import numpy as np
import pytest
import random_data
import torch
from PIL import Image

from tinyclf.data.augment import Augmentation
from tinyclf.data.cache import PackedSplit
from tinyclf.data.loader import ImageLoader
from tinyclf.data.registry import NORMALIZATIONS
from tinyclf.data.resize import resize
from tinyclf.experiments.recipe import train_loader, val_loader
from tinyclf.experiments.settings import Settings
from tinyclf.training.device import this_process
from tinyclf.utils.errors import TinyclfError

COUNT = 23
FLIP = Augmentation(flip=True)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)


LABELS = np.arange(COUNT)  # each image's label tells which image it is


@pytest.mark.parametrize("batch_size", [1, COUNT - 1, COUNT + 1])
def test_in_order_they_are_the_images_scaled(images, batch_size):
    loader = ImageLoader(images, LABELS, batch_size)
    parts = list(loader.epoch())
    assert len(parts) == len(loader)
    pixels = torch.cat([part for part, *_ in parts])
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part, *_ in parts)
    np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), images.astype(np.float32) / 255)
    assert torch.cat([labels for _, labels, _ in parts]).tolist() == LABELS.tolist()


def test_at_another_input_size_they_are_the_images_as_pil_resizes_them(images):
    options = {"augmentation": FLIP, "normalization": "imagenet", "input_size": 96}
    (batch,) = ImageLoader(images, LABELS, COUNT, **options).epoch(3)
    (plain,) = ImageLoader(images, LABELS, COUNT, **options | {"input_size": 64, "normalization": "none"}).epoch(3)
    small = (plain.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    large = np.stack([Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC) for image in small])
    mean, deviation = (np.array(values, np.float32) for values in NORMALIZATIONS["imagenet"])
    expected = (large.astype(np.float32) / 255 - mean) / deviation
    np.testing.assert_allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-6, atol=1e-6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_the_kernel_of_opencv_is_passed_on(images):
    [batch] = ImageLoader(images, LABELS, COUNT, input_size=96, kernel="opencv").epoch()
    expected = resize(torch.from_numpy(images), 96, "opencv")
    assert torch.equal((batch.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1), expected)
    assert not torch.equal(expected, resize(torch.from_numpy(images), 96))
    with pytest.raises(TinyclfError, match=r"kernel = 'cubic'.*pil, opencv"):
        ImageLoader(images, LABELS, COUNT, kernel="cubic")


def test_shuffled_every_image_comes_once_an_epoch_with_its_label(images):
    loader = ImageLoader(images, LABELS, 5, shuffle=True)
    orders = []
    for epoch in (1, 2):
        parts = list(loader.epoch(epoch))
        order = torch.cat([labels for _, labels, _ in parts]).numpy()
        assert sorted(order) == LABELS.tolist()
        pixels = torch.cat([part for part, *_ in parts]).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pixels, images[order].astype(np.float32) / 255)
        orders.append(order.tolist())
    assert orders[0] != orders[1]


def test_a_memory_map_gives_the_same_batches_as_its_array_whole_or_in_part(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for part, some in ((slice(None), mapped), (slice(5, 20), mapped[5:20])):
        labels = LABELS[part] - LABELS[part].min()
        from_map, from_array = (ImageLoader(array, labels, 6, shuffle=True) for array in (some, images[part]))
        for one, other in zip(from_map.epoch(1), from_array.epoch(1), strict=True):
            assert all(map(torch.equal, one, other))
    loader = ImageLoader(mapped, LABELS, COUNT)
    with open(tmp_path / "images.npy", "r+b") as file:
        file.truncate(images.nbytes - 1)
    with pytest.raises(TinyclfError, match=r"images\.npy was cut short"):
        list(loader.epoch())


def test_an_epoch_does_not_depend_on_what_was_loaded_before(images):
    fresh = ImageLoader(images, LABELS, 5, shuffle=True, augmentation=FLIP, seed=3)
    used = ImageLoader(images, LABELS, 5, shuffle=True, augmentation=FLIP, seed=3)
    list(used.epoch(1))
    torch.rand(7)
    for one, other in zip(fresh.epoch(4), used.epoch(4), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    other_seed = ImageLoader(images, LABELS, COUNT, shuffle=True, seed=4)
    assert next(other_seed.epoch(4))[1].tolist() != torch.cat([labels for _, labels, _ in fresh.epoch(4)]).tolist()


def test_a_run_trains_on_shuffled_and_augmented_images_and_validates_on_all_as_they_are():
    mixed = {"flip": False, "crop_padding": 2, "mixup": 0.1, "cutmix": 0.3}
    settings = Settings(batch_size=8, input_size=96, kernel="opencv", normalization="imagenet", seed=3, **mixed)
    data = random_data.data()
    told_apart = {"train": PackedSplit(data.train.images, np.arange(20)), "classes": [*"abcdefghijklmnopqrst"]}
    train = train_loader(replace(data, **told_apart), settings, this_process())
    orders = [torch.cat([batch.labels for batch in train.epoch(epoch)]).tolist() for epoch in (1, 2)]
    assert all(sorted(order) == [*range(20)] for order in orders) and len({*map(tuple, orders), (*range(20),)}) == 3
    assert train.augmentation == Augmentation(**mixed) and train.seed == 3
    val = list(val_loader(data, settings, this_process()).epoch())
    large = resize(torch.from_numpy(data.val.images), 96, "opencv").permute(0, 3, 1, 2) / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in NORMALIZATIONS["imagenet"])
    torch.testing.assert_close(torch.cat([batch.images for batch in val]), (large - mean) / deviation)
    assert torch.cat([batch.labels for batch in val]).tolist() == data.val.labels.tolist()
