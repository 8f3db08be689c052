"""The cells of the notebooks that train: run out of order, after a parameter changed, and those for the reader."""

import dataclasses

import nbformat
import pytest

from tinyclf.data import cache
from tinyclf.data.cache import PackedSplit, load_data
from tinyclf.experiments import parent, train
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS

SHORT = {"epochs": 1, "input_size": 32}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of reports, empty. All trains on every tenth image."""
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    for module in (cache, train, parent):  # the last, as no experiment takes a part of its data
        monkeypatch.setattr(module, "load_data", lambda *arguments: some(load_data(*arguments)))
    return tmp_path / "mini"


def code_cells(stem):
    """The code cells of a notebook by their ids, without that which installs."""
    cells = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", 4).cells
    return {cell.id: cell.source for cell in cells if cell.cell_type == "code" and "%pip" not in cell.source}


class Kernel:
    """A notebook whose cells run in any order, in this process."""

    def __init__(self, stem, **parameters):
        self.names, self.cells = {}, code_cells(stem)
        self.parameters, *_ = self.cells
        self.fit = self.cell_with("run.fit(model") if "run.fit(model" in str(self.cells) else self.cell_with("run.fit(")
        self.run(self.parameters)
        self.names |= SHORT | parameters

    def cell_with(self, text):
        return next(name for name, source in self.cells.items() if text in source)

    def run(self, *names):
        for name in names:
            exec(self.cells[name], self.names)

    def until(self, last):
        """Run the cells after that of the parameters, as far as `last` and without it."""
        names = list(self.cells)
        self.run(*names[1 : names.index(last)])


def some(data):
    """A part of the data: every tenth image."""
    few = {name: getattr(data, name) for name in ("train", "val")}
    few = {name: PackedSplit(split.images[::10], split.labels[::10]) for name, split in few.items()}
    return dataclasses.replace(data, **few)


@pytest.mark.parametrize("run_name", ["baseline-scratch", "mine"])
def test_a_parameter_that_changed_after_the_settings_were_made_is_refused_before_training(run_name, folder):
    kernel = Kernel("1_baseline", run_name=run_name)
    kernel.until(making := kernel.cell_with("run = Run("))
    kernel.names["learning_rate"] = 0.01
    with pytest.raises(TinyclfError, match="a parameter changed"):
        kernel.run(making)
    kernel.run(kernel.cell_with("Settings.from_notebook"), making)
    if run_name == "mine":  # the optimizer still has the rate from before, which the record tells
        kernel.run(kernel.fit)
        assert "lr=0.001" in kernel.names["record"]["overrides"]["optimizer"]
    else:
        with pytest.raises(TinyclfError, match=r"would be recorded as what it is not \(optimizer: "):
            kernel.run(kernel.fit)
    assert len(list(folder.rglob("record.json"))) == (run_name == "mine")


def test_after_the_run_was_made_its_settings_are_those_that_train_or_it_is_refused():
    kernel = Kernel("1_baseline")
    kernel.until(kernel.fit)
    kernel.names["learning_rate"] = 0.01
    kernel.run(kernel.cell_with("optimizer = optim.SGD"))
    with pytest.raises(TinyclfError, match=r"would be recorded as what it is not \(optimizer: .*lr=0\.01"):
        kernel.run(kernel.fit)


def test_cells_that_run_twice_give_the_same_and_a_trained_model_starts_no_other_run(folder):
    kernel = Kernel("1_baseline", run_name="mine")
    making = kernel.cell_with("run = Run(")
    kernel.until(making)
    kernel.run(making, kernel.fit)
    record = kernel.names["record"]
    kernel.run(kernel.fit)
    kernel.run(making, kernel.fit)
    assert kernel.names["record"]["history"] == record["history"]
    for changed in ({"run_name": "other"}, {"run_name": "mine", "force": True}):
        kernel.names |= changed
        kernel.run(making)
        with pytest.raises(TinyclfError, match="would start with a model that is trained already"):
            kernel.run(kernel.fit)
    assert [path.parent.name for path in folder.rglob("record.json")] == ["mine"]
