"""The cells of a notebook that trains, run out of order, twice, and after a parameter changed."""

import pytest
from cells import code_cells, names_of

from tinyclf.utils.errors import TinyclfError

SETTINGS, MAKING, FIT = "settings = Settings.", "run = Run(", "run.fit(model"  # in which cell


def before_making(run_name):
    """The names of the baseline's notebook, whose cells ran as far as that which makes the run, and without it."""
    return names_of("1_baseline", until="scheduler = ", run_name=run_name, epochs=1, input_size=32)


def execute(names, *texts):
    """Run the cells that have these texts in them."""
    for text in texts:
        exec(next(source for source in code_cells("1_baseline") if text in source), names)


@pytest.mark.parametrize("run_name", ["baseline-scratch", "mine"])
def test_a_parameter_that_changed_after_the_settings_were_made_is_refused_before_training(run_name, reports):
    names = before_making(run_name)
    names["learning_rate"] = 0.01
    with pytest.raises(TinyclfError, match="a parameter changed"):
        execute(names, MAKING)
    execute(names, SETTINGS, MAKING)
    if run_name == "mine":  # the optimizer still has the rate from before, which the record tells
        execute(names, FIT)
        assert "lr=0.001" in names["record"]["overrides"]["optimizer"]
    else:
        with pytest.raises(TinyclfError, match=r"would be recorded as what it is not \(optimizer: "):
            execute(names, FIT)
    assert len(list(reports.rglob("record.json"))) == (run_name == "mine")


def test_cells_that_run_twice_give_the_same_and_a_trained_model_starts_no_other_run(reports):
    names = before_making("mine")
    execute(names, MAKING, FIT)
    record = names["record"]
    execute(names, FIT, MAKING, FIT)
    assert names["record"]["history"] == record["history"]
    for changed in ({"run_name": "other"}, {"run_name": "mine", "force": True}):
        names |= changed
        execute(names, MAKING)
        with pytest.raises(TinyclfError, match="would start with a model that is trained already"):
            execute(names, FIT)
    assert [path.parent.name for path in reports.rglob("record.json")] == ["mine"]
