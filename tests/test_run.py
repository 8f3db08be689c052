"""A run's folder: its record, going on where it was, and never mixing two runs, nor telling what is not so."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from random_data import data
from torch import nn, optim
from torchvision import models
from torchvision.transforms import v2

from tinyclf.data.cache import load_data
from tinyclf.experiments import run as runs
from tinyclf.experiments.parent import is_finished
from tinyclf.experiments.recipe import build_recipe, recipe_for
from tinyclf.experiments.record import read_records, read_table, warn
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.report.accuracy import accuracy_table
from tinyclf.utils import environment
from tinyclf.utils.errors import NewerVersionError, TinyclfError

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


def finished(settings=SETTINGS, name="mine", force=False, net=None):
    run = Run(settings, data(), name, force=force)
    fit(run, net or model())
    return run.finish()


def relabelled():
    """The data with another label of the first image."""
    packed = data()
    labels = packed.train.labels.copy()
    labels[0] = (labels[0] + 1) % 4
    return dataclasses.replace(packed, train=dataclasses.replace(packed.train, labels=labels))


def test_the_record_and_its_tables_hold_what_the_run_was_to_the_last_bit_every_time(reports):
    record, folder = finished(), reports / "mini" / "mine"
    assert json.loads((folder / "record.json").read_text()) == record == read_records("mini")["mine"]
    assert record["settings"]["epochs"] == len(record["history"]) == 2
    assert record["data"] == {"name": "mini", "classes": 4, "train": 20, "val": 12, "sha256": data().identity}
    assert record["weights"] == {"label": "scratch", "file": None, "sha256": None}
    assert record["result"]["last"] == record["history"][-1]
    assert record["result"]["best"]["val_accuracy"] == max(row["val_accuracy"] for row in record["history"])
    assert record["environments"][0]["versions"]["torch"] == torch.__version__
    assert record["evaluation"]["top1"] == record["history"][-1]["val_accuracy"]
    history, classes, confusion = (read_table(record, f"{name}.csv") for name in ("history", "classes", "confusion"))
    assert history["val_loss"].tolist() == pytest.approx([row["val_loss"] for row in record["history"]], rel=1e-15)
    assert classes["wnid"].tolist() == [*"abcd"] and classes["words"].tolist() == [f"word {i}" for i in range(4)]
    assert classes["images"].sum() == 12 and (right := classes["correct"].sum()) == 12 * record["evaluation"]["top1"]
    predictions, mistakes = (read_table(record, name) for name in ("predictions.csv.gz", "mistakes.csv"))
    pairs = predictions.groupby(["wnid", "predicted"]).size().to_dict()
    assert classes["images"].tolist() == [(predictions["wnid"] == wnid).sum() for wnid in "abcd"]
    assert classes["correct"].tolist() == [pairs.get((wnid, wnid), 0) for wnid in "abcd"] and len(pairs) > 4
    assert {(*row[:2],): row[2] for row in confusion.to_numpy().tolist()} == {
        pair: count for pair, count in pairs.items() if pair[0] != pair[1]
    }
    both = predictions.loc[mistakes["image"], ["wnid", "predicted"]]
    assert mistakes[["wnid", "predicted"]].to_numpy().tolist() == both.to_numpy().tolist() and len(both) == 12 - right
    times = [row["seconds"] for row in record["history"]]
    assert record["seconds"] == times[0] + times[1]
    rates = [row["images_per_second"] for row in record["history"]]
    assert record["images_per_second"] == pytest.approx(40 / (20 / rates[0] + 20 / rates[1]))
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
    describe = environment.describe
    monkeypatch.setattr(environment, "describe", lambda *args: describe(*args) | {"versions": {"torch": "99"}})
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
    with pytest.raises(
        TinyclfError, match=f"data: sha256 {data().identity} before, sha256 {relabelled().identity} now"
    ):
        Run(SETTINGS, relabelled(), "mine")
    assert Run(dataclasses.replace(SETTINGS, eval_size=96, flip_tta=True), data(), "mine").about["history"]
    with pytest.raises(TinyclfError, match="precision = 'tf32'"):  # which the CPU cannot
        finished(dataclasses.replace(SETTINGS, precision="tf32"), force=True)
    assert (reports / "mini/mine/checkpoint.pt").read_bytes() == before


def test_forced_interrupted_and_fitted_again_a_run_goes_on(reports):
    expected = finished(name="whole")["history"]
    finished()
    run, net, calls = Run(SETTINGS, data(), "mine", force=True), model(), []

    def interrupt(module, inputs):
        calls.append(1)
        if len(calls) == 8:  # in the second epoch
            raise KeyboardInterrupt

    net.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(run, net)
    assert [row["val_loss"] for row in fit(run, net)] == [row["val_loss"] for row in expected]


def test_a_run_that_finished_no_epoch_stands_in_nobodys_way(reports):
    net = model()
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * float("nan"),))
    with pytest.raises(TinyclfError, match="became nan"):
        finished(dataclasses.replace(SETTINGS, learning_rate=100.0), net=net)
    record = finished()
    assert record["settings"]["learning_rate"] == 0.001 and len(record["environments"]) == 1


def test_a_record_that_a_power_cut_left_empty_is_written_again_and_a_newer_one_is_not(reports):
    before, path = finished(), reports / "mini/mine/record.json"
    path.write_text("")
    assert not is_finished("mine", "mini") and finished() == before == read_records("mini")["mine"]
    newer = json.dumps(before | {"version": 3})
    path.write_text(newer)
    for start in (lambda: is_finished("mine", "mini"), finished):
        with pytest.raises(NewerVersionError, match="version 3, and this tinyclf reads 2: use the tinyclf that wrote"):
            start()
    assert path.read_text() == newer


def test_what_another_process_did_meanwhile_is_neither_mixed_nor_dropped_nor_recorded_as_this_run(reports):
    other = dataclasses.replace(SETTINGS, learning_rate=0.01)
    late, same = Run(other, data(), "mine"), Run(SETTINGS, data(), "mine")
    before = finished()  # both were made when there was nothing yet
    with pytest.raises(TinyclfError, match=r"learning_rate: 0\.001 before, 0\.01 now"):
        fit(late, model())
    assert fit(same, model()) == before["history"]
    assert read_records("mini")["mine"] == before
    fit(Run(other, data(), "mine", force=True), model())  # of one process, as a cell that ran again
    with pytest.raises(TinyclfError, match=r"'mine' is not recorded: .*checkpoint\.pt is that of another"):
        same.finish()


def test_a_setting_newer_than_a_run_had_its_default_then_and_one_that_nobody_knows_is_refused():
    whole = dataclasses.replace(SETTINGS, ghost_batches=1)  # as before there was that setting
    older, newer = Run(whole, data(), "older"), Run(SETTINGS, data(), "newer")
    del older.about["settings"]["cutmix"], older.about["settings"]["ghost_batches"]
    newer.about["settings"]["magic"] = 3
    for run in (older, newer):
        fit(run, model())
    with pytest.raises(TinyclfError, match=r"cutmix: 0\.0 before, 1\.0 now"):
        Run(dataclasses.replace(whole, cutmix=1.0), data(), "older")
    with pytest.raises(TinyclfError, match="ghost_batches: 1 before, 2 now"):
        Run(SETTINGS, data(), "older")
    assert len(fit(Run(dataclasses.replace(whole, epochs=3), data(), "older"), model())) == 3
    with pytest.raises(TinyclfError, match="magic: 3 before, None now"):
        Run(SETTINGS, data(), "newer")


def test_a_copied_or_renamed_run_counts_once_and_keeps_the_time_at_which_it_ended(reports, monkeypatch, capsys):
    before = finished()
    shutil.copytree(reports / "mini/mine", reports / "mini/mine-seed-1")
    warn.cache_clear()  # it says each thing once
    assert [*read_records("mini")] == ["mine"] and not is_finished("mine-seed-1", "mini")
    assert "left out: mine-seed-1 is a copy of run mine" in capsys.readouterr().err
    shutil.copytree(reports / "mini/mine", reports / "tiny-imagenet/mine")
    assert read_records("tiny-imagenet") == {}
    elsewhere = reports.with_name("elsewhere")
    shutil.copytree(reports, elsewhere)  # which changes when the files were written
    os.utime(elsewhere / "mini/mine/checkpoint.pt", (2e9, 2e9))
    monkeypatch.setenv("TINYCLF_REPORTS", str(elsewhere))
    assert finished()["finished"] == before["finished"]


def test_nothing_recorded_nor_of_somebody_else_is_replaced_but_by_force(reports):
    before, path = finished(), reports / "mini/mine/record.json"
    (path.parent / "checkpoint.pt").unlink()
    for settings in (SETTINGS, dataclasses.replace(SETTINGS, epochs=1)):
        with pytest.raises(TinyclfError, match=r"record\.json is there, and no checkpoint .*--force"):
            finished(settings)
    assert json.loads(path.read_text()) == before
    assert finished(dataclasses.replace(SETTINGS, epochs=1), force=True)["settings"]["epochs"] == 1
    for name in ("index.html", "model.safetensors", "history.csv", "test_predictions.txt"):
        folder = reports / "mini" / name.partition(".")[0]
        folder.mkdir(parents=True)
        (folder / name).write_text("my own")
        with pytest.raises(TinyclfError, match=rf"is no run's folder, and has {name}, .*--force"):
            finished(name=folder.name)
        assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_refused_before_anything_trains_and_left_out_of_tables(reports, make, capsys):
    for name in ("checkpoint.pt", "record.json"):
        path = reports / "mini" / f"a-{name[:6]}" / name
        path.parent.mkdir(parents=True)
        make(path)
        for force in (False, True):
            with pytest.raises(TinyclfError, match=rf"{name} is a folder, a pipe or a link to nothing"):
                Run(SETTINGS, data(), path.parent.name, force=force)
    assert read_records("mini") == {} and f"left out: {path} is a folder" in capsys.readouterr().err


def test_a_name_stands_for_its_seed_and_settings_for_the_data():
    for name, seed in (("baseline-scratch-seed-1", 0), ("baseline-scratch", 1), ("mine-seed-2", 1)):
        with pytest.raises(TinyclfError, match=rf"run '{name}' is one of seed \d, and the settings have seed = {seed}"):
            Run(dataclasses.replace(SETTINGS, seed=seed), data(), name)
    with pytest.raises(TinyclfError, match=r"hold_out = True: the data were loaded with hold_out = False"):
        Run(dataclasses.replace(SETTINGS, hold_out=True), data(), "mine")
    with pytest.raises(TinyclfError, match="of 20 images, a batch or a part of one is a single image"):
        Run(dataclasses.replace(SETTINGS, batch_size=19, input_size=32), data(), "mine")
    assert Run(SETTINGS, data()).name == "input_size-64-epochs-2-batch_size-8"


class ResNet(models.ResNet):
    """Of the same name, with another forward."""

    def forward(self, images):
        return super().forward(images.flip(3))


def other_class(own, other):
    own.model.__class__ = ResNet


def other_weights(own, other):
    own.model.load_state_dict(build_recipe(dataclasses.replace(SETTINGS, seed=1), load_data("mini")).model.state_dict())


SWAPS = {
    "has 62 of others": lambda own, other: setattr(own, "optimizer", other.optimizer),
    "lacks 60 tensors of the model that train": lambda own, _: setattr(
        own, "optimizer", optim.SGD(own.model.fc.parameters(), lr=0.001, momentum=0.9)
    ),
    "lacks 0 tensors of the model that train, and has 1 of others": lambda own, _: own.optimizer.add_param_group(
        {"params": [nn.Parameter(torch.zeros(1))]}
    ),
    "optimizer: SGD.* by its settings, AdamW": lambda own, _: setattr(
        own, "optimizer", optim.AdamW(own.model.parameters())
    ),
    "model: conv1: .*weight .* constant .* here": lambda own, _: own.model.conv1.requires_grad_(False),
    "model: fc: .*hooked by print here": lambda own, _: own.model.fc.register_forward_hook(print),
    "model: maxpool: MaxPool2d.* by its settings, maxpool: Identity": lambda own, _: setattr(
        own.model, "maxpool", nn.Identity()
    ),
    r"model: ResNet\(.* by its settings, test_run\.ResNet \w+\(.* here": other_class,
    "other weights than its settings make, of another seed or trained": other_weights,
}


def test_nothing_but_its_own_recipe_weights_and_data_is_recorded_as_an_experiment():
    mini = load_data("mini")
    for said, change in SWAPS.items():
        own, other = (build_recipe(SETTINGS, mini) for _ in range(2))
        change(own, other)
        with pytest.raises(TinyclfError, match=said):
            Run(SETTINGS, mini, "baseline-scratch").fit(**vars(own))
    fewer = dataclasses.replace(mini, val=dataclasses.replace(mini.val, labels=mini.val.labels[::-1].copy()))
    with pytest.raises(TinyclfError, match=r"not \(data: sha256 .* by its settings, sha256 .* here\)"):
        Run(SETTINGS, fewer, "baseline-scratch").fit(**vars(build_recipe(SETTINGS, mini)))
    held = load_data("mini", hold_out=True)
    assert (mini.sha256, held.sha256, fewer.sha256) == (mini.fingerprint, held.fingerprint, fewer.identity)


def test_weights_of_ones_own_are_on_record_under_a_name_of_its_own():
    mini, small = load_data("mini"), dataclasses.replace(SETTINGS, epochs=1, input_size=16, batch_size=100)
    trained, other, plain = (build_recipe(small, mini) for _ in range(3))
    trained.model.bn1.running_mean += 1  # as of pretrained ones
    with torch.no_grad():
        other.model.conv1.weight += 1
    for name, recipe, said in (
        ("trained", trained, "own weights"),
        ("drawn", other, "own weights, from scratch"),
        ("plain", plain, "scratch"),
    ):
        Run(small, mini, name).fit(**vars(recipe))
        run = Run(small, mini, name)  # found finished, by another process
        run.fit(**vars(build_recipe(small, mini)))
        record = run.finish()
        assert record["weights"]["label"] == said and record["own_code"] == (name != "plain") == (not record["command"])
    rows = {row["experiment"]: row["table"] for row in accuracy_table("mini").rows}
    assert rows == rows | {"trained": "From ImageNet weights", "drawn": "From scratch", "plain": "From scratch"}


def test_classes_may_be_called_by_numbers():
    named = [str(number) for number in range(4)]
    run = Run(SETTINGS, dataclasses.replace(data(), classes=named, class_names=named), "numbers")
    fit(run, model())
    record = run.finish()
    assert read_table(record, "classes.csv")["words"].tolist() == named
    assert set(read_table(record, "predictions.csv.gz")["predicted"]) <= set(named)


class Looking(nn.Module):
    """Looks at numbers, where counting has shapes alone, and has no convolution."""

    def __init__(self, looks):
        super().__init__()
        self.looks, self.bias = looks, nn.Parameter(torch.zeros(4))

    def forward(self, images):
        images = images * images.mean().item() if self.looks else images
        return images.mean((1, 2, 3))[:, None] + self.bias


def test_own_code_says_so_prints_what_it_made_and_is_kept_and_what_cannot_be_counted_is_unknown(
    reports, capsys, monkeypatch
):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    run = Run(SETTINGS, data(), "mine")
    run.fit(**vars(recipe_for(Looking(True), SETTINGS, 20)) | {"transform": v2.RandomInvert()})
    record, said = run.finish(), capsys.readouterr().out
    assert "Looking()" in said and "RandomInvert(" in said
    assert (reports / "mini/mine/script.py").read_text() == Path(__file__).read_text()
    assert record["own_code"] and record["command"] == "" and "script" not in record
    assert record["recipe"]["transform"] == "RandomInvert(p=0.5)"
    assert record["identity"]["model"].startswith("Looking, 4 parameters")
    assert record["compute"]["total"] is None and finished(name="none", net=Looking(False))["compute"]["own"] == 0


def test_others_on_a_gpu_are_counted_where_they_can_be_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.others_on_gpu("1") is None
    for pids, others in ((f"{os.getpid()}\n8\n9", 2), ("8", None)):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{pids}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        assert environment.others_on_gpu("1") == others
