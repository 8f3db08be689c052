"""A transform of one's own: where it stands in a step, its random numbers, and what it may give."""

import numpy as np
import pytest
import torch
from random_data import data
from torch import nn
from torchvision.transforms import v2

from tinyclf.data.augment import TRANSFORM, Augmentation, random, seeded
from tinyclf.data.loader import ImageLoader
from tinyclf.data.registry import NORMALIZATIONS
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError

MIX = v2.RandomChoice([v2.MixUp(), v2.CutMix()])
NOISE = v2.Lambda(lambda images: images + torch.randint(0, 9, images.shape, dtype=torch.uint8))


def loader(**options):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 200, (22, 64, 64, 3), dtype=np.uint8), np.arange(22) % 4
    options = {"shuffle": True, "augmentation": Augmentation(flip=True, crop_padding=4), "seed": 0} | options
    return ImageLoader(images, labels, 8, **options)


def run(name, transform=None, **options):
    """Train a small network with dropout: its run and history, without timings."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(), nn.Linear(48, 4))
    run = Run(Settings(epochs=3, batch_size=8, input_size=32), data(), name)
    optimizer, criterion = torch.optim.SGD(model.parameters(), 0.05), nn.CrossEntropyLoss()
    rows = run.fit(model, criterion, optimizer, transform=transform, **options)
    return run, [{key: row[key] for key in ("train_loss", "train_accuracy", "val_loss")} for row in rows]


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini"


def test_it_changes_the_enlarged_uint8_images_before_they_are_normalised():
    jpeg = v2.JPEG(95)
    raw, ours = (loader(input_size=96, normalization=name) for name in ("none", "imagenet"))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in NORMALIZATIONS["imagenet"])
    for plain, batch in zip(raw.epoch(2), ours.epoch(2, jpeg), strict=True):
        expected = (jpeg((plain.images * 255).round().to(torch.uint8)) / 255 - mean) / deviation
        torch.testing.assert_close(batch.images, expected)
        assert torch.equal(plain.labels, batch.targets)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    same = [[batch.images for batch in loader(normalization="imagenet").epoch(2, how)] for how in (None, v2.Identity())]
    assert all(map(torch.equal, *same))


def test_a_quality_among_the_settings_saves_and_reads_each_image_as_torchvision_does():
    images = next(iter(loader(input_size=96).epoch(1))).images.mul(255).round().to(torch.uint8)
    settings = Settings(jpeg_quality=95, epochs=1, batch_size=8)
    recipe = build_recipe(settings, data())
    assert torch.equal(recipe.transform(images), v2.JPEG(95)(images))
    trained = Run(settings, data(), "mine")
    trained.fit(**vars(recipe))
    record = trained.finish()
    assert record["recipe"]["transform"] == "tinyclf.data.augment.as_jpeg([], {quality=95})"
    assert record["overrides"]["jpeg_quality"] == 95 and "transform" not in record["overrides"]


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

    state = torch.get_rng_state()
    expected = drawn()
    torch.testing.assert_close(torch.get_rng_state(), state)
    torch.rand(7)
    assert drawn() == expected and len({tuple(step) for step in expected}) == 3
    others = drawn(epoch=2), drawn(seed=1), drawn(part=1, parts=2), drawn(part=0, parts=2)
    assert all(other[0] != expected[0] for other in others[:3]) and others[3] == expected


@pytest.mark.parametrize("transform", [v2.RandAugment(), NOISE, MIX])
def test_killed_and_resumed_a_run_with_it_ends_with_the_same_bits(transform, reports):
    whole, expected = run("whole", transform)
    rows = []

    def kill(row):
        saved = torch.load(reports / "killed/checkpoint.pt", weights_only=True)  # is written before this is called
        rows.append((row["epoch"], row["val_loss"], saved["about"].count('"epoch"')))
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("killed", transform, on_epoch=kill)
    assert rows == [(number, expected[number - 1]["val_loss"], number) for number in (1, 2)]
    resumed, history = run("killed", transform)
    assert history == expected and history != run("plain")[1]
    assert all(map(torch.equal, *(each.state.model.state_dict().values() for each in (whole, resumed))))
    nothing = v2.Lambda(lambda images: torch.rand(1) and images)
    assert run("with", nothing)[1] == run("without")[1]  # the draws of a transform are its own


def test_what_gives_no_uint8_images_is_refused_before_anything_is_written(reports):
    for transform, said in (
        (v2.ToDtype(torch.float32, scale=True), r"uint8 images \(8, 3, H, W\) from it, got torch\.float32"),
        (lambda images: images[:2], r"got torch\.uint8 \(2, 3, 32, 32\)"),
        (lambda images: None, "got NoneType"),
    ):
        with pytest.raises(TinyclfError, match=f"transform: expected .*{said}"):
            run("refused", transform)
    assert not list(reports.rglob("checkpoint*"))
