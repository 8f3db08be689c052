"""Records as one table; and those that were changed, cut or made up, which are refused in one message each."""

import json

import pytest
from cells import names_of
from records import BASELINE, leave, planned, started_from

from tinyclf import Settings
from tinyclf.experiments.record import read_record, read_records, read_table
from tinyclf.report.runs import GROUPED, group_runs, group_seeds, load_histories, load_runs, read_runs
from tinyclf.utils.errors import TinyclfError

MISSING, NAN, INFINITE = object(), float("nan"), float("inf")
EDITS = {
    "run": (MISSING, 3, "", "../x", "javascript:alert(1)//", "index.html", "a" * 200),
    "settings": (MISSING, [], None, {"epochs": "3"}, {"epochs": 0}, {"newer": 1}, {}),
    "settings learning_rate": ("fast", NAN, INFINITE, [0.1], None, 10**400),
    "history": ([], {}, None, "x", [[]], [3]),
    "result best val_accuracy": (7.3, NAN, 0.9),  # the last is none of its epochs
    "evaluation top5": (MISSING,),
    "environments": ([], {}, None, [{}]),
    "weights parent run": (MISSING, "../../x", "javascript:x", None),
    "finished": (MISSING, 3, "yesterday"),
    "version": (MISSING, 1, 3, "2"),
}


@pytest.fixture
def record():
    parent = leave("preprocessing", planned("preprocessing"))
    more = {"flip_tta": {}, "other_sizes": {"64": {}}, "recipe": {"model": "ResNet", "ema": None}, "own_code": False}
    return leave("finetuning", planned("finetuning"), weights=started_from(parent), **more)


def changed(record, place, value):
    """A copy of a record with another value at a place, `history 0 epoch`."""
    inner = record = json.loads(json.dumps(record))
    *path, last = [int(part) if part.isdigit() else part for part in place.split()]
    for part in path:
        inner = inner[part]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return record


def test_an_edited_record_is_refused_by_its_path_and_left_out_of_the_others_tables(record, reports, capsys):
    path = reports / "mini/finetuning/record.json"
    contents = [json.dumps(changed(record, place, value)) for place, values in EDITS.items() for value in values]
    whole = json.dumps(record)
    for content in (*contents, "", whole[:300], "[]", "null", "3", "[" * 100_000, "9" * 9999, "no JSON"):
        path.write_text(content)
        with pytest.raises(TinyclfError) as error:
            read_record(path)
        said, start, end = str(error.value), f"{path}: not a readable record (", "); delete it and run again"
        assert said.startswith(start) and said.endswith(end) and len(said) < len(start) + 700, content[:300]
    path.write_bytes(b"\xff\xfe")
    for _ in range(2):
        assert load_runs("mini")["run"].tolist() == ["preprocessing"]
    assert capsys.readouterr().err.count(str(path)) == 1


def test_a_damaged_table_is_refused_by_its_path(record, reports):
    for content in (b"", b"\x1f\x8b\x08\x00", b"no gzip"):
        (reports / "mini/finetuning/predictions.csv.gz").write_bytes(content)
        with pytest.raises(TinyclfError, match=r"predictions\.csv\.gz: not a readable table"):
            read_table(read_records("mini")["finetuning"], "predictions.csv.gz")


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
    assert (row["flip_tta"], row["share"], row["seconds"]) == (0.25, 3000 / BASELINE, pytest.approx(18.6))
    assert row["overrides"] == {"learning_rate": 0.01} and row["settings.learning_rate"] == 0.01
    assert (row["recipe.optimizer"], row["recipe.scheduler"], row["recipe.ema"]) == ("SGD(lr=0.01)", "", "")
    assert load_histories("mini")["val_accuracy"].tolist() == [0.3, 0.2, 0.3]


def test_runs_that_are_alike_but_for_their_seed_are_one_row_with_mean_and_deviation():
    for seed, accuracy in {1: 0.2, 2: 0.3, 5: 0.45}.items():
        settings = planned("baseline-scratch", epochs=2, seed=seed)
        leave(f"baseline-scratch-seed-{seed}", settings, (0.1, accuracy))
    leave("baseline-scratch-seed-7", planned("baseline-scratch", epochs=1, seed=7), (0.9,))  # shorter
    other = planned("baseline-scratch", epochs=2, seed=8, learning_rate=0.01)
    record = leave("baseline-scratch-seed-8", other, (0.9, 0.9))  # another recipe
    other = planned("baseline-scratch", epochs=2, seed=9)
    leave("baseline-scratch-seed-9", other, data=record["data"] | {"sha256": "another"})
    row = group_runs(read_runs("mini"))["baseline-scratch"]
    assert set(GROUPED) <= set(row)
    assert row["accuracy"] == pytest.approx(0.95 / 3) and row["accuracy_std"] == pytest.approx(0.125831, abs=1e-6)
    assert row["runs"] == [f"baseline-scratch-seed-{seed}" for seed in (1, 2, 5)]
    assert row["seeds"] == 3 and row["overrides"] == {} and len(row["commands"]) == 3
    assert len(group_seeds(read_runs("mini"))) == 4


def test_runs_of_own_code_with_different_optimizers_are_not_averaged():
    for seed, optimizer in {1: "SGD", 2: "AdamW"}.items():
        settings = Settings(epochs=2, seed=seed)
        leave(f"mine-seed-{seed}", settings, recipe={"optimizer": optimizer}, own_code=True)
    assert [row["seeds"] for row in group_seeds(read_runs("mini"))] == [1, 1]


def test_an_experiments_own_settings_count_before_others_and_more_epochs_before_fewer():
    leave("baseline-scratch-seed-1", planned("baseline-scratch", seed=1, momentum=0.8), [0.5] * 3)
    leave("baseline-scratch-seed-2", planned("baseline-scratch", seed=2), [0.5] * 2)
    leave("baseline-scratch", planned("baseline-scratch"), [0.4] * 1)
    assert group_runs(read_runs("mini"))["baseline-scratch"]["runs"] == ["baseline-scratch-seed-2"]


def test_the_length_of_a_recipe_that_plans_it_is_part_of_it():
    leave("fast-scratch-seed-1", planned("fast-scratch", seed=1))
    leave("fast-scratch-seed-2", planned("fast-scratch", seed=2, epochs=50), [0.5] * 50)
    assert group_runs(read_runs("mini"))["fast-scratch"]["runs"] == ["fast-scratch-seed-1"]


def test_settings_of_ancestors_are_told_their_seeds_make_no_difference_and_commands_name_them_first():
    for seed in (1, 2):
        name = f"preprocessing-seed-{seed}"
        parent = started_from(leave(name, planned("preprocessing", seed=seed, input_size=48)))
        settings, sizes = planned("finetuning", seed=seed, weights=f"run:{name}"), {"64": {"top1": seed / 10}}
        leave(f"finetuning-seed-{seed}", settings, weights=parent, other_sizes=sizes)
    row = group_runs(read_runs("mini"))["finetuning"]
    assert (row["seeds"], row["start"]) == (2, "preprocessing, from scratch")
    assert row["overrides"] == {"input_size in preprocessing": 48} and row["resized"] == pytest.approx(0.15)
    first, second, third, fourth, last = names_of("9_summary")["regenerate"]("mini").splitlines()
    assert all("train preprocessing " in line and "-p input_size=48" in line for line in (first, second))
    assert all("train finetuning " in line for line in (third, fourth))
    assert last == "tinyclf run ablations --dataset mini"
