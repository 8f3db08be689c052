"""Exported files give the logits of the run, to torchvision and to onnxruntime; what cannot be exported is named."""

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from tinyclf import Settings, cli, load_data
from tinyclf.experiments import export as module
from tinyclf.experiments.export import export
from tinyclf.experiments.predict import Predictor
from tinyclf.experiments.recipe import build_recipe
from tinyclf.training import checkpoint
from tinyclf.utils.errors import TinyclfError

QUICK = {"model": "squeezenet1_1"}  # where the model does not matter


@pytest.fixture(name="folder")
def folder_fixture(reports):
    return reports / "mini"


def leave_run(folder, **settings):
    """The checkpoint of a run of one epoch that nobody trained, with statistics of batch norm other than the first."""
    settings, data = Settings(**{"epochs": 1, "input_size": 64, "seed": 3} | settings), load_data("mini")
    model = build_recipe(settings, data).model.train()
    model(torch.rand(8, 3, 64, 64))
    classes = dict(zip(data.classes, data.class_names, strict=True))
    about = {"settings": vars(settings), "classes": classes, "history": [{"epoch": 1}], "overrides": {}}
    (folder / "some").mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder / "some" / "checkpoint.pt", {"model": model}, about)
    return np.array(data.val.images[:6])


def test_the_files_give_torchvision_and_onnxruntime_the_probabilities_of_the_run(folder):
    pixels = leave_run(folder, normalization="imagenet")
    expected, before = Predictor("some", "mini").predict_proba(pixels), {*(folder / "some").iterdir()}
    done = CliRunner().invoke(cli.app, ["export", "some"])
    paths = [folder / "some" / f"model.{suffix}" for suffix in ("safetensors", "onnx")]
    assert done.exit_code == 0 and done.stdout.splitlines() == [
        f"{paths[0]}: the logits of the run, by torchvision",
        f"{paths[1]}: the logits of the run, by onnxruntime {onnxruntime.__version__}",
    ]
    assert {*(folder / "some").iterdir()} == before | {*paths}
    with safe_open(paths[0], "pt") as file:
        about = file.metadata()
    session = onnxruntime.InferenceSession(paths[1])
    assert session.get_modelmeta().custom_metadata_map | {"format": "pt"} == about
    assert about["model"] == "resnet18" and json.loads(about["classes"]) == load_data("mini").classes
    mean, deviation = json.loads(about["mean"]), json.loads(about["std"])
    assert mean == [0.485, 0.456, 0.406]
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255  # as torchvision's ToTensor has it
    images = torchvision.transforms.functional.normalize(scaled, mean, deviation)
    model = torchvision.models.resnet18(num_classes=10)
    model.load_state_dict(load_file(paths[0]))  # all names and shapes, or it raises
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images).softmax(1), expected, rtol=1e-3, atol=1e-5)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits).softmax(1), expected, rtol=1e-3, atol=1e-5)


def test_other_stems_and_models_are_exported_too(folder):
    leave_run(folder, stem="sub-pixel", input_size=32)
    path, checked_by = export("some", "mini", "safetensors")
    with safe_open(path, "pt") as file:
        about = {key: json.loads(file.metadata()[key]) for key in ("mean", "std", "input_size")}
    assert "the run's own" in checked_by and about == {"mean": [0.0] * 3, "std": [1.0] * 3, "input_size": 32}
    assert "onnxruntime" in export("some", "mini", "onnx")[1]
    leave_run(folder, model="googlenet")
    assert export("some", "mini", "safetensors")[1]


@pytest.mark.parametrize("suffix", ["safetensors", "onnx"])
def test_a_file_of_other_logits_is_not_written(folder, suffix, monkeypatch):
    leave_run(folder, **QUICK)
    make = getattr(module, f"make_{suffix}")

    def make_another(predictor, *args):
        with torch.no_grad():
            predictor.model.classifier[1].bias[0] += 1
        return make(predictor, *args)

    monkeypatch.setattr(module, f"make_{suffix}", make_another)
    before = {*(folder / "some").iterdir()}
    with pytest.raises(TinyclfError, match=rf"model.{suffix} was not written: by .*, its logits differ .* by \d"):
        export("some", "mini", suffix)
    assert {*(folder / "some").iterdir()} == before


def test_what_packages_and_checkpoints_are_missing_is_named(folder, monkeypatch):
    leave_run(folder, **QUICK)
    find, missing = importlib.util.find_spec, ["onnxscript"]
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in missing else find(name))
    done = CliRunner().invoke(cli.app, ["export", "some"])
    assert done.exit_code == 1 and done.stdout.count("model.safetensors: the logits") == 1
    assert "ONNX needs more packages: pip install onnx onnxscript onnxruntime" in done.stderr
    missing[:] = ["onnxruntime"]
    done = CliRunner().invoke(cli.app, ["export", "some", "--format", "onnx"])
    assert done.stdout == f"{folder / 'some' / 'model.onnx'}: not checked: no onnxruntime\n"
    done = CliRunner().invoke(cli.app, ["export", "nobodys"])
    assert done.exit_code == 1 and "run 'nobodys' has no checkpoint" in done.stderr
