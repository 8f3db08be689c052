"""A checkpoint holds everything to the last bit, knows when it is damaged, and is never lost while written."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tinyclf.training import checkpoint
from tinyclf.utils.errors import TinyclfError


def trained(steps=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    state = SimpleNamespace(model=model, optimizer=optimizer)
    state.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(steps):
        step(state)
    return state


def step(state):
    state.optimizer.zero_grad()
    state.model(torch.linspace(0, 1, 8 * 3 * 16).view(8, 3, 4, 4)).square().sum().backward()
    state.optimizer.step()
    state.scheduler.step()


@pytest.fixture
def path(tmp_path):
    """A checkpoint after two steps."""
    path = tmp_path / "run" / "checkpoint.pt"
    checkpoint.save(path, vars(trained()), {"history": [1, 2]})
    return path


def test_weights_counts_momenta_and_rates_come_back_to_the_last_bit_and_train_on_alike(path):
    state, other, saved = trained(), trained(0), checkpoint.read(path)
    assert saved.about == {"history": [1, 2]}
    for name, part in vars(other).items():
        part.load_state_dict(saved.state[name])
    for _ in range(2):
        assert all(map(torch.equal, state.model.state_dict().values(), other.model.state_dict().values()))
        assert state.scheduler.state_dict() == other.scheduler.state_dict()
        for one, two in zip(state.model.parameters(), other.model.parameters(), strict=True):
            momenta = [run.optimizer.state[value]["momentum_buffer"] for run, value in ((state, one), (other, two))]
            assert torch.equal(*momenta) and momenta[0].stride() == momenta[1].stride()
        step(state)
        step(other)
    assert torch.load(path, weights_only=True)["state"]["model"].keys() == saved.weights.keys()


def test_state_that_is_neither_tensor_nor_number_is_refused_by_name(path):
    state = trained()
    state.scheduler.note = object()
    with pytest.raises(TinyclfError, match=r"cannot hold builtins\.object"):
        checkpoint.save(path, vars(state), {})
    assert checkpoint.read(path).about == {"history": [1, 2]}


def test_a_cut_and_any_flipped_bit_are_noticed(path):
    whole = path.read_bytes()
    for place in range(0, len(whole), 29):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        for content in (flipped, whole[:place]):
            path.write_bytes(content)
            with pytest.raises(TinyclfError, match=r"checkpoint\.pt cannot be read .*: delete it, and the run"):
                checkpoint.read(path)


def test_a_full_disk_leaves_the_last_one(path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyclf.utils.files.os.fsync", full)
    with pytest.raises(TinyclfError, match=r"No space left"):
        checkpoint.save(path, vars(trained()), {"history": []})
    assert os.listdir(path.parent) == ["checkpoint.pt"] and checkpoint.read(path).about == {"history": [1, 2]}


def test_one_of_a_newer_version_is_refused(path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "VERSION", 3)
        checkpoint.save(path, vars(trained()), {})
    with pytest.raises(TinyclfError, match=r"a later tinyclf wrote it, as version 3"):
        checkpoint.read(path)
