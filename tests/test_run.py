"""A run's folder: its record, going on where it was, and never mixing two runs."""

import csv
import dataclasses
import json
import os
import shutil

import pytest
import torch
from random_data import data
from torch import nn

from tinyclf.experiments import parent
from tinyclf.experiments import run as runs
from tinyclf.experiments.parent import is_finished
from tinyclf.experiments.recipe import recipe_for
from tinyclf.experiments.record import copies, read_records, read_table
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError

SETTINGS = Settings(epochs=2, input_size=64, batch_size=8)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(256, 4))


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


def fit(run, net):
    """Train `net` by the other settings of the run: its name must be of no experiment, as `net` is no ResNet18."""
    return run.fit(**vars(recipe_for(net, run.settings, 20)))


def finished(settings=SETTINGS, name="mine", force=False):
    run = Run(settings, data(), name, force=force)
    fit(run, model())
    return run.finish()


def test_the_record_holds_what_the_run_was(reports):
    record = finished()
    folder = reports / "mini" / "mine"
    assert json.loads((folder / "record.json").read_text()) == record == read_records("mini")["mine"]
    assert record["settings"]["epochs"] == len(record["history"]) == 2
    assert record["data"] == {"name": "mini", "classes": 4, "train": 20, "val": 12, "sha256": "fingerprint"}
    assert record["weights"] == {"label": "scratch", "file": None, "sha256": None}
    assert record["result"]["last"] == record["history"][-1]
    assert record["result"]["best"]["val_accuracy"] == max(row["val_accuracy"] for row in record["history"])
    (environment,) = record["environments"]
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["hardware"]["device"] in ("cpu", "cuda")
    assert record["evaluation"]["top1"] == record["history"][-1]["val_accuracy"]
    tables = {
        name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
        for name in ("history", "classes", "confusion")
    }
    assert [(row["wnid"], row["words"]) for row in tables["classes"]] == [
        (wnid, f"word {i}") for i, wnid in enumerate("abcd")
    ]
    assert sum(int(row["images"]) for row in tables["classes"]) == 12
    right = sum(int(row["correct"]) for row in tables["classes"])
    assert right == 12 * record["evaluation"]["top1"]
    assert right + sum(int(row["images"]) for row in tables["confusion"]) == 12
    assert all(row["wnid"] != row["predicted"] for row in tables["confusion"])
    rows = tables["history"]
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in record["history"]]


def test_the_tables_are_the_same_to_the_last_bit_every_time(reports):
    finished(name="one")
    finished(name="other")
    tables = {path.name: path.read_bytes() for path in (reports / "mini/one").glob("*.csv*")}
    assert len(tables) == 6
    for name, content in tables.items():
        assert (reports / "mini/other" / name).read_bytes() == content, name


def test_the_predictions_of_all_images_are_kept():
    run, net = Run(SETTINGS, data(), "mine"), model()
    fit(run, net)
    table = read_table(run.finish(), "predictions.csv.gz")
    with torch.no_grad():
        shares = net(torch.from_numpy(data().val.images).permute(0, 3, 1, 2) / 255).softmax(1)
    assert table.columns.tolist() == ["image", "wnid", "predicted", "probability"]
    assert table["image"].tolist() == list(range(12))
    assert table["wnid"].tolist() == ["abcd"[label] for label in data().val.labels]
    assert table["predicted"].tolist() == ["abcd"[label] for label in shares.argmax(1)]
    assert table["probability"].tolist() == pytest.approx(shares.amax(1).tolist(), abs=6e-5)


def test_a_finished_run_is_not_repeated_unless_forced(reports, capsys):
    first = finished()
    said = capsys.readouterr().out
    assert said.startswith("device: cpu, ") and said.count("epoch ") == 2
    assert finished()["history"] == first["history"]
    said = capsys.readouterr().out
    assert "device" not in said and "epoch  1" not in said
    finished(force=True)
    assert "epoch  1" in capsys.readouterr().out


def test_a_run_is_continued_to_more_epochs(reports):
    finished()
    longer = finished(Settings(epochs=3, input_size=64, batch_size=8))
    whole = finished(Settings(epochs=3, input_size=64, batch_size=8), "whole")
    assert [row["val_loss"] for row in longer["history"]] == [row["val_loss"] for row in whole["history"]]


def test_a_run_whose_every_epoch_depends_on_their_number_is_not_continued_to_more():
    recipe = dataclasses.replace(SETTINGS, warmup=0.2)
    fit(Run(recipe, data(), "planned"), model())
    with pytest.raises(TinyclfError, match="epochs: 2 before, 3 now"):
        Run(dataclasses.replace(recipe, epochs=3), data(), "planned")


