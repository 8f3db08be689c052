"""Starting weights: read from any file without trusting it, downloaded, trained, and copied into models they fit."""

import argparse
import pickle
import re

import pytest
import torch
import torchvision
from random_data import data
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import conv2d, interpolate

from tinyclf.experiments.parent import load_initial_weights
from tinyclf.experiments.settings import Settings
from tinyclf.models import weights
from tinyclf.models.resnet import build_model, compose_filters, head_names, shrink_filters
from tinyclf.models.weights import load_state, load_weights, stand_in_file, weights_file
from tinyclf.utils.errors import TinyclfError


@pytest.fixture(scope="module")
def imagenet_like():
    """A state dict as torchvision's own: 1000 classes, every tensor different from a random one."""
    torch.manual_seed(7)
    return torchvision.models.resnet18().state_dict()


def saved(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def loaded(classes, weights, stem="imagenet", stem_init="random", name="resnet18"):
    model = build_model(name, classes, stem=stem)
    load_weights(model, weights, model_name=name, stem_init=stem_init)
    return model


def refused(said, *args, **options):
    """One message, one line of it, without torch's advice to execute the file."""
    with pytest.raises(TinyclfError, match=said) as error:
        loaded(*args, **options)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_are_taken_over_all_but_the_head(imagenet_like, tmp_path, suffix):
    state = {name: value for name, value in imagenet_like.items() if not name.endswith("num_batches_tracked")}
    path = saved(state, tmp_path / f"weights{suffix}")  # as torchvision's own file, without the counters
    taken, same_head = loaded(200, path), loaded(1000, path)
    assert all(torch.equal(taken.state_dict()[name], state[name]) for name in state if not name.startswith("fc."))
    assert taken.fc.weight.shape == (200, 512) and torch.equal(same_head.fc.weight, state["fc.weight"])
    assert torch.equal(loaded(200, path, "small").bn1.weight, state["bn1.weight"])


def test_other_models_take_all_but_the_head_as_well(tmp_path):
    for name in ("mnasnet0_5", "squeezenet1_1"):
        torch.manual_seed(7)
        state = torchvision.models.get_model(name).state_dict()
        model = loaded(20, saved(dict(state), tmp_path / f"{name}.safetensors"), name=name)
        fresh = {tensor for tensor, value in model.state_dict().items() if not torch.equal(value, state[tensor])}
        assert fresh == set(head_names(model))


def test_a_shrunk_stem_does_to_an_image_what_the_large_one_does_to_it_enlarged(imagenet_like, tmp_path):
    filters, image = imagenet_like["conv1.weight"].double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    enlarged = interpolate(image, scale_factor=5, mode="bilinear")  # odd: old centres are new ones
    expected = conv2d(enlarged, filters, padding=3)[:, :, 2::5, 2::5]
    found = conv2d(image, shrink_filters(filters, 5.0), padding=1)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])
    half = {name: value.half() for name, value in imagenet_like.items()}
    model = loaded(200, saved(half, tmp_path / "weights.pth"), "small", "shrunk")
    assert torch.equal(model.conv1.weight, shrink_filters(half["conv1.weight"].float(), 224 / 64))
    assert not model.conv1.bias.any()
    again = saved(model.state_dict(), tmp_path / "small.safetensors")
    refused("have no stem of 7x7", 200, again, "small", "shrunk")
    refused(r"they have a small stem \(stem=small\)", 200, again)


def test_a_composed_stem_does_to_an_image_what_the_large_one_does_to_it_enlarged(imagenet_like, tmp_path):
    filters, image = imagenet_like["conv1.weight"].double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    large = interpolate(image, scale_factor=4, mode="bicubic", antialias=True)  # antialias: with PIL's kernel
    sub_pixels = build_model("resnet18", 10, stem="sub-pixel").conv1.double()
    sub_pixels.weight.data = compose_filters(filters)
    maps, expected = sub_pixels(image), conv2d(large, filters, stride=2, padding=3)
    assert maps.shape == expected.shape == (1, 64, 32, 32)
    inner = slice(7, -6)  # from the first to the last pixel that no tap leads out of the image from; starts odd
    difference = (maps - expected)[:, :, inner, inner]
    torch.testing.assert_close(difference[:, :, ::2, ::2], torch.zeros_like(difference[:, :, ::2, ::2]))
    # The even sub-pixels have a sixth tap, of the outermost weights alone, which is given to its neighbour
    assert 1e-4 < difference.std() / expected.std() < 5e-3
    plain = torch.rand(1, 3, 1, 1, dtype=torch.float64)  # exact to the border where all pixels are the same
    expected = (filters.sum((2, 3)) @ plain[0, :, 0])[None, :, :, None].expand(1, 64, 32, 32)
    torch.testing.assert_close(sub_pixels(plain.expand(1, 3, 16, 16)), expected)
    model = loaded(200, saved(imagenet_like, tmp_path / "weights.pth"), "sub-pixel", "shrunk")
    assert torch.equal(model.conv1.weight, compose_filters(imagenet_like["conv1.weight"]))
    again = loaded(200, saved(model.state_dict(), tmp_path / "again.safetensors"), "sub-pixel")
    assert torch.equal(again.conv1.weight, model.conv1.weight)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


