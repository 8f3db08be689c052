"""Checkpoints hold everything to the last bit, know when they are damaged, and are never lost while written."""

import os
import time

import pytest
import torch
from torch import nn

from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.utils.errors import TinyclfError


def trained(steps=2, momentum=0.9):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum)
    state = TrainingState(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))
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
    return tmp_path / "run" / "checkpoint.pt"


def two(path):
    """Two checkpoints, one after each of two steps."""
    state = trained(1)
    checkpoint.save(path, state, {"history": [1]})
    step(state)
    checkpoint.save(path, state, {"history": [1, 2]})


def test_weights_counts_momenta_and_rates_come_back_to_the_last_bit_and_train_on_alike(path):
    state = trained()
    checkpoint.save(path, state, {"history": []})
    other = trained(0)
    checkpoint.restore(checkpoint.newest(path), other)
    for again in range(2):
        for name, value in state.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), (again, name)
        assert state.scheduler.state_dict() == other.scheduler.state_dict()
        assert state.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]
        for one, two in zip(state.model.parameters(), other.model.parameters(), strict=True):
            momenta = [run.optimizer.state[value]["momentum_buffer"] for run, value in ((state, one), (other, two))]
            assert torch.equal(*momenta) and momenta[0].stride() == momenta[1].stride()
        step(state)
        step(other)


def test_state_that_is_neither_tensor_nor_number_is_refused_by_name(path):
    state = trained()
    state.scheduler.note = object()
    with pytest.raises(TinyclfError, match=r"cannot hold builtins\.object"):
        checkpoint.save(path, state, {})
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_one_is_named_and_the_one_before_used(path, length):
    lines = []
    two(path)
    path.write_bytes(path.read_bytes()[:length])
    assert checkpoint.newest(path, lines.append).about == {"history": [1]}
    assert len(lines) == 1 and str(path) in lines[0] and "is damaged" in lines[0] and "the one before" in lines[0]


def test_any_flipped_bit_is_noticed(path):
    two(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 29):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(TinyclfError, match="is damaged"):
            checkpoint.read(path)


def test_if_all_are_damaged_each_is_named(path):
    two(path)
    for each in (path, checkpoint.previous(path)):
        each.write_bytes(b"nonsense")
    with pytest.raises(TinyclfError, match=r"checkpoint\.pt is damaged.*checkpoint\.previous\.pt"):
        checkpoint.newest(path)


@pytest.mark.parametrize("fails", ["training.checkpoint.atomic_write", "utils.files.os.fsync"])
def test_a_full_disk_or_a_kill_between_two_files_leaves_the_last_good_one(path, monkeypatch, fails):
    two(path)

    def full(*args, **kwargs):
        raise TinyclfError("No space left") if "atomic" in fails else OSError(28, "No space left on device")

    monkeypatch.setattr(f"tinyclf.{fails}", full)
    with pytest.raises(TinyclfError, match=r"No space left"):
        checkpoint.save(path, trained(), {"history": []})
    assert os.listdir(path.parent) == ["checkpoint.previous.pt"]
    assert checkpoint.newest(path).about == {"history": [1, 2]}
    checkpoint.delete(path)
    assert checkpoint.newest(path) is None


def test_torch_reads_it_as_its_own_and_it_knows_when_it_was_written(path):
    two(path)
    os.utime(path, (5, 5))
    saved, held = checkpoint.read(path), torch.load(path, weights_only=True)
    assert all(map(torch.equal, held["state"]["model"].values(), saved.weights.values()))
    assert saved.time == pytest.approx(time.time(), abs=60)


def test_one_of_a_newer_version_is_not_taken_for_damaged(path, monkeypatch):
    two(path)
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "VERSION", 3)
        checkpoint.save(path, trained(), {"history": [1, 2, 3]})
    with pytest.raises(
        TinyclfError, match=r"is of version 3, and this tinyclf reads 2: use the one that wrote it"
    ) as error:
        checkpoint.newest(path)
    assert "delete" not in str(error.value)


def test_one_of_another_model_or_optimizer_is_refused(path):
    two(path)
    other, state = nn.Linear(2, 2), trained()
    with pytest.raises(TinyclfError, match="of another model"):
        checkpoint.restore(checkpoint.read(path), TrainingState(other, torch.optim.SGD(other.parameters(), 0.1)))
    groups = torch.optim.SGD([{"params": [value]} for value in state.model.parameters()], 0.1)
    with pytest.raises(TinyclfError, match="of another optimizer"):
        checkpoint.restore(checkpoint.read(path), TrainingState(state.model, groups))
    with pytest.raises(TinyclfError, match="of another scheduler"):
        checkpoint.restore(checkpoint.read(path), TrainingState(state.model, state.optimizer))
