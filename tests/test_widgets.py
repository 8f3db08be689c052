"""Widgets: nothing without somebody before the notebook, and with one, what the control says."""

import numpy as np
import pytest
from records import leave

from tinyclf.data.cache import Packed, PackedSplit
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.experiments.settings import Settings
from tinyclf.report import widgets

RECORD = {"run": "mine", "settings": {"dataset": "mini"}}


@pytest.fixture
def shown(monkeypatch):
    """What the widgets draw for each choice, in order."""
    found = []
    monkeypatch.setattr(widgets, "display", lambda html: found.append(html.data))
    monkeypatch.setattr(widgets, "show", lambda *figures: found.extend(text for _, text, _ in figures))

    def choose(draw, **controls):
        ((name, control),) = controls.items()
        for value in getattr(control, "options", [1, 3]):
            draw(**{name: value[1] if isinstance(value, tuple) else (value,) if "names" in controls else value})

    monkeypatch.setattr(widgets, "interact", choose)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    return found


def test_headless_nothing_is_shown(shown, monkeypatch, small):
    monkeypatch.delenv("JPY_SESSION_NAME")
    widgets.classes(TinyImageNet(small.folder, layout=small.layout))
    assert not widgets.live() and shown == []


def test_a_class_shows_its_images(shown, small):
    widgets.classes(TinyImageNet(small.folder, layout=small.layout))
    assert widgets.live() and len(shown) == 4
    for number, html in enumerate(shown, 1):  # sorted by words, which end with the wnid
        assert html.count("<img ") == 12 and html.count(f"n0{number}_0.JPEG</figcaption>") == 1


def test_mistakes_are_leafed_through(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    folder = tmp_path / "mini" / "mine"
    folder.mkdir(parents=True)
    rows = "".join(f"{place},a,b,0.{99 - place}\n" for place in range(5))
    (folder / "mistakes.csv").write_text(f"image,wnid,predicted,confidence\n{rows}")
    split = PackedSplit(np.zeros((5, 64, 64, 3), np.uint8), np.zeros(5, int))
    widgets.mistakes(RECORD, Packed("mini", ["a", "b"], ["ant, emmet", "bee"], "", split, split))
    assert [html.count("<img ") for html in shown] == [5, 3]
    assert "ant → bee, 99%" in shown[0] and "99%" not in shown[1]


def test_runs_are_chosen_and_share_a_figure(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    widgets.runs("mini")
    assert shown == []
    for name in ("mine", "yours"):
        leave(name, Settings(epochs=2))
    widgets.runs("mini")
    assert [text.partition(":")[0] for text in shown] == [
        "log loss (nats) by epoch, validation",
        "accuracy (top-1) by epoch, validation",
    ] * 2
    assert "mine from 10.00% to 20.00%" in shown[1] and "yours" in shown[3]
