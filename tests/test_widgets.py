"""Widgets: nothing without somebody before the notebook, and with one, what the control says."""

import json

import numpy as np
import pytest

from tinyclf import widgets as explore
from tinyclf.tiny_imagenet import TinyImageNet
from tinyclf.cache import Packed, PackedSplit

RECORD = {"run": "mine", "settings": {"dataset": "mini"}}


@pytest.fixture
def shown(monkeypatch):
    """What the widgets draw for each choice, in order."""
    found = []
    monkeypatch.setattr(explore, "display", lambda html: found.append(html.data))
    monkeypatch.setattr(explore, "show", lambda figure, text, data: found.append(text))

    def choose(draw, **controls):
        ((name, control),) = controls.items()
        for value in getattr(control, "options", [1, 3]):
            draw(**{name: value[1] if isinstance(value, tuple) else (value,) if "names" in controls else value})

    monkeypatch.setattr(explore, "interact", choose)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    return found


def test_headless_nothing_is_shown(shown, monkeypatch, small):
    monkeypatch.delenv("JPY_SESSION_NAME")
    explore.classes(TinyImageNet(small.folder, layout=small.layout))
    assert not explore.live() and shown == []


def test_a_class_shows_its_images(shown, small):
    explore.classes(TinyImageNet(small.folder, layout=small.layout))
    assert explore.live() and len(shown) == 4
    for number, html in enumerate(shown, 1):  # sorted by words, which end with the wnid
        assert html.count("<img ") == 12 and html.count(f"n0{number}_0.JPEG</figcaption>") == 1


def test_mistakes_are_leafed_through(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    folder = tmp_path / "mini" / "mine"
    folder.mkdir(parents=True)
    rows = "".join(f"{place},a,b,0.{99 - place}\n" for place in range(5))
    (folder / "mistakes.csv").write_text(f"image,wnid,taken for,confidence\n{rows}")
    split = PackedSplit(np.zeros((5, 64, 64, 3), np.uint8), np.zeros(5, int))
    explore.mistakes(RECORD, Packed("mini", ["a", "b"], ["ant, emmet", "bee"], "", split, split))
    assert [html.count("<img ") for html in shown] == [5, 3]
    assert "ant → bee, 99\u00a0%" in shown[0] and "99\u00a0%" not in shown[1]


def test_runs_are_laid_over_each_other(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    explore.runs("mini")
    assert shown == []
    history = [{"epoch": 1, "val_loss": 1.5, "val_accuracy": 0.25}]
    for name in ("mine", "yours"):
        (tmp_path / "mini" / name).mkdir(parents=True)
        (tmp_path / "mini" / name / "record.json").write_text(json.dumps(RECORD | {"run": name, "history": history}))
    explore.runs("mini")
    assert [text.partition(":")[0] for text in shown] == [
        "log loss (nats) by epoch, validation",
        "accuracy (top-1) by epoch, validation",
    ] * 2
    assert "mine from 25.00\u00a0% to 25.00\u00a0%" in shown[1] and "yours" in shown[3]
