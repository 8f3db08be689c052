"""The accuracy table: numbers of the records beside the published ones, and the same in Markdown."""

import json
import math
from types import SimpleNamespace

import pytest
from records import leave, planned, started_from

from tinyclf.data.registry import DATASETS
from tinyclf.report.accuracy import NOT_RUN, accuracy_table, goal_status
from tinyclf.report.format import duration, format_metric, hardware, percent, points, share
from tinyclf.report.published import PUBLISHED, published, published_at, published_curve
from tinyclf.report.verdict import Verdict
from tinyclf.report.wording import data_notes, markdown_report, markdown_tables, order, verdict_text
from tinyclf.utils.paths import PROJECT

BEFORE = json.loads((PROJECT / "tests" / "numbers_before.json").read_text())["tables"]
STAND_IN = "ImageNet (stand-in: x.safetensors)"


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path


def row_of(name, dataset, size=0):
    rows = accuracy_table(dataset).rows
    (row,) = [row for row in rows if (row["experiment"], row["size"]) == (name, size)]
    return row


def lines_of(dataset):
    """The rows of the Markdown tables: their cells by the first one."""
    lines = markdown_tables(accuracy_table(dataset)).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row for row in rows}


def test_the_published_numbers_are_whole():
    for name, row in PUBLISHED.items():
        curves = [row[f"{split}_{metric}"] for split in ("train", "val") for metric in ("loss", "accuracy")]
        assert {len(curve) for curve in curves} == {len(row["curve_epochs"])}, name
        assert row["val_accuracy"][-1] == row["last"] and row["curve_epochs"][-1] == row["epochs"], name


def test_published_numbers_are_found_by_the_run_of_any_seed_and_where_they_compare():
    assert published("baseline-scratch-seed-3", "tiny-imagenet")["last"] == 0.2594
    assert published("fast-scratch", "tiny-imagenet") is None
    assert published("baseline-scratch", "mini") is published("baseline-scratch", "tiny-imagenet-20") is None
    assert published_at("baseline-scratch", "tiny-imagenet", 2) == 0.093
    assert math.isnan(published_at("baseline-scratch", "tiny-imagenet", 11))
    assert published_curve("baseline-scratch", "mini", "val_loss").empty


def test_the_table_has_the_numbers_of_the_records_and_the_published_one_at_the_same_epoch():
    leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet", epochs=2, batch_size=8), (0.1, 0.08))
    row = row_of("baseline-scratch", "tiny-imagenet")
    assert (row["accuracy"], row["best_accuracy"], row["epochs"], row["planned_epochs"]) == (0.08, 0.1, 2, 15)
    assert (row["published_last"], row["published_best"], row["published_then"]) == (0.2594, 0.2594, 0.093)
    assert row["difference"] == pytest.approx(-0.013) and row["overrides"] == {"batch_size": 8}
    line = next(line for title, line in lines_of("tiny-imagenet").items() if "(batch_size = 8)" in title)
    so_far = "2 of 15 epochs so far, as published (9.30%)"  # of 40 images only
    assert line[1:] == ["25.94%", "8.00%", so_far, "2 of 15", "12 s"]


def test_what_was_not_run_says_so_with_its_command():
    row = row_of("baseline-imagenet", "tiny-imagenet")
    assert math.isnan(row["accuracy"]) and row["runs"] == [] and math.isnan(row["difference"])
    told = markdown_report(accuracy_table("tiny-imagenet"))
    assert "not run yet: `tinyclf run baseline-imagenet --dataset tiny-imagenet`" in told


@pytest.mark.parametrize("dataset", ["mini", "tiny-imagenet-20"])
def test_beside_what_does_not_compare_nothing_published_is_told(dataset):
    leave("baseline-scratch", planned("baseline-scratch", dataset))
    table = accuracy_table(dataset)
    text = markdown_report(table)
    for row in table.rows:
        assert all(math.isnan(row[key]) for key in ("published_last", "published_then", "difference"))
    assert "| what | ours |  | epochs | time |" in text and "25.94" not in markdown_tables(table)
    assert DATASETS[dataset].note in text