WRAPPED = {
    "stacked.pth": lambda state: prefixed(state, "module.model.backbone._orig_mod."),
    "averaged.bin": lambda state: prefixed(state, "module.") | {"n_averaged": torch.tensor(3)},
    # As Lightning and timm write them
    "lightning.ckpt": lambda state: {"state_dict": prefixed(state, "model."), "optimizer_states": [{"state": {}}]},
    "timm.pth.tar": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "metric": 70.0},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_of_any_precision_is_found_within_what_people_have(imagenet_like, tmp_path, name):
    dtype = [torch.float32, torch.float16, torch.bfloat16, torch.float64][len(name) % 4]
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in imagenet_like.items()}
    model = loaded(1000, saved(WRAPPED[name](state), tmp_path / name))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_names_of_torchvisions_older_densenets_are_known(tmp_path):
    new = [name for name in torchvision.models.densenet121().state_dict() if "num_batches" not in name]
    old = {re.sub(r"(denselayer[0-9]+[.](?:norm|conv))([12])", r"\1.\2", name): torch.ones(1) for name in new}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    save_file(old, tmp_path / "densenet.safetensors")
    assert {*load_state(tmp_path / "densenet.safetensors")} == {*new}


def test_what_does_not_fit_is_named(imagenet_like, tmp_path):
    wrong = imagenet_like | {"bn1.weight": torch.zeros(32), "layer9.weight": torch.zeros(1)}
    wrong["fc.weight"] = torch.zeros(37, 512)
    del wrong["layer2.0.conv1.weight"]
    path = saved(wrong, tmp_path / "wrong.pth")
    for said in (
        r"Missing .*layer2\.0\.conv1\.weight",
        r"Unexpected .*layer9\.weight",
        r"bn1\.weight: .*\[32\].*\[64\]",
        r"fc\.weight: .*\[37, 512\].*\[200, 512\].* -p adapt=classes, the head starts afresh",
    ):
        refused(said, 200, path)
    for value in (torch.ones(64, dtype=torch.int8), torch.full((64,), float("nan"))):
        path = saved(imagenet_like | {"bn1.weight": value}, tmp_path / "bad.pth")
        refused(r"bn1\.weight has values that are NaN, infinite or no real numbers", 200, path)


def test_a_head_of_other_classes_or_none_starts_afresh_when_asked(imagenet_like, tmp_path):
    headless = {name: value for name, value in imagenet_like.items() if "fc" not in name}
    for state in (headless, headless | {"fc.weight": torch.zeros(37, 512), "fc.bias": torch.zeros(37)}):
        path, model = saved(state, tmp_path / "pets.pt"), build_model("resnet18", 10)
        refused(r"fc\.weight.* -p adapt=classes, the head starts afresh", 10, path)
        head = model.fc.weight.clone()
        load_initial_weights(model, Settings(weights=path, adapt="classes"), list("abcdefghij"))
        assert torch.equal(model.conv1.weight, state["conv1.weight"]) and torch.equal(model.fc.weight, head)


class Trap:
    """Would raise if anything unpickled it."""

    def __reduce__(self):
        return pytest.fail, ("it was executed",)


def test_a_pickle_is_never_executed_and_what_is_no_state_dict_is_refused(tmp_path):
    for content in (Trap(), {"fc.weight": Trap()}, {"fc": nn.Linear(2, 2)}):
        refused(r"zip\.pth: not readable as a state dict", 200, saved(content, tmp_path / "zip.pth"))
    for name, content in {"bare.pth": pickle.dumps(Trap(), 2), "text.pth": b"no weights"}.items():
        (tmp_path / name).write_bytes(content)
        refused(rf"{name}: not readable as a state dict", 200, str(tmp_path / name))
    tensor = torch.ones(2, 3)
    for content in ({3: tensor}, {"fc": [tensor]}, [tensor], {"model.fc.bias": tensor, "about": "{}"}):
        refused(r"odd\.pth: expected a state dict.* weights=run:NAME", 200, saved(content, tmp_path / "odd.pth"))
    refused("did you mean imagenet", 200, "imagenett")
    refused(r"no file .*nothing-here\.pth", 200, "nothing-here.pth")


def test_with_the_file_in_torchs_cache_imagenet_needs_no_network(tmp_path, monkeypatch, imagenet_like):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    saved(imagenet_like, folder / "resnet18-f37072fd.pth")
    refused(r"sha256 of .*resnet18-f37072fd\.pth does not start with f37072fd", 200, "imagenet")
    monkeypatch.setattr(weights, "fingerprint", lambda path: path.stem.rsplit("-", 1)[1])
    assert torch.equal(loaded(200, "imagenet").conv1.weight, imagenet_like["conv1.weight"])
    for name, file in (("resnet50", "resnet50-0676ba61.pth"), ("vit_h_14", "vit_h_14_swag-80465313.pth")):
        (folder / file).touch()  # the latter has no IMAGENET1K_V1
        assert weights_file("imagenet", name) == folder / file


def test_the_stand_in_is_trained_once_and_the_same_every_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(weights, "make_dataset", lambda layout, parent: parent)
    monkeypatch.setattr(weights, "pack", lambda *_: data())  # of 20 images, instead of 2,000
    monkeypatch.setattr(weights, "BATCH_SIZE", 10)
    torch.manual_seed(1)
    path, drawn = stand_in_file(), torch.rand(3)
    first = load_file(path)
    assert "once" in capsys.readouterr().out
    assert stand_in_file() == path and capsys.readouterr().out == ""
    path.unlink()
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)  # the global random numbers are left alone
    model = loaded(7, "mini")  # with a head of its own
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items() if "fc" not in name)
