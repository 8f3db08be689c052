"""Augmentation against plain NumPy, image by image, and against the distributions of what is drawn."""

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights
from torchvision.transforms.v2.functional import normalize

from tinyclf.data.augment import Augmentation
from tinyclf.data.loader import ImageLoader

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
    if params.mirrored[index]:
        image = image[:, ::-1]
    return image.astype(np.float32) / 255


def test_each_image_is_cropped_and_mirrored_by_parameters_of_its_own(data):
    augmentation = Augmentation(flip=True, crop_padding=9)
    params = augmentation.sample_params(3, 1, COUNT)
    batches = ImageLoader(*data, 8, augmentation=augmentation, seed=3).epoch(1)
    pixels = torch.cat([batch.images for batch in batches])
    for index in range(COUNT):
        expected = plain(data[0], params, index, augmentation.crop_padding)
        np.testing.assert_array_equal(pixels[index].permute(1, 2, 0).numpy(), expected)


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


def test_mixup_and_cutmix_are_drawn_evenly_and_their_shares_as_published():
    pair = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 32, 32)

    def drawn(count, **alphas):
        mixed = [Augmentation(**alphas).mix(pair, torch.eye(2), seed) for seed in range(count)]
        return [bool(((images == 0) | (images == 1)).all()) for images, _ in mixed], [each[0, 0] for _, each in mixed]

    assert np.mean(drawn(2000, mixup=1.0, cutmix=1.0)[0]) == pytest.approx(0.5, abs=0.025)
    assert np.var(drawn(700, mixup=0.4)[1]) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(0.4, 0.4)
    draw = np.random.default_rng(0)  # the box of CutMix has its middle anywhere, and is cut at the border
    half, middle = (16 * np.sqrt(1 - draw.beta(0.4, 0.4, 100_000))).astype(int), draw.integers(0, 32, (2, 100_000))
    height, width = np.clip(middle + half, 0, 32) - np.clip(middle - half, 0, 32)
    shares, expected = drawn(700, cutmix=0.4)[1], 1 - height * width / 32**2
    assert (np.mean(shares), np.std(shares)) == pytest.approx((expected.mean(), expected.std()), abs=0.03)


@pytest.mark.parametrize("augmentation", [Augmentation(mixup=0.4), Augmentation(cutmix=1.0), ALL])
def test_an_image_and_its_label_are_mixed_with_the_one_before_by_the_same_share(data, augmentation):
    """The share that a target tells is that of the pixels: of each of them (MixUp), or of how many (CutMix)."""
    params = augmentation.sample_params(0, 1, COUNT)
    ways = set()
    for number, batch in enumerate(ImageLoader(*data, 8, augmentation=augmentation).epoch(1)):
        rows = list(range(number * 8, min(number * 8 + 8, COUNT)))
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == torch.float32 and batch.labels.tolist() == data[1][rows].tolist()
        for place, row in enumerate(rows):
            own, other = (plain(data[0], params, each, augmentation.crop_padding) for each in (row, rows[place - 1]))
            share = batch.targets[place, data[1][row]].item()
            expected = torch.zeros(CLASSES)
            expected[data[1][row]] += share
            expected[data[1][rows[place - 1]]] += 1 - share
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


def test_normalisation_is_torchvisions(data):
    theirs = ResNet18_Weights.IMAGENET1K_V1.transforms()
    [batch] = ImageLoader(*data, COUNT, normalization="imagenet").epoch(1)
    expected = normalize(torch.from_numpy(data[0]).permute(0, 3, 1, 2) / 255, theirs.mean, theirs.std)
    torch.testing.assert_close(batch.images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize("augmentation", [ALL, Augmentation(mixup=0.4)])
def test_parts_of_a_batch_mix_with_all_of_it(data, parts, augmentation):
    kind = {"shuffle": True, "augmentation": augmentation}
    whole = list(ImageLoader(*data, 8, **kind).epoch(2))
    pieces = [list(ImageLoader(*data, 8, **kind, part=part, parts=parts).epoch(2)) for part in range(parts)]
    for batch, *each in zip(whole, *pieces, strict=True):
        assert torch.equal(torch.cat([piece.images for piece in each]), batch.images)
        assert torch.equal(torch.cat([piece.targets for piece in each]), batch.targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_pixels_to_the_last_bit(data):
    kind = {"shuffle": True, "augmentation": ALL, "normalization": "imagenet"}
    loaders = [ImageLoader(*data, 8, device, **kind).epoch(1) for device in ("cpu", "cuda")]
    for here, there in zip(*loaders, strict=True):
        assert there.images.device.type == "cuda"
        assert torch.equal(there.images.cpu(), here.images) and torch.equal(there.targets.cpu(), here.targets)