def test_the_tables_have_six_columns():
    tables = markdown_tables(accuracy_table("tiny-imagenet"))
    assert tables.count("| what | published | ours | verdict | epochs | time |") == 2


def test_runs_from_weights_have_a_table_of_their_own():
    leave("preprocessing", planned("preprocessing", "mini", weights="none"))
    tables = {row["experiment"]: row["table"] for row in accuracy_table("mini").rows}
    assert tables["baseline-imagenet"] == tables["finetuning"] == "imagenet"
    assert tables["baseline-scratch"] == tables["preprocessing"] == "scratch"


def test_what_held_out_images_is_not_in_the_table():
    leave("baseline-scratch", planned("baseline-scratch", hold_out=True))
    assert math.isnan(row_of("baseline-scratch", "mini")["accuracy"])


def test_a_model_at_another_size_has_a_row():
    leave("preprocessing", planned("preprocessing", "tiny-imagenet"), other_sizes={"64": {"top1": 0.16}})
    row = row_of("preprocessing", "tiny-imagenet", 64)
    assert (row["title"], row["published_last"], row["accuracy"]) == (
        "the same model, evaluated at 64x64",
        0.1531,
        0.16,
    )
    assert row["difference"] == pytest.approx(0.0069) and math.isnan(row["epochs"]) and row["machines"] == []


def test_a_goal_is_reached_by_the_mean_of_all_seeds_within_its_limits():
    def goal(**limits):
        return SimpleNamespace(**{"accuracy": 0.3, "epochs": None, "compute": None} | limits)

    run = {"accuracy": 0.3, "epochs": 2, "share": 0.1}
    assert goal_status(goal(), run) == "reached" and goal_status(goal(), NOT_RUN) == ""
    assert goal_status(goal(accuracy=0.31), run) == "missed"
    assert {goal_status(goal(**within), run) for within in ({"epochs": 2}, {"compute": 0.1})} == {"reached"}
    assert {goal_status(goal(**over), run) for over in ({"epochs": 1}, {"compute": 0.09})} == {"missed"}


def test_goals_are_told_with_their_status_where_numbers_compare():
    leave("fast-scratch", planned("fast-scratch"), (0.9,))
    assert row_of("fast-scratch", "mini")["goals"] == [] and row_of("fast-scratch", "tiny-imagenet")["goals"]
    row = {"goals": [("30%", "reached"), ("40%", "")], "epochs": 2, "published_epochs": math.nan}
    row |= {"verdict": Verdict("", "")}
    assert verdict_text(row) == "goal: 30% (reached); goal: 40%"


def test_the_order_of_the_pretrained_models_is_compared_with_the_published_one():
    dataset = "tiny-imagenet-20"
    accuracies = {"baseline-imagenet": 0.5, "finetuning": 0.4, "finetuning-small-stem": 0.6}
    assert order(accuracy_table(dataset)) == []
    leave("preprocessing", planned("preprocessing", dataset), [0.7], other_sizes={"64": {"top1": 0.1}})
    for name, accuracy in accuracies.items():
        leave(name, planned(name, dataset), [accuracy], weights={"label": "ImageNet", "file": None})
    published_order = "preprocessing > finetuning-small-stem > baseline-imagenet > finetuning > preprocessing at 64x64"
    leave("preprocessing", planned("preprocessing", dataset), [0.7], other_sizes={"64": {"top1": 0.1}}, **FROM_IMAGENET)
    assert order(accuracy_table(dataset)) == [f"Order by the last epoch, published: {published_order}. Ours: the same."]
    leave("finetuning", planned("finetuning", dataset), [0.55], **FROM_IMAGENET)
    assert order(accuracy_table(dataset))[0].endswith("> finetuning > baseline-imagenet > preprocessing at 64x64.")


