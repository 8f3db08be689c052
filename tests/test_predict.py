"""Predictions of a run: those of its model, in words and in the challenge's format; what is no image is named."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from typer.testing import CliRunner

from tinyclf import Run, Settings, cli, load_data
from tinyclf.data.locate import locate_dataset
from tinyclf.data.tiny_imagenet import TinyImageNet, read_image
from tinyclf.experiments import predict
from tinyclf.experiments.predict import Predictor, load_function
from tinyclf.experiments.recipe import build_recipe
from tinyclf.utils.errors import TinyclfError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Reports with one finished run on mini, of one epoch of small images."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYCLF_REPORTS", str(folder))
        settings = Settings(epochs=1, input_size=48, batch_size=100, model="shufflenet_v2_x0_5")
        run = Run(settings, load_data("mini"), "short")
        run.fit(**vars(build_recipe(settings, load_data("mini"))))
        run.finish()
    return folder


@pytest.fixture(autouse=True)
def reports(finished, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(finished))
    return finished


def test_the_probabilities_are_the_models_own_at_the_runs_input_size():
    predictor, data = Predictor("short", "mini"), load_data("mini")
    pixels = np.array(data.val.images[:3])
    resized = [np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)) for image in pixels]
    with torch.no_grad():
        predictor.model.fc.weight *= 1000  # so that it is sure of something after one epoch
        expected = predictor.model.eval()(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255).softmax(1)
    torch.testing.assert_close(predictor.predict_proba(pixels), expected, rtol=0.01, atol=1e-4)
    classes = predictor.most_probable(pixels[0])
    assert [value for value, _, _ in classes] == pytest.approx(expected[0].sort(descending=True)[0][:5].tolist(), 0.01)
    place = int(expected[0].argmax())
    assert classes[0][1:] == (data.classes[place], data.class_names[place])


def test_images_of_any_size_and_kind_become_64x64_and_transparency_is_white(tmp_path, capfd):
    wide = Image.new("RGB", (400, 200), "red")
    wide.paste("blue", (100, 0, 300, 200))  # the middle square
    wide.save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png")[:, 4:-4] == (0, 0, 255)).all()  # bicubic looks past the edges
    for mode in ("L", "P", "CMYK"):
        wide.convert(mode).save(tmp_path / f"{mode}.tiff")
        assert read_image(tmp_path / f"{mode}.tiff").shape == (64, 64, 3)
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    clear.save(tmp_path / "clear.JPEG", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.JPEG")[0, 0], (255, 204, 204))
    assert "clear.JPEG: transparent, shown on white" in capfd.readouterr().err


def test_a_model_of_own_code_is_handed_in_or_named(tmp_path, monkeypatch, reports):
    code = "import torchvision\nmake = lambda classes: torchvision.models.shufflenet_v2_x0_5(num_classes=classes)"
    (tmp_path / "own.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    image, make = np.zeros((64, 64, 3), np.uint8), load_function("own:make")
    expected = Predictor("short", "mini").most_probable(image)
    for model in (make, make(10), load_function("torchvision.models:shufflenet_v2_x0_5")):
        assert Predictor("short", "mini", model).most_probable(image) == expected
    done = CliRunner().invoke(cli.app, ["export", "short", "--model", "own:make", "--format", "safetensors"])
    assert done.exit_code == 0 and "the run's own model" in done.stdout
    for name in ("own", "own:other", "none:make"):
        done = CliRunner().invoke(cli.app, ["predict", "x.png", "--run", "short", "--model", name])
        assert done.exit_code == 2 and "expected MODULE:FUNCTION" in done.output


def test_what_makes_no_model_is_refused_and_a_model_of_own_code_is_asked_for(monkeypatch):
    with pytest.raises(TinyclfError, match="model: expected a model, or a function of the number of classes: "):
        Predictor("short", "mini", lambda classes: classes)
    saved = predict.trained("short", "mini")
    saved = replace(saved, about=saved.about | {"overrides": {"model": "Sequential, 5 parameters"}})
    monkeypatch.setattr(predict, "trained", lambda *_: saved)
    with pytest.raises(TinyclfError, match=r"run 'short' trained a model of its own, ShuffleNet.*: name the function"):
        Predictor("short", "mini")


def test_16_bits_of_grey_are_scaled_and_numbers_of_unknown_range_refused(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64))
    for name in ("16.png", "16.tiff"):
        Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], grey)
    for values in (grey / np.float32(255), (grey * 257).astype(np.int32)):
        Image.fromarray(values).save(tmp_path / "odd.tiff")
        with pytest.raises(TinyclfError, match=r"odd\.tiff is no image that can be read: .* 8 or 16 bits"):
            read_image(tmp_path / "odd.tiff")


def test_the_command_names_what_is_no_image_and_starts_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    (tmp_path / "script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    os.mkfifo(tmp_path / "pipe.jpg")  # to open it would wait for somebody to write
    Image.fromarray(load_data("mini").val.images[0]).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    good = str(tmp_path / "good.png")
    for bad in ("script.jpg", "pipe.jpg", "missing.jpg", "cut.png", ""):
        done = CliRunner().invoke(cli.app, ["predict", good, str(tmp_path / bad), "--run", "short"])
        assert done.exit_code == 1 and "Traceback" not in done.stderr
        assert f"{tmp_path / bad} is no image that can be read" in done.stderr
        name, *rows = done.stdout.splitlines()
        assert name == good and len(rows) == 5


def test_the_test_split_is_written_in_the_challenges_format(reports):
    predictor, path = Predictor("short", "mini"), reports / "mini/short/test_predictions.txt"
    done = CliRunner().invoke(cli.app, ["predict", "--run", "short", "--test"])
    assert done.exit_code == 0 and done.stdout == f"{path}\n"
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert [name for name, _ in lines] == [f"test_{number}.JPEG" for number in range(100)]
    root, layout = locate_dataset("mini")
    split = TinyImageNet(root, "test", layout=layout)
    for row in (0, 50, 99):
        name = split.samples[row][0].rsplit("/", 1)[1]
        assert predictor.most_probable(np.asarray(split.load(row)))[0][1] == dict(lines)[name]