def test_test_time_averaging_stands_beside_the_plain_evaluation(reports):
    plain = finished(name="plain")
    both = finished(Settings(epochs=2, input_size=64, batch_size=8, flip_tta=True), "both")
    assert plain["flip_tta"] is None and both["evaluation"] == plain["evaluation"] != both["flip_tta"]
    run, net = Run(SETTINGS, data(), "plain"), model()
    fit(run, net)
    images = torch.from_numpy(data().val.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = (net(images) + net(images.flip(3))) / 2
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data().val.labels)).item()
    assert both["flip_tta"]["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_run_continued_under_other_versions_lists_all_of_them(reports, monkeypatch):
    finished()
    describe = runs.environment.describe
    newer = {"versions": {"torch": "99"}}
    monkeypatch.setattr(runs.environment, "describe", lambda *args: describe(*args) | newer)
    finished(Settings(epochs=3, input_size=64, batch_size=8))
    record = finished(Settings(epochs=4, input_size=64, batch_size=8))
    assert [each["versions"]["torch"] for each in record["environments"]] == [torch.__version__, "99"]


def test_a_setting_newer_than_a_run_had_its_default_then(reports, monkeypatch):
    older = {name: value for name, value in dataclasses.asdict(SETTINGS).items() if name != "cutmix"}
    with monkeypatch.context() as patch:
        patch.setattr(parent.dataclasses, "asdict", lambda settings: older)
        before = finished()
    assert "cutmix" not in before["settings"]
    assert finished(Settings(epochs=3, input_size=64, batch_size=8))["history"][:2] == before["history"]
    with pytest.raises(TinyclfError, match=r"cutmix: 0\.0 before, 1\.0 now"):
        finished(Settings(epochs=3, input_size=64, batch_size=8, cutmix=1.0))


def test_a_run_that_the_device_cannot_train_drops_no_checkpoint(reports):
    finished()
    before = (reports / "mini/mine/checkpoint.pt").read_bytes()
    with pytest.raises(TinyclfError, match="precision = 'tf32'"):
        finished(dataclasses.replace(SETTINGS, precision="tf32"), force=True)
    assert (reports / "mini/mine/checkpoint.pt").read_bytes() == before


def test_forced_interrupted_and_fitted_again_a_run_goes_on(reports):
    expected = finished(name="whole")["history"]
    finished()
    run, net, calls = Run(SETTINGS, data(), "mine", force=True), model(), []

    def interrupt(module, inputs):
        calls.append(1)
        if len(calls) == 7:  # in the second epoch
            raise KeyboardInterrupt

    net.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(run, net)
    assert [row["val_loss"] for row in fit(run, net)] == [row["val_loss"] for row in expected]


def test_a_run_that_finished_no_epoch_stands_in_nobodys_way(reports):
    run = Run(dataclasses.replace(SETTINGS, learning_rate=100.0), data(), "mine")
    net = model()
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * float("nan"),))
    with pytest.raises(TinyclfError, match="became nan"):
        fit(run, net)
    record = finished()
    assert record["settings"]["learning_rate"] == 0.001 and len(record["environments"]) == 1


def test_a_run_of_other_settings_is_refused_by_naming_the_difference():
    before = finished()
    with pytest.raises(TinyclfError, match=r"learning_rate: 0\.001 before, 0\.01 now; seed: 0 before, 1 now"):
        finished(dataclasses.replace(SETTINGS, learning_rate=0.01, seed=1))
    with pytest.raises(TinyclfError, match="epochs: 2 before, 1 now"):
        finished(dataclasses.replace(SETTINGS, epochs=1))
    assert read_records("mini")["mine"] == before


def test_what_another_process_did_meanwhile_is_neither_mixed_nor_dropped(reports):
    other = dataclasses.replace(SETTINGS, learning_rate=0.01)
    late, same = Run(other, data(), "mine"), Run(SETTINGS, data(), "mine")
    before = finished()  # both were made when there was nothing yet
    with pytest.raises(TinyclfError, match=r"learning_rate: 0\.001 before, 0\.01 now"):
        fit(late, model())
    assert fit(same, model()) == before["history"]
    assert read_records("mini")["mine"] == before


def forced(settings=SETTINGS):
    run = Run(settings, data(), "mine", force=True)
    fit(run, model())
    return run


def test_a_run_is_not_recorded_beside_the_checkpoint_of_another(reports):
    first = forced()
    second = forced(dataclasses.replace(SETTINGS, learning_rate=0.01))  # of one process, as a cell that ran again
    with pytest.raises(TinyclfError, match=r"'mine' is not recorded: .*checkpoint\.pt is that of another"):
        first.finish()
    assert not (reports / "mini/mine/record.json").exists()
    assert second.finish()["settings"]["learning_rate"] == 0.01
    with pytest.raises(TinyclfError, match="is not recorded"):
        first.finish()
    assert read_records("mini")["mine"]["settings"]["learning_rate"] == 0.01


