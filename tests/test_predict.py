"""Predictions of a run: those of its model, in words and in the challenge's format; what is no image is named."""

import os
import shutil
from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from typer.testing import CliRunner

from tinyclf import cli
from tinyclf.data.cache import load_data
from tinyclf.data.locate import locate_dataset
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.experiments import predict
from tinyclf.experiments.names import run_folder
from tinyclf.experiments.predict import Predictor, read_image
from tinyclf.experiments.recipe import build_recipe
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.training import checkpoint
from tinyclf.training.checkpoint import TrainingState
from tinyclf.utils.errors import TinyclfError


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports with one finished run on mini, of one epoch of few images."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYCLF_REPORTS", str(folder))
        settings, data = (
            Settings(epochs=1, input_size=64, batch_size=100, model="shufflenet_v2_x0_5"),
            load_data("mini"),
        )
        run = Run(settings, data, "short")
        run.fit(**vars(build_recipe(settings, data)))
        run.finish()
    return folder


@pytest.fixture(autouse=True)
def use(reports, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(reports))


def test_the_probabilities_are_the_models_own_for_files_as_for_arrays():
    predictor, data = Predictor("short", "mini"), load_data("mini")
    with torch.no_grad():
        images = torch.from_numpy(np.array(data.val.images[:3])).permute(0, 3, 1, 2) / 255
        expected = predictor.model.eval()(images).softmax(1)
    torch.testing.assert_close(predictor.predict_proba(data.val.images[:3]), expected, rtol=1e-3, atol=1e-5)
    classes = predictor.most_probable(np.array(data.val.images[0]))
    assert [value for value, _, _ in classes] == pytest.approx(expected[0].sort(descending=True)[0][:5].tolist(), 1e-3)
    place = int(expected[0].argmax())
    assert classes[0][1:] == (data.classes[place], data.class_names[place])


def test_images_of_any_size_and_kind_become_64x64(tmp_path):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    small.save(tmp_path / "same.png")
    np.testing.assert_array_equal(read_image(tmp_path / "same.png"), np.asarray(small))
    wide = Image.new("RGB", (400, 200), "red")
    wide.paste("blue", (100, 0, 300, 200))  # the middle square
    wide.save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png")[:, 4:-4] == (0, 0, 255)).all()  # bicubic looks past the edges
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        small.convert(mode).save(path)
        assert read_image(path).shape == (64, 64, 3)


def test_16_bits_of_grey_are_scaled_not_cut_off(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[..., 0], grey)


def test_numbers_of_unknown_range_are_refused_not_made_black_or_wrapped(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64))
    pixels = {"float": grey / np.float32(255), "32": (grey * 257).astype(np.int32), "wide": grey.astype(np.int32) << 20}
    for name, values in pixels.items():
        Image.fromarray(values).save(tmp_path / f"{name}.tiff")
        with pytest.raises(TinyclfError, match=rf"{name}\.tiff is no image that can be read: .* 8 or 16 bits"):
            read_image(tmp_path / f"{name}.tiff")
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "16.tiff")
    np.testing.assert_array_equal(read_image(tmp_path / "16.tiff")[..., 0], grey)
    (tmp_path / "16.pgm").write_bytes(b"P5 64 64 65535\n" + (grey * 257).astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "16.pgm")[..., 0], grey)


def test_only_image_formats_are_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    (tmp_path / "script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    os.mkfifo(tmp_path / "pipe.jpg")  # to open it would wait for somebody to write
    for name in ("script.jpg", "pipe.jpg"):
        with pytest.raises(TinyclfError, match=f"{name} is no image that can be read"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("run", ["../../outside", "..", "/tmp", "a/b", "javascript:x", "index.html", ""])
def test_what_is_no_name_of_a_run_is_never_read_as_a_path(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "in" / "reports"))
    with pytest.raises(TinyclfError, match="run = "):
        Predictor(run, "mini")
    with pytest.raises(TinyclfError, match="run = "):
        run_folder(run, "mini")
    assert not (tmp_path / "in").exists()


def test_a_model_that_is_broken_is_named_not_used(reports, tmp_path, monkeypatch):
    shutil.copytree(reports, tmp_path / "reports")
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "reports"))
    path = tmp_path / "reports/mini/short/checkpoint.pt"
    saved = checkpoint.read(path)
    saved.weights["fc.bias"][3] = float("nan")
    broken = SimpleNamespace(state_dict=lambda: saved.weights)
    checkpoint.save(path, TrainingState(broken, None), saved.about)
    with pytest.raises(TinyclfError, match=r"checkpoint\.pt.*fc\.bias has values that are NaN"):
        Predictor("short", "mini")


def test_the_command_names_what_is_no_image_and_goes_on(tmp_path):
    path, layout = locate_dataset("mini")
    TinyImageNet(path, "test", layout=layout).load(0).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    names = ["bad.jpg", "missing.jpg", "cut.png", "good.png"]
    paths = [str(tmp_path / name) for name in (*names, "")]
    done = CliRunner().invoke(cli.app, ["predict", *paths, "--run", "short"])
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    for name in names[:3]:
        assert f"{tmp_path / name} is no image that can be read" in done.stderr
    assert "4 of the files could not be used" in done.stderr
    name, *rows = done.stdout.splitlines()
    assert name == str(tmp_path / "good.png") and len(rows) == 5
    assert sum(float(row.split("%")[0]) for row in rows) <= 100.1


def test_the_test_split_is_written_in_the_challenges_format(monkeypatch, reports):
    load, refused = TinyImageNet.load, []

    def damaged(self, index):
        if index == 3:
            raise TinyclfError(f"{PurePosixPath(self.samples[index][0]).name} is damaged")
        return load(self, index)

    monkeypatch.setattr(predict.TinyImageNet, "load", damaged)
    predictor = Predictor("short", "mini")
    path = predictor.predict_test_split(refused.append)
    assert refused == ["test_11.JPEG is damaged"] and path.parent == reports / "mini" / "short"
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert [name for name, _ in lines] == [f"test_{number}.JPEG" for number in range(100) if number != 11]
    split = TinyImageNet(locate_dataset("mini")[0], "test", layout=locate_dataset("mini")[1])
    for row in (0, 1, 2, 50, 99):
        name = split.samples[row][0].rsplit("/", 1)[1]
        assert predictor.most_probable(np.asarray(load(split, row)))[0][1] == dict(lines)[name]


def test_a_run_without_a_checkpoint_is_refused_with_the_command_that_makes_one():
    with pytest.raises(TinyclfError, match=r"train it .*`tinyclf run baseline-scratch --dataset mini`"):
        Predictor("baseline-scratch", "mini")
