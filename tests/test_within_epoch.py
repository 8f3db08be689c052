"""benchmarks/within_epoch.py takes the very steps of the run that it looks into."""

import dataclasses

import pandas as pd
import pytest
import within_epoch

from tinyclf.models import starting_model
from tinyclf.packed import open_packed
from tinyclf.runs import Run
from tinyclf.settings import Settings


def test_it_begins_and_ends_with_what_the_run_itself_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    settings, data = Settings(epochs=1, input_size=32, learning_rate=0.01), open_packed("mini")
    run = Run(settings, data, "looked-into")
    run.fit(starting_model(settings, data.classes))
    before = run.checkpoint.read_bytes()
    found = pd.read_csv(within_epoch.main(run.checkpoint, every=8))
    assert run.checkpoint.read_bytes() == before
    run = Run(dataclasses.replace(settings, epochs=2), data, "looked-into")
    history = pd.DataFrame(run.fit(starting_model(settings, data.classes)))
    assert found["step"].tolist() == [0, 8, 16, 20] and set(found["epoch"]) == {2}
    for place in (0, -1):
        for name in ("val_loss", "val_accuracy"):
            assert found[name].iloc[place] == history[name].iloc[place]
    assert found["val_loss"].nunique() == 4


def test_it_refuses_a_run_whose_average_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    settings, data = Settings(epochs=1, input_size=32, ema=0.9), open_packed("mini")
    run = Run(settings, data, "averaged")
    run.fit(starting_model(settings, data.classes))
    with pytest.raises(ValueError, match="average"):
        within_epoch.main(run.checkpoint)
