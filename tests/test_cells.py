"""The cells of the notebooks that train: run out of order, after a parameter changed, and those for the reader."""

import dataclasses
import json

import nbformat
import pytest

from tinyclf.data import cache
from tinyclf.data.cache import PackedSplit, load_data
from tinyclf.experiments import parent, train
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS

TRAINING = ("1_baseline", "2_preprocessing", "3_finetuning", "4_recipes")
SHORT = {"epochs": 1, "input_size": 32}
ONLY = "notebook-only"


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


@pytest.mark.parametrize("stem", TRAINING)
def test_your_turn_works(stem, folder):
    if stem == "3_finetuning":
        train.train_experiment("preprocessing", {"dataset": "mini", "run_name": "preprocessing"} | SHORT)
    weights = {} if stem == "3_finetuning" else {"weights": "none"}
    growth = {"epochs": 2, "start_size": 16} if stem == "4_recipes" else {}
    kernel = Kernel(stem, **weights, **growth)
    making = kernel.cells[kernel.cell_with("run = Run(")]
    assert making.startswith("assert settings == Settings.from_notebook(globals())") and "run.fit(" not in making
    kernel.until(kernel.fit)
    name = kernel.cell_with("your_turn = False")
    before = sorted(folder.rglob("record.json"))
    kernel.run(name)
    assert sorted(folder.rglob("record.json")) == before, "headlessly it does nothing"
    kernel.cells[name] = kernel.cells[name].replace("your_turn = False", "your_turn = True", 1)
    settings = kernel.names["settings"]
    kernel.run(name, name)  # the second time, it shows what there is
    (made,) = set(folder.rglob("record.json")) - set(before)
    record = json.loads(made.read_text())
    assert made.parent.name in kernel.cells[name] and kernel.names["settings"] is settings
    assert record["settings"]["epochs"] == len(record["history"])
    if stem == "1_baseline":
        assert record["run"] == "resnet34-adamw" and record["recipe"]["model"] == "ResNet, 21,289,802 parameters"
        assert record["recipe"]["optimizer"].startswith("AdamW(") and "lr=0.0003" in record["recipe"]["optimizer"]
        assert record["recipe"]["scheduler"].startswith("CosineAnnealingLR(")


@pytest.mark.parametrize("run_name", ["", "mine"])
def test_a_parameter_that_changed_after_the_settings_were_made_is_refused_before_training(run_name, folder):
    kernel = Kernel("1_baseline", run_name=run_name)
    kernel.until(making := kernel.cell_with("run = Run("))
    kernel.names["learning_rate"] = 0.01
    with pytest.raises(AssertionError, match="a parameter changed"):
        kernel.run(making)
    kernel.run(kernel.cell_with("Settings.from_notebook"))
    if run_name:  # the optimizer still has the rate from before, which the record tells
        kernel.run(making, kernel.fit)
        assert "lr=0.001" in kernel.names["record"]["overrides"]["optimizer"]
    else:
        with pytest.raises(AssertionError):
            kernel.run(making)
    assert len(list(folder.rglob("record.json"))) == bool(run_name)


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


def test_the_cell_that_installs_does_so_only_where_tinyclf_is_missing(monkeypatch, tmp_path):
    notebooks = [nbformat.read(path, 4).cells for path in NOTEBOOKS.glob("*.ipynb")]
    installs = [(cells, index) for cells in notebooks for index, cell in enumerate(cells) if "%pip" in cell.source]
    assert len(installs) == len(notebooks) and len({cells[index].source for cells, index in installs}) == 1
    for cells, index in installs:
        assert cells[index].metadata.tags == [ONLY] and "parameters" in cells[index + 1].metadata.tags
    source, asked = cells[index].source.replace("%pip install --quiet ..", "asked.append(1)"), []
    exec(source, {"asked": asked})
    assert asked == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(AssertionError, match=r"clone tinyclf's repository, run `pip install .` in it"):
        exec(source, {"asked": asked})
    (tmp_path / "pyproject.toml").touch()
    exec(source, {"asked": asked})
    assert asked == [1]
