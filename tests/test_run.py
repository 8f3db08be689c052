"""A run's folder: its record, going on where it was, and never mixing two runs."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from tinyclf import run as runs
from tinyclf.errors import TinyclfError
from tinyclf.catalog import read_experiments
from tinyclf.figures import curves
from tinyclf.index_page import regenerate
from tinyclf.names import with_seed
from tinyclf.cache import Packed, PackedSplit
from tinyclf.initial import is_finished
from tinyclf.paths import PROJECT
from tinyclf.record import read_records
from tinyclf.run_page import curve_table, result_table
from tinyclf.run import Run
from tinyclf.settings import Settings
from tinyclf.accuracy import SCRATCH, accuracy_tables, by_experiment, judged, published_row, report, stand_ins

SETTINGS = Settings(epochs=2, batch_size=8)
WORDS = ["ant", "bee", "cat", "dog"]


def data(seed=0):
    rng = np.random.default_rng(seed)

    def split(count):
        images = rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        return PackedSplit(images, rng.integers(0, 4, count))

    return Packed("mini", list("abcd"), WORDS, f"fingerprint {seed}", split(20), split(12))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(256, 4))


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


def finished(settings=SETTINGS, name="baseline-scratch", force=False):
    run = Run(settings, data(), name, force=force)
    net = model()
    return run.finish(run.fit(net), net)


def test_the_record_holds_what_the_run_was(reports):
    record = finished()
    folder = reports / "mini" / "baseline-scratch"
    assert json.loads((folder / "record.json").read_text()) == record == read_records("mini")["baseline-scratch"]
    assert record["settings"]["epochs"] == len(record["history"]) == 2
    assert record["data"] == {"name": "mini", "classes": 4, "train": 20, "val": 12, "sha256": "fingerprint 0"}
    assert record["weights"] == {"label": "nothing", "file": None, "sha256": None}
    assert record["result"]["last"] == record["history"][-1]
    assert record["result"]["best"]["val_accuracy"] == max(row["val_accuracy"] for row in record["history"])
    (environment,) = record["environments"]
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["hardware"]["device"] in ("cpu", "cuda")
    assert record["evaluation"]["top1"] == record["history"][-1]["val_accuracy"]
    tables = {
        name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
        for name in ("history", "classes", "confusion")
    }
    assert [(row["wnid"], row["words"]) for row in tables["classes"]] == list(zip("abcd", WORDS, strict=True))
    assert sum(int(row["images"]) for row in tables["classes"]) == 12
    right = sum(int(row["correct"]) for row in tables["classes"])
    assert right == 12 * record["evaluation"]["top1"]
    assert right + sum(int(row["images"]) for row in tables["confusion"]) == 12
    assert all(row["wnid"] != row["taken for"] for row in tables["confusion"])
    rows = tables["history"]
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in record["history"]]


def test_the_history_is_the_same_to_the_last_bit_every_time(reports):
    finished(name="one")
    finished(name="other")
    assert (reports / "mini/one/history.csv").read_bytes() == (reports / "mini/other/history.csv").read_bytes()


def test_a_finished_run_is_not_repeated_unless_forced(reports, capsys):
    first = finished()
    assert capsys.readouterr().out.count("epoch ") == 2
    assert finished()["history"] == first["history"]
    assert "epoch  1" not in capsys.readouterr().out
    finished(force=True)
    assert "epoch  1" in capsys.readouterr().out


def test_a_run_is_continued_to_more_epochs(reports):
    finished()
    longer = finished(Settings(epochs=3, batch_size=8))
    whole = finished(Settings(epochs=3, batch_size=8), "whole")
    assert [row["val_loss"] for row in longer["history"]] == [row["val_loss"] for row in whole["history"]]


@pytest.mark.parametrize("planned", [{"schedule": "cosine"}, {"start_size": 40}, {"warmup": 0.2}])
def test_a_run_whose_every_epoch_depends_on_their_number_is_not_continued_to_more(reports, planned):
    recipe = Settings(epochs=2, batch_size=8, **planned)
    run, net = Run(recipe, data(), "planned"), model()
    net[0].stride = (5, 5)
    net.insert(1, torch.nn.AdaptiveAvgPool2d(8))
    run.finish(run.fit(net), net)
    with pytest.raises(TinyclfError, match="epochs: 2 there, 3 here"):
        Run(dataclasses.replace(recipe, epochs=3), data(), "planned")


def test_test_time_averaging_stands_beside_the_plain_evaluation(reports):
    plain = finished(name="plain")
    both = finished(Settings(epochs=2, batch_size=8, flip_tta=True), "both")
    assert plain["mirrored"] is None and both["evaluation"] == plain["evaluation"] != both["mirrored"]
    run, net = Run(SETTINGS, data(), "plain"), model()
    run.fit(net)
    images = torch.from_numpy(data().val.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = (net(images) + net(images.flip(3))) / 2
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data().val.labels)).item()
    assert both["mirrored"]["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_run_continued_under_other_versions_lists_all_of_them(reports, monkeypatch):
    finished()
    describe = runs.environment.describe
    newer = {"versions": {"torch": "99"}}
    monkeypatch.setattr(runs.environment, "describe", lambda *args: describe(*args) | newer)
    finished(Settings(epochs=3, batch_size=8))
    record = finished(Settings(epochs=4, batch_size=8))
    assert [each["versions"]["torch"] for each in record["environments"]] == [torch.__version__.split("+")[0], "99"]


def test_a_setting_newer_than_a_run_had_its_default_then(reports, monkeypatch):
    older = {name: value for name, value in dataclasses.asdict(SETTINGS).items() if name != "cutmix"}
    with monkeypatch.context() as patch:
        patch.setattr(runs.dataclasses, "asdict", lambda settings: older)
        before = finished()
    assert "cutmix" not in before["settings"]
    assert finished(Settings(epochs=3, batch_size=8))["history"][:2] == before["history"]
    with pytest.raises(TinyclfError, match=r"cutmix: 0\.0 there, 1\.0 here"):
        finished(Settings(epochs=3, batch_size=8, cutmix=1.0))


def test_forced_a_run_leaves_what_was_there_until_it_has_something_better(reports, monkeypatch):
    finished()
    checkpoint = reports / "mini" / "baseline-scratch" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    Run(dataclasses.replace(SETTINGS, seed=1), data(), "baseline-scratch", force=True)
    assert checkpoint.read_bytes() == before


def test_forced_interrupted_and_fitted_again_a_run_goes_on(reports):
    expected = finished(name="whole")["history"]
    finished()
    run, net, calls = Run(SETTINGS, data(), "baseline-scratch", force=True), model(), []

    def interrupt(module, inputs):
        calls.append(1)
        if len(calls) == 7:  # in the second epoch
            raise KeyboardInterrupt

    net.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.fit(net)
    assert [row["val_loss"] for row in run.fit(net)] == [row["val_loss"] for row in expected]


def test_a_run_that_finished_no_epoch_stands_in_nobodys_way(reports):
    run = Run(dataclasses.replace(SETTINGS, learning_rate=100.0), data(), "baseline-scratch")
    net = model()
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * float("nan"),))
    with pytest.raises(TinyclfError, match="became nan"):
        run.fit(net)
    record = finished()
    assert record["settings"]["learning_rate"] == 0.001 and len(record["environments"]) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.01}, "learning_rate: 0.001 there, 0.01 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"epochs": 1}, "epochs: 2 there, 1 here"),
    ],
)
def test_a_run_of_other_settings_is_refused_by_naming_the_difference(reports, change, said):
    before = finished()
    with pytest.raises(TinyclfError) as error:
        finished(Settings(**{"epochs": 2, "batch_size": 8} | change))
    assert said in str(error.value)
    assert read_records("mini")["baseline-scratch"] == before


def test_what_another_process_did_meanwhile_is_neither_mixed_nor_dropped(reports):
    other = dataclasses.replace(SETTINGS, learning_rate=0.01)
    late, same = Run(other, data(), "baseline-scratch"), Run(SETTINGS, data(), "baseline-scratch")
    before = finished()  # both were made when there was nothing yet
    with pytest.raises(TinyclfError, match=r"learning_rate: 0\.001 there, 0\.01 here"):
        late.fit(model())
    assert same.fit(model()) == before["history"]
    assert read_records("mini")["baseline-scratch"] == before


@pytest.mark.parametrize("processes", [0, -1, 1000])
def test_more_processes_than_there_can_be_are_refused_before_anything_is_written(reports, processes):
    with pytest.raises(TinyclfError, match=rf"processes = {processes}: expected 1 to"):
        Run(SETTINGS, data(), "baseline-scratch").fit(model(), processes)
    assert not list(reports.rglob("*.safetensors"))


def test_a_run_on_other_data_is_refused(reports):
    finished()
    with pytest.raises(TinyclfError, match="data: sha256 fingerprint 0 there, sha256 fingerprint 1 here"):
        Run(SETTINGS, data(1), "baseline-scratch")


def test_without_a_name_a_run_is_named_after_what_it_changes():
    assert runs.default_name(Settings()) == "published-recipe"
    assert runs.default_name(Settings(epochs=3, weights="../x/my other.pth")) == "weights-my_other-epochs-3"


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "x" * 300])
def test_a_name_that_is_no_folder_is_refused(reports, name):
    if name:
        with pytest.raises(TinyclfError, match="run = "):
            Run(SETTINGS, data(), name)
    else:
        assert Run(SETTINGS, data(), name).name == "epochs-2-batch_size-8"


def test_a_reports_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "file"))
    with pytest.raises(TinyclfError, match=r"cannot write to .*TINYCLF_REPORTS"):
        Run(SETTINGS, data(), "baseline-scratch")


def test_a_record_that_cannot_be_written_whole_leaves_the_old_one(reports, monkeypatch):
    before = finished()
    run = Run(SETTINGS, data(), "baseline-scratch")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyclf.files.os.replace", full)
    with pytest.raises(TinyclfError, match="No space left on device"):
        run.finish(before["history"], model())
    assert read_records("mini")["baseline-scratch"] == before
    assert not list((reports / "mini").rglob("*.partial"))


def test_an_unreadable_record_is_named(reports):
    finished()
    (reports / "mini/baseline-scratch/record.json").write_text("{")
    with pytest.raises(TinyclfError, match=r"record\.json: not a readable record"):
        read_records("mini")


def test_the_table_marks_a_row_that_was_run_with_other_settings(reports):
    finished(Settings(epochs=2, learning_rate=0.01))
    assert accuracy_tables("mini")[SCRATCH]["experiment"][0] == "baseline-scratch, changed: learning_rate = 0.01"
    finished(Settings(epochs=2), force=True)
    assert accuracy_tables("mini")[SCRATCH]["experiment"][0] == "baseline-scratch"


def test_the_length_of_a_recipe_that_plans_it_is_part_of_it(reports):
    record, recipe = finished(), read_experiments("mini")["fast-scratch"].settings

    def table(*epochs):
        for seed, count in enumerate(epochs):
            folder = reports / "mini" / (with_seed("fast-scratch", seed) if seed else "fast-scratch")
            folder.mkdir(exist_ok=True)
            settings = dataclasses.asdict(dataclasses.replace(recipe, epochs=count, seed=seed))
            changed = {"run": folder.name, "settings": settings, "history": record["history"][:1] * count}
            (folder / "record.json").write_text(json.dumps(record | changed))
        return accuracy_tables("mini")[SCRATCH].to_dict("records")[1]

    row = table(recipe.epochs, recipe.epochs, recipe.epochs + 1)
    assert row["experiment"].startswith("**fast-scratch**; to reach: 25.94") and row["seeds"] == "2"
    row = table(2, 2, 2)
    assert row["experiment"].startswith("**fast-scratch**, changed: epochs = 2; to reach") and row["seeds"] == "3"


def test_a_goal_is_reached_by_the_mean_of_all_seeds_within_its_limits(reports):
    record = finished()

    def runs_of(dataset, *accuracies):
        settings = record["settings"] | {"dataset": dataset}
        return [record | {"settings": settings, "result": {"last": {"val_accuracy": each}}} for each in accuracies]

    goal = {"text": "30 %", "accuracy": 0.3}
    assert judged(goal, runs_of("tiny-imagenet", 0.28, 0.32)) == "30 %: reached"
    assert judged(goal, runs_of("tiny-imagenet", 0.28, 0.31)) == "30 %: missed"
    assert judged(goal, runs_of("mini", 0.9)) == judged(goal, []) == "30 %"
    both = runs_of("tiny-imagenet", 0.9)  # 2 of row 1's 15 epochs
    for limits in ({"epochs": 2}, {"arithmetic": 2 / 15 + 1e-6}):
        assert judged(goal | limits, both) == "30 %: reached"
    for limits in ({"epochs": 1}, {"arithmetic": 0.1}):
        assert judged(goal | limits, both) == "30 %: missed"


def test_the_lines_that_make_all_again_have_what_was_asked_for_and_no_line_twice(reports):
    record = finished(name="preprocessing")
    older = {key: value for key, value in record["settings"].items() if key != "eval_size"}
    (reports / "mini" / "preprocessing" / "record.json").write_text(json.dumps(record | {"settings": older}))
    parent = {"run": "preprocessing", "epochs": 2, "settings": older, "parent": None}
    for name in ("finetuning", "finetuning-small-stem"):
        finished(name=name)
        path = reports / "mini" / name / "record.json"
        weights = {"label": "preprocessing, from nothing", "file": None, "sha256": "abc", "parent": parent}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": weights}))
    lines = regenerate("mini").splitlines()
    assert len(lines) == len(set(lines)) == 4 and not any("eval_size" in line for line in lines)


def test_what_was_validated_on_training_images_stands_in_no_accuracy_table(reports):
    finished(dataclasses.replace(SETTINGS, hold_out=True))
    assert accuracy_tables("mini")[SCRATCH]["ours last"][0] == "not run"


def test_a_recorded_run_is_not_run_again_and_one_that_was_started_over_is(reports, monkeypatch):
    finished()
    assert Run(SETTINGS, data(), "baseline-scratch").is_recorded()
    assert not Run(SETTINGS, data(), "baseline-scratch", force=True).is_recorded()
    assert not Run(dataclasses.replace(SETTINGS, epochs=3), data(), "baseline-scratch").is_recorded()
    assert is_finished("baseline-scratch", "mini")
    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_record", lambda *_: None)  # killed before the record
        finished(force=True)
    assert not Run(SETTINGS, data(), "baseline-scratch").is_recorded()
    assert not is_finished("baseline-scratch", "mini")


def test_the_table_holds_the_records_numbers_and_says_what_was_not_run(reports):
    record = finished()
    (scratch, *_), (imagenet, *_) = (table.to_dict("records") for table in accuracy_tables("mini").values())
    assert scratch["ours last"] == f"{100 * record['result']['last']['val_accuracy']:.2f}\u00a0%"
    assert (scratch["README"], scratch["published last"], scratch["published best"]) == (
        "25.9\u00a0%",
        "25.94\u00a0%",
        "25.94\u00a0%",
    )
    assert scratch["experiment"] == "baseline-scratch, changed: batch_size = 8"
    assert scratch["published, same epoch"] == "9.30\u00a0%" and scratch["epochs"] == "2 of 15"
    assert (imagenet["ours last"], imagenet["ours best"], imagenet["epochs"]) == ("not run", "", "")
    assert "`mini` is a stand-in for both" in report("mini")


def test_several_seeds_make_a_mean_and_a_deviation_and_a_band(reports):
    seeds = {0: "baseline-scratch", 1: "baseline-scratch-seed-1", 5: "baseline-scratch-seed-5"}
    found = [finished(Settings(epochs=2, seed=seed), name) for seed, name in seeds.items()]
    finished(Settings(epochs=1, seed=7), "baseline-scratch-seed-7")  # shorter: not averaged with the others
    finished(Settings(epochs=2, seed=8, learning_rate=0.01), "baseline-scratch-seed-8")  # another recipe: neither
    accuracies = [100 * record["result"]["last"]["val_accuracy"] for record in found]
    row, *_ = accuracy_tables("mini")[SCRATCH].to_dict("records")
    assert row["experiment"] == "baseline-scratch" and row["seeds"] == "3" and row["epochs"] == "2 of 15"
    assert row["ours last"] == f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}\u00a0%"
    (runs,) = by_experiment(read_records("mini")).values()
    assert [run["settings"]["seed"] for run in runs] == [0, 1, 5]
    losses = [record["history"][1]["val_loss"] for record in found]
    expected = f"{np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f}"
    assert curve_table("baseline-scratch", runs)["val loss"][2].startswith(f"{expected}<small>published 4.380<")
    (loss, text, numbers), _ = curves("baseline-scratch", runs)
    low, high = loss.axes[0].collections[1].get_paths()[0].get_extents().intervaly  # of the validation loss
    bands = [[record["history"][epoch]["val_loss"] for record in found] for epoch in (0, 1)]
    assert low == pytest.approx(min(np.mean(each) - np.std(each, ddof=1) for each in bands))
    assert high == pytest.approx(max(np.mean(each) + np.std(each, ddof=1) for each in bands))
    assert "3 seeds" in text and "published curves on Tiny-ImageNet are dotted" in text
    val = numbers[numbers["split"] == "val"].set_index("epoch")
    assert val["loss"][2] == pytest.approx(np.mean(losses)) and val["deviation"][2] == pytest.approx(
        np.std(losses, ddof=1)
    )
    assert val["published"][15] == 3.266 and np.isnan(val["loss"][15])
    assert not curves("baseline-scratch", runs[:1])[0][0].axes[0].collections


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        ("none", "nothing"),
        ("imagenet", "ImageNet"),
        ("mini", "ImageNet (stand-in: other drawn classes)"),
        ("some/where/x.safetensors", "ImageNet (stand-in: x.safetensors)"),
    ],
)
def test_only_torchvisions_own_weights_are_called_imagenet(weights, label):
    assert runs.weights_label(weights) == label


def test_a_stand_in_is_explained_where_it_was_used_and_nowhere_else(monkeypatch):
    records = {"a": {"weights": {"label": "nothing"}}, "b": {"weights": {"label": "ImageNet"}}}
    assert stand_ins("tiny-imagenet", records, "..") == []
    records["c"] = {"weights": {"label": runs.weights_label("a*b (1).pth")}}
    for folder, where in {"reports": "(../README.md#stand-in-weights)", "elsewhere": "tinyclf's README"}.items():
        monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / folder))
        (note,) = stand_ins("tiny-imagenet", records, "..")
        assert "stand-in: a\\*b (1).pth)" in note and where in note


def test_the_published_numbers_are_whole():
    for name in ("baseline-scratch", "baseline-imagenet"):
        row = published_row(name)
        curves = [row[f"{split}_{what}"] for split in ("train", "val") for what in ("loss", "accuracy")]
        assert {len(curve) for curve in curves} == {len(row["curve_epochs"])} == {12}
        assert row["val_accuracy"][-1] == row["last"]


def test_the_curve_table_puts_the_published_curve_beside_ours(reports):
    record = finished(Settings(epochs=2))
    table = curve_table("baseline-scratch", [record])
    assert list(table.index) == [1, 2]
    shown = [f"{row['val_loss']:.3f}" for row in record["history"]]
    assert list(table["val loss"]) == [
        f"{ours}<small>published {4.78 - epoch * 0.4:.3f}</small>" for epoch, ours in enumerate(shown)
    ]
    assert "published 9.30\u00a0%" in table["val accuracy"][2]
    assert list(curve_table("another run", [record])["val loss"]) == shown
    assert list(result_table(record)["epoch"]) == ["2", str(record["result"]["best"]["epoch"])]
