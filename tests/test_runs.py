"""All records as one table: what a row holds, which runs are alike, and which of them count."""

import pytest
from cells import names_of
from records import BASELINE, leave, planned, started_from

from tinyclf.experiments.settings import Settings
from tinyclf.report.runs import GROUPED, group_runs, group_seeds, load_histories, load_runs, read_runs


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))


def test_a_row_has_the_numbers_of_its_record_and_without_one_the_table_has_its_columns():
    runs = load_runs("mini")
    assert runs.empty and load_histories("mini").empty and group_runs(read_runs("mini")) == {}
    settings = planned("baseline-scratch", epochs=3, learning_rate=0.01)
    recipe = {"model": "ResNet, 11,181,642 parameters", "optimizer": "SGD(lr=0.01)", "ema": None}
    leave("baseline-scratch", settings, (0.3, 0.2, 0.3), flip_tta={"top1": 0.25}, recipe=recipe)
    (row,) = load_runs("mini").to_dict("records")
    assert set(row) == set(runs)
    assert (row["run"], row["experiment"], row["settings.seed"]) == ("baseline-scratch", "baseline-scratch", 0)
    assert (row["accuracy"], row["best_accuracy"], row["best_epoch"], row["epochs"]) == (0.3, 0.3, 1, 3)
    assert (row["flip_tta"], row["top5"], row["loss"], row["calibration_error"]) == (0.25, 0.5, 4.7, 0.05)
    assert (row["compute_total"], row["share"], row["seconds"]) == (3000, 3000 / BASELINE, pytest.approx(18.6))
    assert row["overrides"] == {"learning_rate": 0.01} and row["settings.learning_rate"] == 0.01
    assert (row["recipe.optimizer"], row["recipe.scheduler"], row["recipe.ema"]) == ("SGD(lr=0.01)", "", "")
    assert load_histories("mini")["val_accuracy"].tolist() == [0.3, 0.2, 0.3]


def test_own_code_is_told_also_of_records_that_are_older_than_the_word():
    leave("by-settings", Settings(epochs=2))
    leave("mine", Settings(epochs=2), own_code=True)
    leave("older", Settings(epochs=2), command="")
    own = load_runs("mini").set_index("run")["own_code"]
    assert own.to_dict() == {"by-settings": False, "mine": True, "older": True}


def test_runs_that_are_alike_but_for_their_seed_are_one_row_with_mean_and_deviation():
    for seed, accuracy in {0: 0.2, 1: 0.3, 5: 0.45}.items():
        name = f"baseline-scratch-seed-{seed}" if seed else "baseline-scratch"
        leave(name, planned("baseline-scratch", epochs=2, seed=seed), (0.1, accuracy))
    leave("baseline-scratch-seed-7", planned("baseline-scratch", epochs=1, seed=7), (0.9,))  # shorter
    other = planned("baseline-scratch", epochs=2, seed=8, learning_rate=0.01)
    leave("baseline-scratch-seed-8", other, (0.9, 0.9))  # another recipe
    data = {"name": "mini", "classes": 20, "train": 360, "val": 40, "sha256": "another"}
    leave("baseline-scratch-seed-9", planned("baseline-scratch", epochs=2, seed=9), data=data)
    row = group_runs(read_runs("mini"))["baseline-scratch"]
    assert set(GROUPED) <= set(row)
    assert row["accuracy"] == pytest.approx(0.95 / 3) and row["accuracy_std"] == pytest.approx(0.125831, abs=1e-6)
    assert row["runs"] == ["baseline-scratch", "baseline-scratch-seed-1", "baseline-scratch-seed-5"]
    assert row["seeds"] == 3 and row["overrides"] == {} and len(row["commands"]) == 3
    assert len(group_seeds(read_runs("mini"))) == 4


def test_runs_of_own_code_with_different_optimizers_are_not_averaged():
    for seed, optimizer in enumerate(("SGD", "AdamW")):
        name = f"mine-seed-{seed}" if seed else "mine"
        leave(name, Settings(epochs=2, seed=seed), recipe={"optimizer": optimizer}, own_code=True)
    assert [row["seeds"] for row in group_seeds(read_runs("mini"))] == [1, 1]


def test_an_experiments_own_settings_count_before_others_and_more_epochs_before_fewer():
    leave("baseline-scratch-seed-1", planned("baseline-scratch", seed=1, momentum=0.8), [0.5] * 3)
    leave("baseline-scratch-seed-2", planned("baseline-scratch", seed=2), [0.5] * 2)
    leave("baseline-scratch", planned("baseline-scratch"), [0.4] * 1)
    assert group_runs(read_runs("mini"))["baseline-scratch"]["runs"] == ["baseline-scratch-seed-2"]


def test_the_length_of_a_recipe_that_plans_it_is_part_of_it():
    epochs = planned("fast-scratch").epochs
    for seed, count in enumerate((epochs, epochs, epochs + 1)):
        name = f"fast-scratch-seed-{seed}" if seed else "fast-scratch"
        leave(name, planned("fast-scratch", seed=seed, epochs=count), [0.5] * count)
    row = group_runs(read_runs("mini"))["fast-scratch"]
    assert (row["overrides"], row["seeds"]) == ({}, 2)


def test_settings_of_ancestors_are_told_their_seeds_make_no_difference_and_commands_name_them_first():
    for seed, kept in enumerate((0.1, 0.3)):
        end = f"-seed-{seed}" if seed else ""
        parent = leave(f"preprocessing{end}", planned("preprocessing", seed=seed, input_size=48))
        settings = planned("finetuning", seed=seed, weights=f"run:preprocessing{end}")
        leave(f"finetuning{end}", settings, weights=started_from(parent), other_sizes={"64": {"top1": kept}})
    leave("finetuning-small-stem", planned("finetuning-small-stem"), weights=started_from(parent))
    row = group_runs(read_runs("mini"))["finetuning"]
    assert (row["seeds"], row["start"]) == (2, "preprocessing, from scratch")
    assert row["overrides"] == {"input_size in preprocessing": 48} and row["resized"] == 0.2
    lines = names_of("9_summary")["regenerate"]("mini").splitlines()
    assert len(lines) == len(set(lines)) == 6 and lines[-1] == "tinyclf run ablations --dataset mini"
    parents, children = (
        [f"tinyclf train {name} " in line for line in lines] for name in ("preprocessing", "finetuning")
    )
    assert sum(parents) == sum(children) == 2 and parents.index(True) < children.index(True)
    assert "-p input_size=48" in lines[parents.index(True)]
