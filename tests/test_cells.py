"""The cells of the notebooks that train: run out of order, after a parameter changed, and those for the reader."""

import dataclasses

import nbformat
import pytest

from tinyclf.data import cache
from tinyclf.data.cache import PackedSplit, load_data
from tinyclf.experiments import run
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of reports, empty. All trains on every tenth image."""

    def some(*arguments):
        data = load_data(*arguments)
        few = (PackedSplit(split.images[::10], split.labels[::10]) for split in (data.train, data.val))
        part = dataclasses.replace(data, **dict(zip(("train", "val"), few, strict=True)))
        return dataclasses.replace(part, loaded=part.identity)  # no experiment takes changed data

    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    for module in (cache, run):
        monkeypatch.setattr(module, "load_data", some)
    return tmp_path / "mini"


class Kernel:
    """The notebook of the baseline, whose cells run in any order, in this process."""

    def __init__(self, **parameters):
        cells = nbformat.read(NOTEBOOKS / "1_baseline.ipynb", 4).cells
        code = {cell.id: cell.source for cell in cells if cell.cell_type == "code" and "%pip" not in cell.source}
        self.names, self.cells = {}, code
        self.making, self.fit = self.cell_with("run = Run("), self.cell_with("run.fit(model")
        self.run(next(iter(code)))  # the parameters
        self.names |= {"epochs": 1, "input_size": 32} | parameters

    def cell_with(self, text):
        return next(name for name, source in self.cells.items() if text in source)

    def run(self, *names):
        for name in names:
            exec(self.cells[name], self.names)

    def until(self, last):
        """Run the cells after that of the parameters, as far as `last` and without it."""
        names = list(self.cells)
        self.run(*names[1 : names.index(last)])


@pytest.mark.parametrize("run_name", ["baseline-scratch", "mine"])
def test_a_parameter_that_changed_after_the_settings_were_made_is_refused_before_training(run_name, folder):
    kernel = Kernel(run_name=run_name)
    kernel.until(kernel.making)
    kernel.names["learning_rate"] = 0.01
    with pytest.raises(TinyclfError, match="a parameter changed"):
        kernel.run(kernel.making)
    kernel.run(kernel.cell_with("Settings.from_notebook"), kernel.making)
    if run_name == "mine":  # the optimizer still has the rate from before, which the record tells
        kernel.run(kernel.fit)
        assert "lr=0.001" in kernel.names["record"]["overrides"]["optimizer"]
    else:
        with pytest.raises(TinyclfError, match=r"would be recorded as what it is not \(optimizer: "):
            kernel.run(kernel.fit)
    assert len(list(folder.rglob("record.json"))) == (run_name == "mine")


def test_cells_that_run_twice_give_the_same_and_a_trained_model_starts_no_other_run(folder):
    kernel = Kernel(run_name="mine")
    kernel.until(kernel.making)
    kernel.run(kernel.making, kernel.fit)
    record = kernel.names["record"]
    kernel.run(kernel.fit, kernel.making, kernel.fit)
    assert kernel.names["record"]["history"] == record["history"]
    for changed in ({"run_name": "other"}, {"run_name": "mine", "force": True}):
        kernel.names |= changed
        kernel.run(kernel.making)
        with pytest.raises(TinyclfError, match="would start with a model that is trained already"):
            kernel.run(kernel.fit)
    assert [path.parent.name for path in folder.rglob("record.json")] == ["mine"]
