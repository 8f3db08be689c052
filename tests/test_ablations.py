"""Every held-out run in one table, each with its base, what it changed, and the command that repeats it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cells import names_of
from records import BASELINE, leave, planned

from tinyclf.experiments.settings import Settings
from tinyclf.report.html import table
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import PROJECT


@pytest.fixture
def page(reports):
    """The names of the ablations' notebook, after its cells ran without a record."""
    return SimpleNamespace(**names_of("5_ablations"))


def test_a_table_of_another_project_is_not_replaced(page, reports):
    (reports / "mini/ablations.csv").write_text("mine,too")
    with pytest.raises(TinyclfError, match=r"ablations\.csv is not of tinyclf: move it away"):
        names_of("5_ablations")
    assert (reports / "mini/ablations.csv").read_text() == "mine,too"


def leave_all():
    for name, accuracies in {"fast-scratch.slower": (0.5,), "fast-scratch.no-smoothing": (0.3, 0.4)}.items():
        for seed, accuracy in enumerate(accuracies):
            run = f"{name}-seed-{seed}" if seed else name
            leave(run, planned(name, seed=seed), (0.1, accuracy), flip_tta={"top1": 0.6})
    leave("fast-scratch.still-slower", planned("fast-scratch.still-slower", momentum=0.8), (0.1, 0.25))
    leave("mine", Settings(hold_out=True, epochs=2, learning_rate=0.5, seed=3), (0.1, 0.2))  # of no experiment
    leave("fast-scratch", planned("fast-scratch"), (0.9,))  # evaluated on the validation images


def compared(page):
    """The ablations of a recipe."""
    rows = page.ablation_table("mini")
    return page.compare(rows[rows["recipe"] != ""], "mini").set_index("ablation", drop=False)


def test_each_held_out_run_is_a_row_with_its_seeds_and_a_command_that_repeats_it(page):
    leave_all()
    rows = page.ablation_table("mini").set_index("run")
    base, slower, changed, mine = (rows.iloc[number] for number in range(4))  # as ablations.toml has them
    assert [base.name, slower.name] == ["fast-scratch.no-smoothing", "fast-scratch.slower"]
    assert base["accuracy"] == pytest.approx(0.35) and base["deviation"] == pytest.approx(0.0707, abs=1e-4)
    assert (base["seeds"], base["epochs"], base["seconds"], base["flip_tta"]) == (2, 2, 12, 0.6)
    assert base["command"].count("tinyclf train fast-scratch.no-smoothing --dataset mini --seeds") == 2
    assert (slower["recipe"], slower["ablation"], slower["base"]) == ("fast-scratch", "slower", "no-smoothing")
    assert slower["changed"] == "learning_rate = 0.05" and pd.isna(slower["deviation"])
    assert (slower["multiply_adds"], slower["share"]) == (2000, 2000 / BASELINE)
    assert changed["changed"].endswith("momentum = 0.8") and "-p momentum=0.8" in changed["command"]
    assert (mine["ablation"], mine["recipe"], mine["base"]) == ("mine", "", "")
    assert "learning_rate = 0.5" in mine["changed"] and mine["command"].startswith("tinyclf train baseline-scratch ")


def test_own_code_is_an_ablation_of_the_one_that_its_name_begins_with(page):
    leave("fast-scratch.slower", planned("fast-scratch.slower"), (0.1, 0.5))
    own = {"own_code": True, "command": "", "recipe": {"transform": "my crops"}}
    leave("fast-scratch.slower-mine-seed-1", planned("fast-scratch.slower", momentum=0.5, seed=1), (0.1, 0.75), **own)
    row = compared(page).loc["slower-mine"]
    assert (row["recipe"], row["base"], row["gain"]) == ("fast-scratch", "slower", 0.25)
    assert row["changed"] == "momentum = 0.5, transform = my crops"


def test_a_gain_is_over_the_base_and_those_of_equal_compute_are_ranked(page):
    leave_all()
    rows = compared(page)
    assert rows.index.tolist() == ["slower", "no-smoothing", "still-slower"]  # of equal compute, the best first
    told = table(rows, page.COLUMNS)
    assert told.texts["at equal compute"].tolist() == ["best of 3", "-15.00", "-25.00"]
    assert told.texts["over its base"].tolist() == ["+15.00", "", "▼\u00a0-25.00"]  # 40 images: 2 errors are 22 points
    assert "35.00 ± 7.07%" in repr(told) and "The best of 3, **slower** has 50.00%" in page.summary(rows)
    samples = np.random.default_rng(0).binomial(40, 0.5, (2, 200_000)) / 40  # the accuracy with the largest error
    one, two = 100 * samples[0].std(), 100 * (samples[0] - samples[1]).std()
    words = page.precision(rows)
    assert f"of an accuracy is up to {one:.1f} points, and that of a difference up to {two:.1f}" in words


def test_compute_within_two_per_cent_is_equal_and_a_gain_at_other_compute_says_so_and_has_no_colour(page):
    leave("fast-scratch.slower", planned("fast-scratch.slower"), (0.1, 0.2))
    rows = pd.concat([page.ablation_table("mini")] * 5).assign(share=[1.0, 1.015, 1.03, 1.04, 1.06])
    assert page.compare(rows, "mini")["group_size"].tolist() == [2, 2, 2, 2, 1]
    leave("fast-scratch.still-slower", planned("fast-scratch.still-slower"), (0.1, 0.2, 0.9))
    told = table(compared(page), page.COLUMNS)
    assert told.texts["over its base"][1] == "+70.00 at 1.50x the compute" and 'class="above"' not in told.data


def test_a_recipe_is_what_the_search_by_its_ablations_ended_with(page):
    assert page.chosen("fast-scratch", "tiny-imagenet") == "shallow-whitened"
    assert page.chosen("modern-imagenet", "tiny-imagenet-20") == "sub-pixel"


def test_the_committed_table_is_that_of_the_committed_records(page, monkeypatch):
    monkeypatch.delenv("TINYCLF_REPORTS")
    for path in (PROJECT / "reports").glob("*/ablations.csv"):
        assert path.read_text() == page.ablation_table(path.parent.name).to_csv(index=False), path
