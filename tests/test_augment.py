"""Augmentation against plain NumPy, image by image, and the same pixels on a GPU where there is one."""

import numpy as np
import pytest
import torch

from tinyclf.data.augment import Augmentation, SampleParams
from tinyclf.data.loader import ImageLoader
from tinyclf.data.registry import NORMALIZATIONS

COUNT, SIDE, CLASSES = 37, 64, 5
ALL = Augmentation(flip=True, crop_padding=4, mixup=0.4, cutmix=1.0)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8), np.arange(COUNT) % CLASSES


def plain(images, params, index, padding):
    """One image padded, cropped and mirrored with NumPy, scaled to 0..1: float32 (H, W, 3)."""
    image = images[index]
    if params.corner is not None:
        top, left = params.corner[index].tolist()
        image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))[top : top + SIDE, left : left + SIDE]
    if params.mirrored is not None and params.mirrored[index]:
        image = image[:, ::-1]
    return image.astype(np.float32) / 255


def together(loader, epoch=1):
    parts = list(loader.epoch(epoch))
    return torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts])


@pytest.mark.parametrize("augmentation", [Augmentation(crop_padding=4), Augmentation(flip=True, crop_padding=9)])
def test_each_image_is_cropped_and_mirrored_by_parameters_of_its_own(data, augmentation):
    params = augmentation.sample_params(3, 1, COUNT, 8, SIDE)
    pixels, _ = together(ImageLoader(*data, 8, augmentation=augmentation, seed=3))
    for index in range(COUNT):
        expected = plain(data[0], params, index, augmentation.crop_padding)
        np.testing.assert_array_equal(pixels[index].permute(1, 2, 0).numpy(), expected)
    assert len({tuple(corner) for corner in params.corner.tolist()}) > COUNT / 2
    assert params.corner.min() >= 0 and params.corner.max() <= 2 * augmentation.crop_padding


def test_mixing_weighs_pixels_and_labels_by_the_same_share(data):
    params = ALL.sample_params(0, 1, COUNT, 8, SIDE)
    pixels, targets = together(ImageLoader(*data, 8, augmentation=ALL))
    boxed = 0
    for index in range(COUNT):
        partner = int(params.partner[index])
        assert partner // 8 == index // 8  # of the same batch
        own, other = (plain(data[0], params, image, 4) for image in (index, partner))
        top, left, bottom, right = params.box[index].tolist()
        weight = np.ones((SIDE, SIDE, 1), np.float32)
        weight[top:bottom, left:right] = params.weight[index]
        expected = own * weight + other * (1 - weight)
        np.testing.assert_allclose(pixels[index].permute(1, 2, 0).numpy(), expected, atol=1e-6)
        share = np.zeros(CLASSES)
        share[data[1][index]] += weight.mean()
        share[data[1][partner]] += 1 - weight.mean()
        np.testing.assert_allclose(targets[index].numpy(), share, atol=1e-5)
        boxed += params.weight[index] == 0
    assert 0 < boxed < COUNT  # some by CutMix, some by mixup
    assert targets.sum(1) == pytest.approx(torch.ones(COUNT), abs=1e-5)


def test_the_shares_of_mixup_and_the_areas_of_cutmix_follow_their_distributions():
    count = 20_000
    weights = Augmentation(mixup=0.4).sample_params(0, 1, count, 100, SIDE).weight.double()
    assert weights.mean().item() == pytest.approx(0.5, abs=0.01)
    assert weights.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)  # of Beta(0.4, 0.4)
    params = Augmentation(cutmix=1.0).sample_params(0, 1, count, 100, SIDE)
    top, left, bottom, right = params.box.T
    assert (params.weight == 0).all() and (bottom >= top).all() and (right >= left).all()
    assert params.box.min() >= 0 and params.box.max() <= SIDE
    whole = (top > 0) & (left > 0) & (bottom < SIDE) & (right < SIDE)  # not cut at an edge: nearly square
    assert ((bottom - top - (right - left)).abs()[whole] <= 1).all() and whole.any()
    assert (params.partner != torch.arange(count)).float().mean() > 0.98


def test_nothing_is_done_by_default(data):
    assert Augmentation().sample_params(0, 1, COUNT, 8, SIDE) == SampleParams()
    pixels, targets = together(ImageLoader(*data, 8))
    np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), data[0].astype(np.float32) / 255)
    np.testing.assert_array_equal(targets, data[1])


@pytest.mark.parametrize("name", ["imagenet", "tiny-imagenet"])
def test_normalisation_is_torchvisions(data, name):
    from torchvision.transforms.v2.functional import normalize

    mean, deviation = NORMALIZATIONS[name]
    pixels, _ = together(ImageLoader(*data, 8, normalization=name))
    expected = normalize(torch.from_numpy(data[0]).permute(0, 3, 1, 2) / 255, list(mean), list(deviation))
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_mix_with_all_of_it(data, parts):
    whole = list(ImageLoader(*data, 8, shuffle=True, augmentation=ALL).epoch(2))
    shares = [
        list(ImageLoader(*data, 8, shuffle=True, augmentation=ALL, part=p, parts=parts).epoch(2)) for p in range(parts)
    ]
    for batch, *pieces in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
        assert torch.equal(torch.cat([piece.targets for piece in pieces]), batch.targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("normalization", ["none", "imagenet"])
def test_a_gpu_gives_the_same_pixels_to_the_last_bit(data, normalization):
    kind = {"shuffle": True, "augmentation": ALL, "normalization": normalization}
    for here, there in zip(
        ImageLoader(*data, 8, **kind).epoch(1), ImageLoader(*data, 8, "cuda", **kind).epoch(1), strict=True
    ):
        assert there.images.device.type == "cuda"
        assert torch.equal(there.images.cpu(), here.images) and torch.equal(there.targets.cpu(), here.targets)
