"""Augmentation against plain NumPy, image by image, and against the distributions of what is drawn."""

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from tinyclf.data.augment import Augmentation
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
    top, left = params.corner[index].tolist()
    padded = np.pad(images[index], ((padding, padding), (padding, padding), (0, 0)))
    image = padded[top : top + SIDE, left : left + SIDE]
    return (image[:, ::-1] if params.mirrored[index] else image).astype(np.float32) / 255


def test_flips_and_crops_are_drawn_evenly_and_anew_in_every_epoch():
    count = 20_000
    seen = []
    for epoch in (1, 2):
        params = Augmentation(flip=True, crop_padding=4).sample_params(0, epoch, count)
        assert params.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.015)
        for corner in params.corner.T:
            assert np.bincount(corner) / count == pytest.approx(np.full(9, 1 / 9), abs=0.01)
        seen += [params.mirrored, *params.corner.T]
    assert abs(np.corrcoef(seen) - np.eye(6)).max() < 0.03  # each tells nothing of any other


def test_mixup_and_cutmix_are_torchvisions_of_these_alphas():
    images, targets, ways = torch.rand(4, 3, 8, 8), torch.eye(4), [v2.MixUp(alpha=0.4), v2.CutMix(alpha=1.5)]
    for mixup, cutmix, theirs in ((0.4, 0.0, ways[:1]), (0.0, 1.5, ways[1:]), (0.4, 1.5, ways)):
        for seed in range(200):  # so many tell apart chances that differ by 5 points
            mixed = Augmentation(mixup=mixup, cutmix=cutmix).mix(images, targets, seed)
            torch.manual_seed(seed)
            assert all(map(torch.equal, mixed, v2.RandomChoice(theirs)(images, targets)))


@pytest.mark.parametrize("augmentation", [Augmentation(mixup=0.4), Augmentation(cutmix=1.0), ALL])
def test_each_image_is_cropped_and_mirrored_and_mixed_as_its_label_with_the_one_before(data, augmentation):
    """The share that a target tells is that of the pixels: of each of them (MixUp), or of how many (CutMix)."""
    params, one_hot, ways = augmentation.sample_params(0, 1, COUNT), torch.eye(CLASSES), set()
    for number, batch in enumerate(ImageLoader(*data, 8, augmentation=augmentation).epoch(1)):
        rows = list(range(number * 8, min(number * 8 + 8, COUNT)))
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == torch.float32 and batch.labels.tolist() == data[1][rows].tolist()
        for place, row in enumerate(rows):
            before = rows[place - 1]
            own, other = (plain(data[0], params, each, augmentation.crop_padding) for each in (row, before))
            share = batch.targets[place, data[1][row]].item()
            expected = share * one_hot[data[1][row]] + (1 - share) * one_hot[data[1][before]]
            torch.testing.assert_close(batch.targets[place], expected, rtol=0, atol=1e-6)
            image = batch.images[place].permute(1, 2, 0).numpy()
            from_other = np.any(image != own, axis=2)
            if np.array_equal(np.where(from_other[..., None], other, own), image):
                ways.add("cutmix")
                both_black = np.all((own == 0) & (other == 0), axis=2).mean()  # where both were padded
                assert 1 - share - both_black - 1e-6 <= from_other.mean() <= 1 - share + 1e-6
            else:
                ways.add("mixup")
                np.testing.assert_allclose(image, own * share + other * (1 - share), atol=1e-5)
    assert ways <= {"mixup" if augmentation.mixup else "", "cutmix" if augmentation.cutmix else ""}


def test_mixing_repeats_by_seed_and_epoch_and_leaves_other_random_numbers_alone(data):
    def epoch(seed, number):
        return torch.cat([batch.images for batch in ImageLoader(*data, 8, augmentation=ALL, seed=seed).epoch(number)])

    torch.manual_seed(5)
    expected, first = torch.rand(3), epoch(0, 1)
    torch.manual_seed(5)
    torch.rand(1)
    assert torch.equal(epoch(0, 1), first) and torch.equal(torch.rand(2), expected[1:])
    batches = ImageLoader(*data, 8, augmentation=Augmentation(mixup=0.4)).epoch(1)
    assert len({batch.targets.max().item() for batch in batches}) == 5  # each batch has a share of its own
    assert not torch.equal(epoch(0, 2), first) and not torch.equal(epoch(1, 1), first)


def test_normalisation_is_torchvisions():
    theirs = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert NORMALIZATIONS["imagenet"] == (tuple(theirs.mean), tuple(theirs.std))


def test_a_gpu_gives_the_same_pixels_to_the_last_bit(data, gpu):
    kind = {"shuffle": True, "augmentation": ALL, "normalization": "imagenet"}
    loaders = [ImageLoader(*data, 8, device, **kind).epoch(1) for device in ("cpu", gpu)]
    for here, there in zip(*loaders, strict=True):
        assert there.images.device.type == "cuda"
        assert torch.equal(there.images.cpu(), here.images) and torch.equal(there.targets.cpu(), here.targets)