def test_the_folder_is_locked_from_the_fit_to_the_record(reports):
    lock = reports / "mini/mine/.lock"
    run = forced()
    assert lock.exists()
    run.finish()
    assert not lock.exists()
    assert run.finish() == read_records("mini")["mine"]  # again


def test_a_copied_or_renamed_run_counts_once_and_keeps_the_time_at_which_it_ended(reports, monkeypatch):
    before = finished()
    for name in ("mine-seed-1", "mine.bak"):
        shutil.copytree(reports / "mini/mine", reports / "mini" / name)
    assert [*read_records("mini")] == ["mine"] and [*copies("mini")] == ["mine-seed-1", "mine.bak"]
    assert not is_finished("mine.bak", "mini")
    elsewhere = reports.with_name("elsewhere")
    shutil.copytree(reports, elsewhere)  # which changes when the files were written
    checkpoint = elsewhere / "mini/mine/checkpoint.pt"
    os.utime(checkpoint, (2e9, 2e9))
    monkeypatch.setenv("TINYCLF_REPORTS", str(elsewhere))
    assert finished()["finished"] == before["finished"]


def test_a_record_that_a_power_cut_left_empty_is_written_again_and_a_newer_one_is_not(reports, monkeypatch):
    before, path = finished(), reports / "mini/mine/record.json"
    for content in ("", path.read_text()[:500]):
        path.write_text(content)
        assert not is_finished("mine", "mini") and not Run(SETTINGS, data(), "mine").is_recorded()
        assert finished() == before == read_records("mini")["mine"]
    newer = json.dumps(before | {"version": 3})
    path.write_text(newer)
    with pytest.raises(TinyclfError, match="version 3, and this tinyclf reads 2: use the tinyclf that wrote"):
        is_finished("mine", "mini")
    assert path.read_text() == newer


def test_a_run_on_other_data_is_refused(reports):
    finished()
    with pytest.raises(TinyclfError, match="data: sha256 fingerprint before, sha256 other now"):
        Run(SETTINGS, dataclasses.replace(data(), fingerprint="other"), "mine")


def test_a_name_that_is_no_folder_is_refused():
    for name in ("../out", "a/b", ".hidden", "x" * 300):
        with pytest.raises(TinyclfError, match="run = "):
            Run(SETTINGS, data(), name)
    assert Run(SETTINGS, data()).name == "input_size-64-epochs-2-batch_size-8"
    assert runs.default_name(Settings()) == "published-recipe"
    assert runs.default_name(Settings(epochs=3, weights="../x/my other.pth")) == "weights-my_other-epochs-3"


def test_a_reports_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "file"))
    with pytest.raises(TinyclfError, match=r"cannot write to .*TINYCLF_REPORTS"):
        Run(SETTINGS, data(), "mine")


def test_a_record_that_cannot_be_written_whole_leaves_the_old_one(reports, monkeypatch):
    before = finished()
    run = Run(SETTINGS, data(), "mine")

    def full(*args):
        raise OSError(28, "No space left on device")

    fit(run, model())
    monkeypatch.setattr("tinyclf.utils.files.os.replace", full)
    with pytest.raises(TinyclfError, match="No space left on device"):
        run.finish()
    assert read_records("mini")["mine"] == before
    assert not list((reports / "mini").rglob("*.partial"))


def test_a_recorded_run_is_not_run_again_and_one_that_was_started_over_is(reports, monkeypatch):
    finished()
    assert Run(SETTINGS, data(), "mine").is_recorded()
    assert not Run(SETTINGS, data(), "mine", force=True).is_recorded()
    assert not Run(dataclasses.replace(SETTINGS, epochs=3), data(), "mine").is_recorded()
    assert is_finished("mine", "mini")
    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_record", lambda *_, **__: None)  # killed before the record
        finished(force=True)
    assert not Run(SETTINGS, data(), "mine").is_recorded()
    assert not is_finished("mine", "mini")


def test_only_torchvisions_own_weights_are_called_imagenet(monkeypatch):
    monkeypatch.setattr(parent, "weights_file", lambda *_: None)
    for weights, label in {
        "none": "scratch",
        "imagenet": "ImageNet",
        "mini": "ImageNet (stand-in: other synthetic classes)",
        "some/where/x.safetensors": "ImageNet (stand-in: x.safetensors)",
    }.items():
        assert parent.describe_initial_weights(Settings(weights=weights), None)["label"] == label
