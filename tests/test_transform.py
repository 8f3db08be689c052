"""A transform of one's own: where it stands in a step, its random numbers, and what it may give."""

import numpy as np
import pytest
import torch
from random_data import data
from torch import nn
from torchvision.transforms import v2

from tinyclf import Run, Settings
from tinyclf.data.augment import TRANSFORM, Augmentation, random, seeded
from tinyclf.data.loader import ImageLoader
from tinyclf.data.registry import NORMALIZATIONS
from tinyclf.experiments.recipe import build_recipe
from tinyclf.utils.errors import TinyclfError

MIX = v2.RandomChoice([v2.MixUp(), v2.CutMix()])


def loader(**options):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 200, (22, 64, 64, 3), dtype=np.uint8), np.arange(22) % 4
    options = {"shuffle": True, "augmentation": Augmentation(flip=True, crop_padding=4), "seed": 0} | options
    return ImageLoader(images, labels, 8, **options)


def run(transform=None, name="mine"):
    """Train a small network with dropout: the losses of its epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(), nn.Linear(48, 4))
    optimizer, criterion = torch.optim.SGD(model.parameters(), 0.05), nn.CrossEntropyLoss()
    run = Run(Settings(epochs=2, batch_size=8, input_size=32), data(), name)
    return [row["train_loss"] for row in run.fit(model, criterion, optimizer, transform=transform)]


def test_it_changes_the_enlarged_uint8_images_before_they_are_normalised():
    jpeg = v2.JPEG(95)
    raw, ours = (loader(input_size=96, normalization=name) for name in ("none", "imagenet"))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in NORMALIZATIONS["imagenet"])
    for plain, batch in zip(raw.epoch(2), ours.epoch(2, jpeg), strict=True):
        expected = (jpeg((plain.images * 255).round().to(torch.uint8)) / 255 - mean) / deviation
        torch.testing.assert_close(batch.images, expected)
        assert torch.equal(plain.labels, batch.targets)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_a_quality_among_the_settings_saves_and_reads_each_image_as_torchvision_does():
    images = next(iter(loader(input_size=96).epoch(1))).images.mul(255).round().to(torch.uint8)
    recipe = build_recipe(Settings(jpeg_quality=95, epochs=1, batch_size=8), data())
    assert torch.equal(recipe.transform(images), v2.JPEG(95)(images))


def test_mixup_and_cutmix_mix_normalised_images_and_targets_as_torchvision_does():
    theirs = seeded(MIX, random(0, 1, TRANSFORM), torch.device("cpu"))  # of seed 0 and epoch 1
    same = [loader(normalization="imagenet").epoch(1, how) for how in (None, MIX)]
    for plain, batch in zip(*same, strict=True):
        images, targets = theirs(plain.images, nn.functional.one_hot(plain.labels, 4).float())
        assert torch.equal(batch.images, images) and not torch.equal(images, plain.images)
        assert torch.equal(batch.targets, targets) and torch.equal(batch.labels, plain.labels)
    with pytest.raises(TinyclfError, match="in one with others"):
        list(loader().epoch(1, v2.Compose([v2.RandAugment(), MIX])))


def test_its_draws_depend_on_seed_epoch_step_and_process_alone():
    def drawn(epoch=1, **options):
        seen = []
        list(loader(**options).epoch(epoch, lambda images: seen.append(torch.rand(3).tolist()) or images))
        return seen

    expected = drawn()
    torch.rand(7)
    assert drawn() == expected and len({tuple(step) for step in expected}) == 3
    others = drawn(epoch=2), drawn(seed=1), drawn(part=1, parts=2), drawn(part=0, parts=2)
    assert all(other[0] != expected[0] for other in others[:3]) and others[3] == expected


def test_its_draws_are_its_own():
    assert run(lambda images: torch.rand(1) and images, "with") == run(None, "without")


def test_what_gives_no_uint8_images_is_refused_before_anything_is_written(reports):
    for transform, said in (
        (v2.ToDtype(torch.float32, scale=True), r"uint8 images \(8, 3, H, W\) from it, got torch\.float32"),
        (lambda images: images[:2], r"got torch\.uint8 \(2, 3, 32, 32\)"),
        (lambda images: None, "got NoneType"),
    ):
        with pytest.raises(TinyclfError, match=f"transform: expected .*{said}"):
            run(transform)
    assert not list(reports.rglob("checkpoint*"))
