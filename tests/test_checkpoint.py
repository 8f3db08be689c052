"""Checkpoints hold everything to the last bit, know when they are damaged, and are never lost while written."""

import os

import pytest
import torch
from torch import nn

from tinyclf import checkpoint
from tinyclf.errors import TinyclfError


def trained(steps=2, momentum=0.9):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum, fused=True)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.linspace(0, 1, 8 * 3 * 16).view(8, 3, 4, 4)).square().sum().backward()
    optimizer.step()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "checkpoint.safetensors"


def two(path):
    """Two checkpoints, one after each of two steps; returns the lines that reading them reported."""
    model, optimizer = trained(1)
    checkpoint.save(path, model, optimizer, {"history": [1]})
    step(model, optimizer)
    checkpoint.save(path, model, optimizer, {"history": [1, 2]})
    return []


def test_weights_counts_and_momenta_come_back_to_the_last_bit_and_train_on_alike(path):
    model, optimizer = trained()
    checkpoint.save(path, model, optimizer, {"history": []})
    other, other_optimizer = trained(0)
    saved = checkpoint.newest(path)
    checkpoint.restore(saved, other, other_optimizer)
    for again in range(2):
        for name, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), (again, name)
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            momenta = [each.state[of]["momentum_buffer"] for each, of in ((optimizer, one), (other_optimizer, two))]
            assert torch.equal(*momenta) and momenta[0].stride() == momenta[1].stride()
        step(model, optimizer)
        step(other, other_optimizer)


def test_the_one_before_is_kept(path):
    two(path)
    assert checkpoint.read(path).about == {"history": [1, 2]}
    assert checkpoint.read(checkpoint.previous(path)).about == {"history": [1]}
    assert len(os.listdir(path.parent)) == 2


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_one_is_named_and_the_one_before_used(path, length):
    lines = two(path)
    path.write_bytes(path.read_bytes()[:length])
    assert checkpoint.newest(path, lines.append).about == {"history": [1]}
    assert len(lines) == 1 and str(path) in lines[0] and "is damaged" in lines[0] and "the one before" in lines[0]


def test_any_flipped_bit_is_noticed(path):
    two(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            saved = checkpoint.read(path)
        except TinyclfError as error:
            assert "is damaged" in str(error)
        else:  # a bit of the header that carries nothing, such as the space at its end
            assert saved.about == {"history": [1, 2]}
            assert all(torch.equal(each, saved.tensors[name]) for name, each in expected(whole, path).items())


def expected(whole, path):
    other = path.with_name("whole.safetensors")
    other.write_bytes(whole)
    return checkpoint.read(other).tensors


def test_if_all_are_damaged_each_is_named(path):
    two(path)
    for each in (path, checkpoint.previous(path)):
        each.write_bytes(b"nonsense")
    with pytest.raises(TinyclfError, match=r"checkpoint\.safetensors is damaged.*checkpoint\.previous\.safet"):
        checkpoint.newest(path)


def test_killed_between_the_two_renames_the_one_before_is_used(path):
    two(path)
    path.unlink()
    assert checkpoint.newest(path).about == {"history": [1]}
    checkpoint.delete(path)
    assert checkpoint.newest(path) is None


def test_one_without_a_checksum_is_not_trusted(path):
    path.parent.mkdir()
    checkpoint.save_file({"model.weight": torch.zeros(2)}, path, metadata={"about": "{}"})
    with pytest.raises(TinyclfError, match="it has no checksum"):
        checkpoint.newest(path)


@pytest.mark.parametrize("fails", ["save_file", "os.fsync"])
def test_a_full_disk_leaves_the_last_good_ones(path, monkeypatch, fails):
    two(path)
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"tinyclf.checkpoint.{fails}", full)
    with pytest.raises(TinyclfError, match=r"could not write .*No space left.*is the disk full"):
        checkpoint.save(path, *trained(), {"history": []})
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before


def test_one_of_another_model_is_refused(path):
    two(path)
    with pytest.raises(TinyclfError, match="of another model"):
        other = nn.Linear(2, 2)
        checkpoint.restore(checkpoint.read(path), other, torch.optim.SGD(other.parameters(), 0.1))
