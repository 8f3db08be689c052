"""The accuracy table: numbers of the records beside the published ones, and the same in Markdown."""

import math
from types import SimpleNamespace

from records import leave, planned

from tinyclf.report.accuracy import NOT_RUN, NOTES, accuracy_table, goal_text, markdown_report, markdown_tables
from tinyclf.report.format import duration, hardware
from tinyclf.report.runs import PUBLISHED

STAND_IN = "ImageNet (stand-in: x.safetensors)"


def rows_of(dataset):
    """The rows of the tables, by experiment and size; 0: the size it trained at."""
    return {(row["experiment"], row["size"]): row for row in accuracy_table(dataset).rows}


def lines_of(dataset):
    """The rows of the Markdown tables: their cells by the first one."""
    lines = markdown_tables(accuracy_table(dataset)).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row for row in rows}


def test_the_published_numbers_are_whole():
    for name, row in PUBLISHED.items():
        curves = [row[f"{split}_{metric}"] for split in ("train", "val") for metric in ("loss", "accuracy")]
        assert {len(curve) for curve in curves} == {len(row["curve_epochs"])}, name
        assert row["val_accuracy"][-1] == row["last"] <= row["best"], name
        assert row["curve_epochs"][-1] == row["epochs"] == planned(name, "tiny-imagenet").epochs, name


def test_the_table_has_the_numbers_of_the_records_and_the_published_one_at_the_same_epoch():
    for seed, accuracy in ((0, 0.08), (1, 0.12)):
        name = f"baseline-imagenet-seed-{seed}" if seed else "baseline-imagenet"
        settings = planned("baseline-imagenet", "tiny-imagenet", seed=seed, epochs=2, batch_size=8)
        leave(name, settings, (0.4, accuracy), weights={"label": STAND_IN, "file": None, "sha256": None})
    lines = lines_of("tiny-imagenet")
    title = "Step 1: baseline with ImageNet weights (stand-in weights) (batch_size = 8)"
    assert lines[title][1:] == [  # 40 images; 1.96 * sqrt(.1 * .9 / 40 + .496 * .504 / 10000) = 9.35 points
        "56.61% (best 56.77%)",
        "10.00 ± 2.83% (4.0 to 23.1%; 2 seeds; best 40.00%)",
        "2 of 15 epochs so far, below the published 49.60% (-39.60 points, 95% interval -48.95 to -30.25)",
        "2 of 15",
        "1/7.5",
        "12 s (A processor, 2 threads)",
    ]
    first = lines["Step 1: baseline from scratch"]
    text = markdown_report(accuracy_table("tiny-imagenet"))
    assert "### From stand-ins for ImageNet weights" in text and text.count(NOTES["stand_in"]) == 1
    assert first[1:4] == ["25.94%", "", "not run yet (`tinyclf run baseline-scratch --dataset tiny-imagenet`)"]


def test_runs_from_weights_have_a_table_of_their_own_held_out_ones_none_and_own_ones_a_row():
    leave("preprocessing", planned("preprocessing", weights="none"))
    leave("baseline-scratch", planned("baseline-scratch", hold_out=True))
    leave("mine", planned("baseline-scratch", epochs=2), (0.1, 0.3), own_code=True, command="")
    rows = rows_of("mini")
    tables = {name: row["table"] for (name, _), row in rows.items()}
    assert tables["baseline-imagenet"] == tables["finetuning"] == "From ImageNet weights"
    assert tables["baseline-scratch"] == tables["preprocessing"] == "From scratch"
    assert math.isnan(rows["baseline-scratch", 0]["accuracy"])
    assert lines_of("mini")["mine (own code)"][1] == "30.00% (18.1 to 45.4%; 1 seed)"


def test_a_model_at_another_size_has_a_row_that_is_judged_after_all_epochs():
    settings, sizes = planned("preprocessing", "tiny-imagenet"), {"64": {"top1": 0.16}}
    for epochs, kind in ((2, ""), (7, "reproduced")):
        leave("preprocessing", settings, [0.5] * epochs, other_sizes=sizes)
        row = rows_of("tiny-imagenet")["preprocessing", 64]
        assert row["title"].endswith("on enlarged images, evaluated at 64x64") and row["published_last"] == 0.1531
        assert (row["accuracy"], row["verdict"].kind, row["seeds"], row["machines"]) == (0.16, kind, 1, ())


def test_a_goal_is_reached_by_the_mean_of_all_seeds_within_its_limits():
    ours = {"accuracy": 0.3, "epochs": 2, "share": 0.1}

    def told(accuracy=0.3, epochs=None, compute=None, run=ours):
        return goal_text(SimpleNamespace(text="it", accuracy=accuracy, epochs=epochs, compute=compute), run)

    assert {told(), told(epochs=2), told(compute=0.1)} == {"goal: it: reached"}
    assert {told(0.31), told(epochs=1), told(compute=0.09)} == {"goal: it: missed"}
    assert told(run=NOT_RUN) == "goal: it"


def test_durations_and_machines_as_text():
    assert [duration(seconds) for seconds in (99, 150, 7200, math.nan)] == ["99 s", "2 min", "2.0 h", ""]
    gpu = {"device": "cuda", "name": "A GPU", "threads": 8, "processes": 2, "others": 3}
    cpu = {"device": "cpu", "name": "A CPU", "threads": 2}
    assert hardware([cpu, gpu, cpu]) == "A CPU, 2 threads; A GPU in 2 processes, shared with 3 other processes"
