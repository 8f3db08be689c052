"""The stand-in weights: made once, whole or not at all, and taken over by `weights = "mini"` but for the head."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.models import standin
from tinyclf.models.resnet import build_model
from tinyclf.models.weights import load_weights


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """12 images instead of 2,000, and a data folder of its own."""
    rng = np.random.default_rng(0)
    split = PackedSplit(rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8), np.arange(12) % 3)
    monkeypatch.setattr(standin, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(standin, "make_dataset", lambda layout, parent: parent)
    monkeypatch.setattr(standin, "pack", lambda *args: Packed("x", list("abc"), list("abc"), "", split, split))
    monkeypatch.setattr(standin, "BATCH_SIZE", 6)
    return tmp_path


def test_they_are_trained_once_and_the_same_every_time(tiny, capsys):
    path = standin.weights_file()
    first = load_file(path)
    assert "once" in capsys.readouterr().out
    assert standin.weights_file() == path and capsys.readouterr().out == ""
    path.unlink()
    torch.manual_seed(99)
    again = load_file(standin.weights_file())
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_they_leave_the_global_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    standin.weights_file()
    assert torch.equal(torch.rand(3), expected)


def test_a_model_starts_from_them_with_a_head_of_its_own():
    model, weights = build_model("resnet18", 7), load_file(standin.weights_file())
    load_weights(model, "mini")
    assert torch.equal(model.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
    assert model.fc.weight.shape == (7, 512) and weights["fc.weight"].shape == (3, 512)


def test_an_interrupt_leaves_nothing(tiny, monkeypatch):
    def interrupt(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyclf.utils.files.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        standin.weights_file()
    assert list(tiny.iterdir()) == []
