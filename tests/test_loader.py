"""ImageLoader against plain indexing: every image once, the right pixels, a draw for each image, epochs on their own."""

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclf.augment import Augmentation
from tinyclf.errors import TinyclfError
from tinyclf.loader import ImageLoader, copy_to
from tinyclf.registry import NORMALIZATIONS

COUNT = 23
FLIP = Augmentation(flip=True)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)


LABELS = np.arange(COUNT)  # each image's label tells which image it is


@pytest.mark.parametrize("batch_size", [1, 5, COUNT - 1, COUNT, COUNT + 1])
def test_in_order_they_are_the_images_scaled(images, batch_size):
    batches = ImageLoader(images, LABELS, batch_size)
    parts = list(batches.epoch())
    assert len(parts) == len(batches)
    pixels = torch.cat([part for part, *_ in parts])
    assert pixels.dtype == torch.float32 and all(
        part.is_contiguous(memory_format=torch.channels_last) for part, *_ in parts
    )
    np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), images.astype(np.float32) / 255)
    assert torch.cat([labels for _, labels, _ in parts]).tolist() == LABELS.tolist()


def test_at_another_input_size_they_are_the_images_as_pil_resizes_them(images):
    kind = {"augmentation": FLIP, "normalization": "imagenet", "input_size": 96}
    (batch,) = ImageLoader(images, LABELS, COUNT, **kind).epoch(3)
    (plain,) = ImageLoader(images, LABELS, COUNT, **kind | {"input_size": 64, "normalization": "none"}).epoch(3)
    small = (plain.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    large = np.stack([Image.fromarray(each).resize((96, 96), Image.Resampling.BICUBIC) for each in small])
    mean, deviation = (np.array(each, np.float32) for each in NORMALIZATIONS["imagenet"])
    expected = (large.astype(np.float32) / 255 - mean) / deviation
    np.testing.assert_allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-6, atol=1e-6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_boxes_of_cutmix_are_of_the_size_that_images_are_given_out_in(images):
    white = np.full_like(images, 255)
    white[::2] = 0
    mixed = ImageLoader(white, LABELS, COUNT, augmentation=Augmentation(cutmix=1.0), input_size=128, classes=COUNT)
    (batch,) = mixed.epoch(1)
    own, bright, black = batch.targets[torch.arange(COUNT), batch.labels], batch.images.mean((1, 2, 3)), LABELS % 2 == 0
    assert (bright <= 1 - own + 1e-6)[black].all() and (bright >= own - 1e-6)[~black].all()
    assert batch.images[black, :, 64:, 64:].any() and not batch.images[~black, :, 64:, 64:].all()


def test_shuffled_every_image_comes_once_an_epoch_with_its_label(images):
    batches = ImageLoader(images, LABELS, 5, shuffle=True)
    orders = []
    for epoch in (1, 2):
        parts = list(batches.epoch(epoch))
        order = torch.cat([labels for _, labels, _ in parts]).numpy()
        assert sorted(order) == LABELS.tolist()
        pixels = torch.cat([part for part, *_ in parts]).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pixels, images[order].astype(np.float32) / 255)
        orders.append(order.tolist())
    assert orders[0] != orders[1]


def test_each_image_is_mirrored_or_not_by_a_draw_of_its_own(images):
    mirrored = []
    for epoch in range(40):
        for pixels, labels, _ in ImageLoader(images, LABELS, 6, augmentation=FLIP).epoch(epoch):
            for pixel, label in zip(pixels.permute(0, 2, 3, 1).numpy(), labels, strict=True):
                plain = images[label].astype(np.float32) / 255
                mirrored.append(not np.array_equal(pixel, plain))
                np.testing.assert_array_equal(pixel, plain[:, ::-1] if mirrored[-1] else plain)
    params = np.array(mirrored).reshape(40, COUNT)
    assert 0.4 < params.mean() < 0.6
    assert params.any(axis=0).all() and not params.all(axis=0).any()  # no image always, none never
    assert all(0 < epoch.sum() < COUNT for epoch in params)  # not one draw for all


def test_images_that_reside_on_a_device_give_the_same_batches(images):
    """On a CPU here, in the place of a GPU: the same code, and the same params."""
    kind = {"shuffle": True, "augmentation": Augmentation(flip=True, crop_padding=4, mixup=0.2, cutmix=1.0)}
    mapped, there = ImageLoader(images, LABELS, 6, **kind), ImageLoader(images, LABELS, 6, **kind)
    copied = copy_to(torch.device("cpu"), images, step=7)
    assert torch.equal(copied, torch.from_numpy(images))
    there.images = copied.__getitem__
    for one, other in zip(mapped.epoch(2), there.epoch(2), strict=True):
        assert all(map(torch.equal, one, other))


def test_a_memory_map_gives_the_same_batches_as_its_array_whole_or_in_part(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for part in (slice(None), slice(5, 20)):
        kind = (LABELS[part] - LABELS[part].min(), 6)
        ours, plain = ImageLoader(mapped[part], *kind, shuffle=True), ImageLoader(images[part], *kind, shuffle=True)
        for one, other in zip(ours.epoch(1), plain.epoch(1), strict=True):
            assert all(map(torch.equal, one, other))
    batches = ImageLoader(mapped, LABELS, COUNT)
    with open(tmp_path / "images.npy", "r+b") as file:
        file.truncate(images.nbytes - 1)
    with pytest.raises(TinyclfError, match=r"images\.npy was cut short"):
        list(batches.epoch())


def test_an_epoch_does_not_depend_on_what_was_drawn_before(images):
    fresh = ImageLoader(images, LABELS, 5, shuffle=True, augmentation=FLIP, seed=3)
    used = ImageLoader(images, LABELS, 5, shuffle=True, augmentation=FLIP, seed=3)
    list(used.epoch(1))
    torch.rand(7)
    for one, other in zip(fresh.epoch(4), used.epoch(4), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    other_seed = ImageLoader(images, LABELS, COUNT, shuffle=True, seed=4)
    assert next(other_seed.epoch(4))[1].tolist() != torch.cat([labels for _, labels, _ in fresh.epoch(4)]).tolist()