FROM_IMAGENET = {"weights": {"label": "ImageNet", "file": None, "sha256": None}}


def test_a_stand_in_is_explained_once_where_it_was_used(monkeypatch):
    assert data_notes("tiny-imagenet", ["scratch", "ImageNet"], "..") == []
    pages = {"reports": "(../docs/weights.md#stand-in-weights)", "other": "tinyclf's docs/weights.md"}
    for folder, where in pages.items():
        monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / folder))
        (note,) = data_notes("tiny-imagenet", ["ImageNet (stand-in: a*b (1).pth)"], "..")
        assert "stand-in: a\\*b (1).pth)" in note and where in note
    (note,) = data_notes("tiny-imagenet", [STAND_IN, f"a, from {STAND_IN}"], "../..")
    assert note.startswith(f"{STAND_IN}: these are not")
    part, note = data_notes("tiny-imagenet-20", [STAND_IN], "../..")
    assert "every tenth class" in part and note.startswith(STAND_IN)


def test_overrides_of_an_ancestor_are_told():
    parent = leave("preprocessing", planned("preprocessing", epochs=1, input_size=48))
    leave("finetuning", planned("finetuning", epochs=1), weights=started_from(parent))
    title = row_of("finetuning", "mini")["title"]
    differs = "input_size in preprocessing = 48, epochs in preprocessing = 1"
    assert f"{title} ({differs})" in lines_of("mini")


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "tiny-imagenet-20"])
def test_the_committed_records_give_the_table_that_they_gave_before(dataset, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / "reports"))
    ran = [row for row in accuracy_table(dataset).rows if not math.isnan(row["accuracy"])]
    assert len(ran) >= len(BEFORE[dataset])  # some were run since
    for name, before in BEFORE[dataset].items():
        experiment, _, size = name.partition(" at ")
        row = row_of(experiment, dataset, int(size.partition("x")[0] or 0))
        texts = {
            "accuracy": format_metric("accuracy", row["accuracy"], row["accuracy_std"]),
            "best_accuracy": format_metric("accuracy", row["best_accuracy"], row["best_accuracy_std"]),
            "flip_tta": format_metric("flip_tta", row["flip_tta"], row["flip_tta_std"]),
            "difference": points(row["difference"]),
        }
        assert {key: before[key] for key in texts if key in before} == {
            key: text.replace("%", " %") for key, text in texts.items() if text
        }
        if not size:
            assert before["epochs"] == f"{row['epochs']:.0f} of {row['planned_epochs']}"
            assert before["share"].replace(" ", "") == share(row["share"])
            assert before["seconds"] == f"{row['seconds']:,.0f}" and before["seeds"] == f"{row['seeds']:.0f}"
        if DATASETS[dataset].comparable:
            for key in ("published_last", "published_best", "published_then"):
                assert before.get(key, "") == percent(row[key]).replace("%", " %")


def test_numbers_as_text():
    assert format_metric("val_accuracy", 0.25, 0.0123) == "25.00 ± 1.23%"
    assert format_metric("val_loss", 1.23456) == "1.235" and format_metric("loss", math.nan) == ""
    assert [share(value) for value in (0.05, 1.0, 5.71)] == ["1/20.0", "1.0", "5.7"]
    assert [duration(value) for value in (99, 150, 5999, 7200)] == ["99 s", "2 min", "100 min", "2.0 h"]
    assert points(-0.0123) == "-1.23" and {points(math.nan), share(math.nan), duration(math.nan)} == {""}
    gpu = {"device": "cuda", "name": "A GPU", "threads": 8, "processes": 2}
    cpu = {"device": "cpu", "name": "A CPU", "threads": 2}
    assert hardware([cpu, gpu, cpu]) == "A CPU, 2 threads; A GPU in 2 processes"
    assert hardware([cpu | {"threads": 1}]) == "A CPU, 1 thread"
