"""A run's folder: its record, going on where it was, and never mixing two runs, nor telling what is not so."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from random_data import data
from torch import nn, optim
from torchvision.transforms import v2

from tinyclf import Run, Settings, load_data
from tinyclf.experiments import run as runs
from tinyclf.experiments.parent import is_finished
from tinyclf.experiments.recipe import build_recipe, recipe_for
from tinyclf.experiments.record import read_records, read_table, warn
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError

SETTINGS = Settings(epochs=2, input_size=64, batch_size=8)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(256, 4))


def fit(run, net):
    """Train `net` by the other settings of the run: its name must be of no experiment, as `net` is no ResNet18."""
    return run.fit(**vars(recipe_for(net, run.settings, 20)))


def finished(settings=SETTINGS, name="mine", force=False, net=None):
    run = Run(settings, data(), name, force=force)
    fit(run, net or model())
    return run.finish()


def relabelled(packed):
    """The data with other labels of validation."""
    return replace(packed, val=replace(packed.val, labels=packed.val.labels[::-1].copy()))


def test_the_record_and_its_tables_hold_what_the_run_was_to_the_last_bit_every_time(reports):
    record, folder = finished(), reports / "mini/mine"
    assert json.loads((folder / "record.json").read_text()) == record == read_records("mini")["mine"]
    assert record["data"] == {"name": "mini", "classes": 4, "train": 20, "val": 12, "sha256": data().identity}
    assert record["weights"] == {"label": "scratch", "file": None, "sha256": None}
    assert record["result"]["last"] == record["history"][-1]
    assert record["environments"][0]["versions"]["torch"] == torch.__version__
    assert record["evaluation"]["top1"] == record["history"][-1]["val_accuracy"]
    history, classes, confusion, mistakes, predictions = (
        read_table(record, name)
        for name in ("history.csv", "classes.csv", "confusion.csv", "mistakes.csv", "predictions.csv.gz")
    )
    assert history["val_loss"].tolist() == pytest.approx([row["val_loss"] for row in record["history"]], rel=1e-15)
    pairs = predictions.groupby(["wnid", "predicted"]).size().to_dict()
    assert classes["images"].tolist() == [(predictions["wnid"] == wnid).sum() for wnid in "abcd"]
    assert classes["correct"].tolist() == [pairs.pop((wnid, wnid), 0) for wnid in "abcd"]
    assert classes["correct"].sum() == 12 * record["evaluation"]["top1"]
    assert {(wnid, other): count for wnid, other, count, *_ in confusion.to_numpy().tolist()} == pairs
    wrong = predictions.loc[mistakes["image"]]
    assert len(wrong) == sum(pairs.values()) and (wrong["wnid"] != wrong["predicted"]).all()
    first, second = record["history"]
    assert record["seconds"] == first["seconds"] + second["seconds"]
    rates = first["images_per_second"], second["images_per_second"]
    assert 2 / record["images_per_second"] == pytest.approx(1 / rates[0] + 1 / rates[1])
    finished(name="other")
    tables = {path.name: path.read_bytes() for path in folder.glob("*.csv*")}
    assert len(tables) == 6 and tables == {name: (reports / "mini/other" / name).read_bytes() for name in tables}


def test_predictions_and_test_time_averaging_are_those_of_the_plain_model():
    run, net = Run(replace(SETTINGS, flip_tta=True), data(), "both"), model()
    fit(run, net)
    record, images = run.finish(), torch.from_numpy(data().val.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        shares, logits = net(images).softmax(1), (net(images) + net(images.flip(3))) / 2
    table = read_table(record, "predictions.csv.gz")
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
    assert not Run(replace(SETTINGS, epochs=3), data(), "mine").is_recorded()
    monkeypatch.setattr(runs, "write_record", lambda *_, **__: None)  # killed before the record
    finished(force=True)
    assert "epoch  1" in capsys.readouterr().out
    assert not Run(SETTINGS, data(), "mine").is_recorded() and not is_finished("mine", "mini")


def test_continued_to_more_epochs_a_run_is_as_one_of_them_and_lists_all_versions(monkeypatch):
    whole = finished(replace(SETTINGS, epochs=4), "whole")
    finished()
    describe = environment.describe
    monkeypatch.setattr(environment, "describe", lambda *args: describe(*args) | {"versions": {"torch": "99"}})
    record = finished(replace(SETTINGS, epochs=4))
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
            finished(replace(SETTINGS, **changes))
    other = relabelled(data())
    with pytest.raises(TinyclfError, match=f"sha256 {data().identity} before, sha256 {other.identity} now"):
        Run(SETTINGS, other, "mine")
    assert Run(replace(SETTINGS, eval_size=96, flip_tta=True), data(), "mine").about["history"]
    with pytest.raises(TinyclfError, match="precision = 'tf32'"):  # which the CPU cannot
        finished(replace(SETTINGS, precision="tf32"), force=True)
    assert (reports / "mini/mine/checkpoint.pt").read_bytes() == before


def test_forced_interrupted_and_fitted_again_a_run_goes_on(capsys):
    finished()
    run, interrupt = Run(SETTINGS, data(), "mine", force=True), Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run.fit(**vars(recipe_for(model(), SETTINGS, 20)), on_epoch=interrupt)
    assert "epoch  1" in capsys.readouterr().out
    fit(run, model())
    assert "epoch  1" not in capsys.readouterr().out


def test_a_run_that_finished_no_epoch_stands_in_nobodys_way(reports):
    net = model()
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * float("nan"),))
    with pytest.raises(TinyclfError, match="became nan"):
        finished(replace(SETTINGS, learning_rate=100.0), net=net)
    record = finished()
    assert record["settings"]["learning_rate"] == 0.001 and len(record["environments"]) == 1


def test_a_record_that_a_power_cut_left_empty_is_written_again(reports):
    before, path = finished(), reports / "mini/mine/record.json"
    path.write_text("")
    assert not is_finished("mine", "mini") and finished() == before == read_records("mini")["mine"]


def test_what_another_process_did_meanwhile_is_neither_mixed_nor_dropped_nor_recorded_as_this_run(reports):
    other = replace(SETTINGS, learning_rate=0.01)
    late, same = Run(other, data(), "mine"), Run(SETTINGS, data(), "mine")
    before = finished()  # both were made when there was nothing yet
    with pytest.raises(TinyclfError, match=r"learning_rate: 0\.001 before, 0\.01 now"):
        fit(late, model())
    assert fit(same, model()) == before["history"]
    assert read_records("mini")["mine"] == before
    fit(Run(other, data(), "mine", force=True), model())  # of one process, as a cell that ran again
    with pytest.raises(TinyclfError, match=r"'mine' is not recorded: .*checkpoint\.pt is that of another"):
        same.finish()


def test_a_setting_that_is_newer_than_a_run_had_its_default_then():
    settings = replace(SETTINGS, ghost_batches=1)  # as before there was that setting
    older = Run(settings, data(), "older")
    del older.about["settings"]["cutmix"], older.about["settings"]["ghost_batches"]
    fit(older, model())
    with pytest.raises(TinyclfError, match=r"cutmix: 0\.0 before, 1\.0 now"):
        Run(replace(settings, cutmix=1.0), data(), "older")
    with pytest.raises(TinyclfError, match="ghost_batches: 1 before, 2 now"):
        Run(SETTINGS, data(), "older")
    assert len(fit(Run(replace(settings, epochs=3), data(), "older"), model())) == 3


def test_a_copied_run_counts_once(reports, capsys):
    finished()
    shutil.copytree(reports / "mini/mine", reports / "mini/mine-seed-1")
    warn.cache_clear()  # it says each thing once
    assert [*read_records("mini")] == ["mine"] and not is_finished("mine-seed-1", "mini")
    assert "left out: mine-seed-1 is a copy of run mine" in capsys.readouterr().err


def test_nothing_recorded_is_replaced_but_by_force(reports):
    before, path = finished(), reports / "mini/mine/record.json"
    (path.parent / "checkpoint.pt").unlink()
    with pytest.raises(TinyclfError, match=r"record\.json is there, and no checkpoint .*--force"):
        finished()
    assert json.loads(path.read_text()) == before
    assert finished(replace(SETTINGS, epochs=1), force=True)["settings"]["epochs"] == 1


def test_a_name_stands_for_its_seed_and_settings_for_the_data():
    for name, seed in (("baseline-scratch-seed-1", 0), ("baseline-scratch", 1), ("mine-seed-2", 1)):
        with pytest.raises(TinyclfError, match=rf"run '{name}' is one of seed \d, and the settings have seed = {seed}"):
            Run(replace(SETTINGS, seed=seed), data(), name)
    with pytest.raises(TinyclfError, match=r"hold_out = True: the data were loaded with hold_out = False"):
        Run(replace(SETTINGS, hold_out=True), data(), "mine")
    assert Run(SETTINGS, data()).name == "input_size-64-epochs-2-batch_size-8"


SWAPS = {
    "lacks 60 tensors of the model that train": lambda net: optim.SGD(net.fc.parameters(), lr=0.001, momentum=0.9),
    "optimizer: SGD.* by its settings, AdamW": lambda net: optim.AdamW(net.parameters()),
    "model: conv1: .*weight .* constant .* here": lambda net: net.conv1.requires_grad_(False),
    "model: fc: .*hooked by print here": lambda net: net.fc.register_forward_hook(print),
    "model: maxpool: MaxPool2d.* by its settings": lambda net: setattr(net, "maxpool", nn.Identity()),
    "other weights than its settings make, of another seed or trained": lambda net: nn.init.zeros_(net.conv1.weight),
}


def test_nothing_but_its_own_recipe_weights_and_data_is_recorded_as_an_experiment():
    mini = load_data("mini")
    for said, change in SWAPS.items():
        own = build_recipe(SETTINGS, mini)
        made = change(own.model)
        own.optimizer = made if isinstance(made, optim.Optimizer) else own.optimizer
        with pytest.raises(TinyclfError, match=said):
            Run(SETTINGS, mini, "baseline-scratch").fit(**vars(own))
    other = relabelled(mini)
    with pytest.raises(TinyclfError, match=r"not \(data: sha256 .* by its settings, sha256 .* here\)"):
        Run(SETTINGS, other, "baseline-scratch").fit(**vars(build_recipe(SETTINGS, mini)))


def test_weights_of_ones_own_are_on_record_under_a_name_of_its_own():
    mini, small = load_data("mini"), replace(SETTINGS, epochs=1, input_size=16, batch_size=100)
    trained, drawn, plain = (build_recipe(small, mini) for _ in range(3))
    trained.model.bn1.running_mean += 1  # as of pretrained ones
    nn.init.normal_(drawn.model.conv1.weight)
    labels = {"trained": "own weights", "drawn": "own weights, from scratch", "plain": "scratch"}
    for (name, label), recipe in zip(labels.items(), (trained, drawn, plain), strict=True):
        Run(small, mini, name).fit(**vars(recipe))
        run = Run(small, mini, name)  # found finished, by another process
        run.fit(**vars(build_recipe(small, mini)))
        record = run.finish()
        assert record["weights"]["label"] == label
        assert record["own_code"] == (name != "plain") == (not record["command"])


def test_classes_may_be_called_by_numbers():
    named = [str(number) for number in range(4)]
    run = Run(SETTINGS, replace(data(), classes=named, class_names=named), "numbers")
    fit(run, model())
    assert read_table(run.finish(), "classes.csv")["words"].tolist() == named


class Looking(nn.Linear):
    """Looks at numbers, where counting has shapes alone."""

    def forward(self, images):
        return super().forward(images.flatten(1) * images.mean().item())


def test_own_code_says_so_prints_what_it_made_and_is_kept(reports, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    run = Run(SETTINGS, data(), "mine")
    run.fit(**vars(recipe_for(Looking(3 * 64 * 64, 4), SETTINGS, 20)) | {"transform": v2.RandomInvert()})
    record, said = run.finish(), capsys.readouterr().out
    assert "Looking(" in said and "RandomInvert(" in said
    assert (reports / "mini/mine/script.py").read_text() == Path(__file__).read_text()
    assert record["own_code"] and record["command"] == ""
    assert record["recipe"]["transform"] == "RandomInvert(p=0.5)"
    assert record["identity"]["model"].startswith("Looking, ")
    assert record["compute"]["total"] is None, "what cannot be counted is unknown"
