"""A run's folder: its record, going on where it was, and never mixing two runs."""

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


def test_the_record_and_its_tables_hold_what_the_run_was_to_the_last_bit_every_time(reports):
    record, folder = finished(), reports / "mini" / "mine"
    assert json.loads((folder / "record.json").read_text()) == record == read_records("mini")["mine"]
    assert record["settings"]["epochs"] == len(record["history"]) == 2
    assert record["data"] == {"name": "mini", "classes": 4, "train": 20, "val": 12, "sha256": "fingerprint"}
    assert record["weights"] == {"label": "scratch", "file": None, "sha256": None}
    assert record["result"]["last"] == record["history"][-1]
    assert record["result"]["best"]["val_accuracy"] == max(row["val_accuracy"] for row in record["history"])
    assert record["environments"][0]["versions"]["torch"] == torch.__version__
    assert record["evaluation"]["top1"] == record["history"][-1]["val_accuracy"]
    history, classes, confusion = (read_table(record, f"{name}.csv") for name in ("history", "classes", "confusion"))
    assert history["val_loss"].tolist() == pytest.approx([row["val_loss"] for row in record["history"]], rel=1e-15)
    assert classes["wnid"].tolist() == [*"abcd"] and classes["words"].tolist() == [f"word {i}" for i in range(4)]
    assert classes["images"].sum() == 12 and (right := classes["correct"].sum()) == 12 * record["evaluation"]["top1"]
    assert right + confusion["images"].sum() == 12 and (confusion["wnid"] != confusion["predicted"]).all()
    finished(name="other")
    tables = {path.name: path.read_bytes() for path in folder.glob("*.csv*")}
    assert len(tables) == 6 and tables == {name: (reports / "mini/other" / name).read_bytes() for name in tables}


def test_predictions_and_test_time_averaging_are_those_of_the_plain_model():
    run, net = Run(dataclasses.replace(SETTINGS, flip_tta=True), data(), "both"), model()
    fit(run, net)
    record, images = run.finish(), torch.from_numpy(data().val.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        shares, logits = net(images).softmax(1), (net(images) + net(images.flip(3))) / 2
    table = read_table(record, "predictions.csv.gz")
    assert table.columns.tolist() == ["image", "wnid", "predicted", "probability"]
    assert table["image"].tolist() == list(range(12))
    assert table["wnid"].tolist() == ["abcd"[label] for label in data().val.labels]
    assert table["predicted"].tolist() == ["abcd"[label] for label in shares.argmax(1)]
    assert table["probability"].tolist() == pytest.approx(shares.amax(1).tolist(), abs=6e-5)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data().val.labels)).item()
    assert record["flip_tta"]["loss"] == pytest.approx(expected, abs=1e-5) != record["evaluation"]["loss"]


def test_a_finished_run_is_not_repeated_unless_forced_nor_recorded_before_its_end(capsys, monkeypatch):
    first = finished()
    said = capsys.readouterr().out
    assert said.startswith("device: cpu, ") and said.count("epoch ") == 2
    assert finished()["history"] == first["history"] and "epoch  1" not in capsys.readouterr().out
    assert Run(SETTINGS, data(), "mine").is_recorded() and is_finished("mine", "mini")
    assert not Run(SETTINGS, data(), "mine", force=True).is_recorded()
    assert not Run(dataclasses.replace(SETTINGS, epochs=3), data(), "mine").is_recorded()
    monkeypatch.setattr(runs, "write_record", lambda *_, **__: None)  # killed before the record
    finished(force=True)
    assert "epoch  1" in capsys.readouterr().out
    assert not Run(SETTINGS, data(), "mine").is_recorded() and not is_finished("mine", "mini")


def test_continued_to_more_epochs_a_run_is_as_one_of_them_and_lists_all_versions(monkeypatch):
    whole = finished(dataclasses.replace(SETTINGS, epochs=4), "whole")
    finished()
    describe = runs.environment.describe
    monkeypatch.setattr(runs.environment, "describe", lambda *args: describe(*args) | {"versions": {"torch": "99"}})
    finished(dataclasses.replace(SETTINGS, epochs=3))
    record = finished(dataclasses.replace(SETTINGS, epochs=4))
    assert [row["val_loss"] for row in record["history"]] == [row["val_loss"] for row in whole["history"]]
    assert [each["versions"]["torch"] for each in record["environments"]] == [torch.__version__, "99"]


def test_another_run_is_refused_by_naming_the_difference_and_drops_nothing(reports):
    finished()
    before = (reports / "mini/mine/checkpoint.pt").read_bytes()
    for changes, said in (
        ({"learning_rate": 0.01, "seed": 1}, r"learning_rate: 0\.001 before, 0\.01 now; seed: 0 before, 1 now"),
        ({"epochs": 1}, "epochs: 2 before, 1 now"),
        ({"epochs": 3, "warmup": 0.2}, r"warmup: 0\.0 before, 0\.2 now; epochs: 2 before, 3 now"),
    ):
        with pytest.raises(TinyclfError, match=said):
            finished(dataclasses.replace(SETTINGS, **changes))
    with pytest.raises(TinyclfError, match="data: sha256 fingerprint before, sha256 other now"):
        Run(SETTINGS, dataclasses.replace(data(), fingerprint="other"), "mine")
    with pytest.raises(TinyclfError, match="precision = 'tf32'"):  # which the CPU cannot
        finished(dataclasses.replace(SETTINGS, precision="tf32"), force=True)
    assert (reports / "mini/mine/checkpoint.pt").read_bytes() == before


def test_a_setting_newer_than_a_run_had_its_default_then(reports, monkeypatch):
    older = {name: value for name, value in dataclasses.asdict(SETTINGS).items() if name != "cutmix"}
    with monkeypatch.context() as patch:
        patch.setattr(parent.dataclasses, "asdict", lambda settings: older)
        before = finished()
    assert "cutmix" not in before["settings"]
    assert finished(Settings(epochs=3, input_size=64, batch_size=8))["history"][:2] == before["history"]
    with pytest.raises(TinyclfError, match=r"cutmix: 0\.0 before, 1\.0 now"):
        finished(Settings(epochs=3, input_size=64, batch_size=8, cutmix=1.0))


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


def test_a_run_without_a_name_is_named_after_its_settings_and_a_name_is_one_of_a_folder():
    with pytest.raises(TinyclfError, match="run = "):
        Run(SETTINGS, data(), "../out")
    assert Run(SETTINGS, data()).name == "input_size-64-epochs-2-batch_size-8"
    assert runs.default_name(Settings()) == "published-recipe"
    assert runs.default_name(Settings(epochs=3, weights="../x/my other.pth")) == "weights-my_other-epochs-3"


def test_a_reports_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "file"))
    with pytest.raises(TinyclfError, match=r"cannot write to .*TINYCLF_REPORTS"):
        Run(SETTINGS, data(), "mine")


def test_only_torchvisions_own_weights_are_called_imagenet(monkeypatch):
    monkeypatch.setattr(parent, "weights_file", lambda *_: None)
    for weights, label in {
        "none": "scratch",
        "imagenet": "ImageNet",
        "mini": "ImageNet (stand-in: other synthetic classes)",
        "some/where/x.safetensors": "ImageNet (stand-in: x.safetensors)",
    }.items():
        assert parent.describe_initial_weights(Settings(weights=weights), None)["label"] == label
