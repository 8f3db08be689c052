"""A run that starts from another one: takes its weights, names it in its record, and refuses one that does not fit."""

import json
from dataclasses import asdict, replace

import pytest
import random_data
import torch

from tinyclf import Run, Settings
from tinyclf.experiments import catalog, parent
from tinyclf.experiments.parent import is_finished, trained
from tinyclf.experiments.recipe import build_recipe
from tinyclf.models.resnet import shrink_filters
from tinyclf.training import checkpoint
from tinyclf.utils.errors import TinyclfError

PARENT = Settings(epochs=1, batch_size=8, input_size=48, eval_size=64)
CHILD = Settings(epochs=1, batch_size=8, weights="run:first")


def data(classes="abcd"):
    return replace(random_data.data(len(classes)), classes=[*classes])


def finish(settings, name, interrupt=False):
    run, recipe = Run(settings, data(), name), build_recipe(settings, data())
    run.settings = replace(settings, epochs=1) if interrupt else settings
    run.fit(**vars(recipe))
    return run.finish()


def initial_model(settings, classes="abcd"):
    return build_recipe(settings, data(classes)).model


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Reports with a finished run, `first`, and one of two epochs that finished the first."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYCLF_REPORTS", str(folder))
        finish(PARENT, "first")
        finish(replace(PARENT, epochs=2), "half", interrupt=True)
    return folder


@pytest.fixture(autouse=True)
def reports(finished, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(finished))
    return finished / "mini"


def test_everything_is_taken_over_but_what_is_adapted():
    before = trained("first", "mini").weights
    same = initial_model(replace(CHILD, input_size=48)).state_dict()
    assert all(torch.equal(same[name], value) for name, value in before.items())
    settings = replace(CHILD, stem="small", adapt="input_size, stem,classes")
    other = initial_model(settings, "vwxy").state_dict()
    torch.manual_seed(settings.seed)
    fresh = initial_model(replace(settings, weights="none"), "vwxy").state_dict()
    for name, value in other.items():
        starts_afresh = name in ("conv1.weight", "conv1.bias", "fc.weight", "fc.bias")
        assert torch.equal(value, fresh[name] if starts_afresh else before[name]), name
    shrunk = initial_model(replace(CHILD, stem="small", adapt="input_size,stem", stem_init="shrunk"))
    assert torch.equal(shrunk.conv1.weight, shrink_filters(before["conv1.weight"]))


MISFITS = [
    ({}, "abcd", r"for input_size = 48, and this run is for input_size = 24: .* -p adapt=input_size$"),
    ({"input_size": 48, "normalization": "imagenet"}, "abcd", r"normalization = none, .* normalization = imagenet"),
    ({"stem": "small", "adapt": "stem"}, "abcd", r"made for input_size = 48, and .*-p adapt=stem,input_size$"),
    ({"input_size": 48, "stem": "small"}, "abcde", r"stem = imagenet, classes = 4, .* stem = small, classes = 5:"),
    ({"input_size": 48}, "abce", r"made for classes = d, .* for classes = e: "),
    ({"input_size": 48, "hold_out": True}, "abcd", "run 'first' has hold_out = False, and this one hold_out = True"),
]


def test_a_model_made_for_something_else_is_refused_with_what_would_make_it_right(reports):
    before = sorted(reports.iterdir())
    for changed, classes, said in MISFITS:
        settings = replace(CHILD, **changed)
        with pytest.raises(TinyclfError, match=said):
            initial_model(settings, classes)
        with pytest.raises(TinyclfError, match=said):
            Run(settings, replace(data(classes), hold_out=settings.hold_out), "child")
    assert sorted(reports.iterdir()) == before


def test_a_parent_that_is_not_there_or_unfinished_or_the_run_itself_is_refused(reports):
    for name, said in {
        "none-such-seed-4": "has no checkpoint .*`tinyclf run NAME --dataset mini --seeds 4`",
        "half": "run 'half' is unfinished, at epoch 1 of 2: let the command that started it go on, for an experiment `",
    }.items():
        with pytest.raises(TinyclfError, match=said):
            Run(replace(CHILD, weights=f"run:{name}", input_size=48), data(), "child")
        assert not is_finished(name, "mini")
    assert not (reports / "child").exists() and not (reports / "none-such-seed-4").exists()
    with pytest.raises(TinyclfError, match="run 'first' cannot start from itself"):
        Run(CHILD, data(), "first", force=True)
    assert is_finished("first", "mini")


def test_the_record_names_the_parent_which_is_read_once_and_from_which_alone_the_run_goes_on(reports, monkeypatch):
    read, reads = checkpoint.read, []
    monkeypatch.setattr(checkpoint, "read", lambda path: reads.append(path.parent.name) or read(path))
    second, child = replace(PARENT, seed=1), replace(CHILD, adapt="input_size", weights="run:second")
    finish(second, "second")
    before = reads.count("second")
    record = finish(child, "child")
    assert reads.count("second") == before + 1
    expected = {"run": "second", "epochs": 1, "settings": asdict(second), "parent": None}
    assert record["weights"]["parent"] == expected and record["weights"]["label"] == "second, from scratch"
    assert json.loads((reports / "child/record.json").read_text()) == record
    with pytest.raises(TinyclfError, match=r"child holds another run \(weights: second after epoch 1, .* first after"):
        Run(replace(child, weights="run:first"), data(), "child")
    finish(replace(second, epochs=2), "second")
    with pytest.raises(TinyclfError, match=r"weights: second after epoch 1, .* second after epoch 2, .*--force"):
        Run(child, data(), "child")


def test_a_model_is_evaluated_at_another_size_and_only_torchvisions_weights_are_called_imagenet(reports, monkeypatch):
    record = json.loads((reports / "first/record.json").read_text())
    assert [*record["other_sizes"]] == ["64"] and record["other_sizes"]["64"] != record["evaluation"]
    monkeypatch.setattr(parent, "weights_file", lambda *_: None)
    for weights, label in {"imagenet": "ImageNet", "some/x.safetensors": "ImageNet (stand-in: x.safetensors)"}.items():
        assert parent.describe_initial_weights(Settings(weights=weights), None)["label"] == label


def test_a_command_names_the_file_that_stood_in_for_imagenet_weights_where_the_line_of_ancestors_starts():
    saved, settings = trained("first", "mini"), catalog.read_experiments("mini")["finetuning"].settings
    before = {"run": "zero", "epochs": 1, "settings": {"weights": "x.pth"}, "parent": None}
    saved.about["weights"]["parent"] = before
    assert " --imagenet x.pth " in parent.start_of("finetuning", settings, data(), saved)["command"]
