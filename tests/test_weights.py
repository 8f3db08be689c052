"""Starting weights: read from any file without trusting it, and copied into the models that they fit."""

import argparse
import io
import pickle
import re
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import conv2d, interpolate
from torchvision.models import ResNet18_Weights

from tinyclf.experiments.parent import load_initial_weights
from tinyclf.experiments.settings import Settings
from tinyclf.models import weights
from tinyclf.models.resnet import build_model, compose_filters, head_names, shrink_filters
from tinyclf.models.weights import copy_weights, load_state, load_weights, weights_file
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


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_are_taken_over_all_but_the_head(imagenet_like, tmp_path, suffix):
    path = saved(imagenet_like, tmp_path / f"weights{suffix}")
    model = loaded(200, path)
    for name, value in model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, imagenet_like[name]), name
    assert model.fc.weight.shape == (200, 512)
    same_head = loaded(1000, path)
    assert torch.equal(same_head.fc.weight, imagenet_like["fc.weight"])


def test_a_file_without_batch_norms_counters_is_whole(imagenet_like, tmp_path):
    state = {name: value for name, value in imagenet_like.items() if not name.endswith("num_batches_tracked")}
    assert len(state) == 102
    assert torch.equal(loaded(200, saved(state, tmp_path / "old.pth")).conv1.weight, state["conv1.weight"])


def test_under_the_small_stem_the_large_one_is_left_out(imagenet_like, tmp_path):
    path = saved(imagenet_like, tmp_path / "weights.pth")
    state = loaded(200, path, "small").state_dict()
    assert torch.equal(state["layer1.0.conv1.weight"], imagenet_like["layer1.0.conv1.weight"])
    assert state["conv1.weight"].shape == (64, 3, 3, 3)


def test_a_shrunk_stem_does_to_an_image_what_the_large_one_does_to_it_enlarged(imagenet_like, tmp_path):
    filters, image = imagenet_like["conv1.weight"].double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    enlarged = interpolate(image, scale_factor=5, mode="bilinear")  # odd: old centres are new ones
    expected = conv2d(enlarged, filters, padding=3)[:, :, 2::5, 2::5]
    found = conv2d(image, shrink_filters(filters, 5.0), padding=1)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])
    model = loaded(200, saved(imagenet_like, tmp_path / "weights.pth"), "small", "shrunk")
    assert torch.equal(model.conv1.weight, shrink_filters(imagenet_like["conv1.weight"], 224 / 64))
    assert not model.conv1.bias.any()


@pytest.fixture
def enlarged():
    """An image, and the same enlarged four times: bicubic as PIL has it, unrounded."""
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    return image, interpolate(image, scale_factor=4, mode="bicubic", antialias=True)  # antialias: with PIL's kernel


def sub_pixels(filters, image):
    layer = build_model("resnet18", 10, stem="sub-pixel").conv1.double()
    layer.weight.data = compose_filters(filters)
    return layer(image)


def test_a_composed_stem_does_to_an_image_what_the_large_one_does_to_it_enlarged(imagenet_like, enlarged):
    filters, (image, large) = imagenet_like["conv1.weight"].double(), enlarged
    maps, expected = sub_pixels(filters, image), conv2d(large, filters, stride=2, padding=3)
    assert maps.shape == expected.shape == (1, 64, 32, 32)
    inner = slice(7, -6)  # from the first to the last pixel that no tap leads out of the image from; starts odd
    difference = (maps - expected)[:, :, inner, inner]
    torch.testing.assert_close(difference[:, :, ::2, ::2], torch.zeros_like(difference[:, :, ::2, ::2]))
    # The even sub-pixels have a sixth tap, of the outermost weights alone, which is given to its neighbour
    assert 1e-4 < difference.std() / expected.std() < 5e-3
    without = filters.clone()
    without[:, :, 0] = without[:, :, :, 0] = 0
    maps, expected = sub_pixels(without, image), conv2d(large, without, stride=2, padding=3)
    torch.testing.assert_close(maps[:, :, inner, inner], expected[:, :, inner, inner])


def test_a_composed_stem_is_exact_on_what_does_not_change_from_pixel_to_pixel(imagenet_like):
    filters, plain = imagenet_like["conv1.weight"].double(), torch.rand(1, 3, 1, 1, dtype=torch.float64)
    maps = sub_pixels(filters, plain.expand(1, 3, 16, 16))
    expected = (filters.sum((2, 3)) @ plain[0, :, 0])[None, :, :, None].expand(1, 64, 32, 32)
    torch.testing.assert_close(maps, expected)


def test_a_sub_pixel_stem_takes_composed_filters_or_none(imagenet_like, tmp_path):
    path, composed = saved(imagenet_like, tmp_path / "weights.pth"), compose_filters(imagenet_like["conv1.weight"])
    assert torch.equal(loaded(200, path, "sub-pixel", "shrunk").conv1.weight, composed)
    fresh = loaded(200, path, "sub-pixel")
    assert torch.equal(fresh.layer1[0].conv1.weight, imagenet_like["layer1.0.conv1.weight"])
    again = saved(fresh.state_dict() | {"conv1.weight": composed}, tmp_path / "again.safetensors")
    assert torch.equal(loaded(200, again, "sub-pixel").conv1.weight, composed)
    with pytest.raises(TinyclfError, match=r"they have a sub-pixel stem \(stem=sub-pixel\)"):
        loaded(200, again)


def test_what_does_not_fit_is_named(imagenet_like, tmp_path):
    state = dict(imagenet_like)
    del state["layer2.0.conv1.weight"]
    state["bn1.weight"] = torch.zeros(32)
    state["fc.weight"], state["fc.bias"] = torch.zeros(37, 512), torch.zeros(37)
    state["layer9.weight"] = torch.zeros(1)
    with pytest.raises(TinyclfError) as error:
        loaded(200, saved(state, tmp_path / "wrong.pth"))
    said = str(error.value)
    assert "layer2.0.conv1.weight is missing" in said and "layer9.weight is not of this model" in said
    assert "bn1.weight has shape (32,), expected (64,)" in said
    assert "fc.weight has shape (37, 512), expected (200, 512)" in said


TENSOR = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.int8), "is of whole numbers, expected real numbers"),
        ("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.bool), "is of truth values, expected real numbers"),
        ("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.complex64), "is of complex numbers, expected real"),
        ("conv1.weight", torch.full((64, 3, 7, 7), float("nan")), "has values that are NaN or infinite"),
        ("bn1.running_var", torch.tensor([1.0] * 63 + [float("inf")]), "has values that are NaN or infinite"),
        ("bn1.weight", torch.full((64,), float("nan"), dtype=torch.float8_e4m3fn), "has values that are NaN"),
    ],
)
@pytest.mark.parametrize("stem_init", ["random", "shrunk"])
def test_tensors_that_hold_no_weights_are_named(imagenet_like, tmp_path, name, value, said, stem_init):
    path, stems = saved(imagenet_like | {name: value}, tmp_path / "bad.pth"), {"random": "imagenet", "shrunk": "small"}
    with pytest.raises(TinyclfError, match=rf"{name} {said}"):
        loaded(200, path, stems[stem_init], stem_init)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_taken_over(imagenet_like, tmp_path, dtype):
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in imagenet_like.items()}
    model = loaded(200, saved(state, tmp_path / "weights.pth"))
    assert torch.equal(model.layer1[0].conv1.weight, state["layer1.0.conv1.weight"].float())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "key 3": lambda: {3: TENSOR},
        "key tuple": lambda: {("a", 1): TENSOR},
        "key bytes": lambda: {b"fc": TENSOR},
        "key None": lambda: {None: TENSOR},
        "list in it": lambda: {"fc": [TENSOR]},
        "number in it": lambda: {"fc": 3},
        "list": lambda: [TENSOR],
        "tensor": lambda: TENSOR,
        "nothing": lambda: None,
        "sparse": lambda: {"fc": TENSOR.to_sparse()},
        "meta": lambda: {"fc": TENSOR.to("meta")},
        "quantized": lambda: {"fc": torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8)},
        "nested": lambda: {"fc": torch.nested.nested_tensor([TENSOR, TENSOR])},
        "model": lambda: {"fc": nn.Linear(2, 2)},
    }.items(),
)
@pytest.mark.filterwarnings("ignore:.*prototype|.*deprecated")
def test_what_is_no_mapping_of_names_to_plain_tensors_is_refused_in_one_message(name, content, tmp_path):
    torch.save(content(), tmp_path / "odd.pth")
    with pytest.raises(TinyclfError, match=r"odd\.pth: ") as error:
        load_state(str(tmp_path / "odd.pth"))
    said = str(error.value)
    assert "weights_only" not in said and "WeightsUnpickler" not in said and "\n" not in said


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n")
    with pytest.raises(TinyclfError, match=r"a pointer of Git LFS, .* `git lfs pull`"):
        load_state(str(path))


class Trap:
    """Would make a folder if anything unpickled it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_executed(tmp_path):
    buffer = io.BytesIO()
    torch.save({"fc.weight": Trap(tmp_path / "trap")}, buffer)
    for name, content in {"zip.pth": buffer.getvalue(), "bare.pth": pickle.dumps(Trap(tmp_path / "trap"))}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TinyclfError, match="not readable as a state dict"):
            loaded(200, str(tmp_path / name))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x00" * 200])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(TinyclfError, match=path.name):
        loaded(200, str(path))


def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path):
    with pytest.raises(TinyclfError, match="expected a state dict"):
        loaded(200, saved({"weights": {"a": torch.zeros(1)}}, tmp_path / "nested.pth"))


def test_a_stem_or_a_checkpoint_in_the_wrong_place_is_refused_with_the_setting_for_it(tmp_path):
    small = saved(build_model("resnet18", 10, stem="small").state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(TinyclfError, match=r"they have a small stem \(stem=small\)"):
        loaded(10, small)
    checkpoint, about = tmp_path / "checkpoint.safetensors", {"about": "{}", "state": "{}", "sha256": ""}
    save_file({"model.fc.bias": torch.zeros(1)}, checkpoint, about)
    with pytest.raises(TinyclfError, match=rf"checkpoint of a run: .* weights=run:{tmp_path.name}"):
        loaded(10, str(checkpoint))


def test_unknown_names_and_missing_files_are_refused():
    with pytest.raises(TinyclfError, match="did you mean imagenet"):
        loaded(200, "imagenett")
    with pytest.raises(TinyclfError, match=r"no file .*nothing-here\.pth"):
        loaded(200, "nothing-here.pth")


def test_without_a_network_it_says_which_file_to_put_where(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(TinyclfError) as error:
        loaded(200, "imagenet")
    assert ResNet18_Weights.IMAGENET1K_V1.url in str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in str(error.value)


def test_with_the_file_in_torchs_cache_imagenet_needs_no_network(tmp_path, monkeypatch, imagenet_like):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    saved(imagenet_like, folder / "resnet18-f37072fd.pth")
    with pytest.raises(TinyclfError, match=r"resnet18-f37072fd\.pth: not the ImageNet weights that its name promises"):
        loaded(200, "imagenet")
    monkeypatch.setattr(weights, "fingerprint", lambda path: "f37072fd" + "0" * 56)
    assert torch.equal(loaded(200, "imagenet").conv1.weight, imagenet_like["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet50", "resnet50-0676ba61.pth"),
        ("mnasnet0_5", "mnasnet0.5_top1_67.823-3ffadce67e.pth"),
        ("vit_h_14", "vit_h_14_swag-80465313.pth"),  # it has no IMAGENET1K_V1
    ],
)
def test_imagenet_weights_are_those_of_the_model(name, file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / file
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(weights, "fingerprint", lambda path: path.stem.rsplit("-", 1)[1])
    assert weights_file("imagenet", name) == path


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "mnasnet0_5", "squeezenet1_1", "resnet34", "shufflenet_v2_x0_5"]
)
def test_other_models_take_all_but_the_head_as_well(name, tmp_path):
    torch.manual_seed(7)
    state = torchvision.models.get_model(name).state_dict()
    model = loaded(20, saved(dict(state), tmp_path / "weights.safetensors"), name=name)
    fresh = {tensor for tensor, value in model.state_dict().items() if not torch.equal(value, state[tensor])}
    assert fresh == set(head_names(model))


def test_tensors_of_auxiliary_heads_are_left_out_and_densenets_old_names_are_known(tmp_path):
    state = {"aux1.conv.conv.weight": torch.ones(1), "fc.bias": torch.ones(2)}
    assert [*load_state(saved(state, tmp_path / "googlenet.safetensors"))] == ["fc.bias"]
    new = [name for name in torchvision.models.densenet121().state_dict() if "num_batches" not in name]
    old = {re.sub(r"(denselayer[0-9]+[.](?:norm|conv))([12])", r"\1.\2", name): torch.ones(1) for name in new}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert {*load_state(saved(old, tmp_path / "densenet.safetensors"))} == {*new}


def test_what_keeps_the_models_own_values_can_be_named(imagenet_like):
    model = build_model("resnet18", 1000)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy_weights(model, imagenet_like, "a state", ("layer4.", "fc.bias"))
    for name, value in model.state_dict().items():
        kept = name.startswith(("layer4.", "fc.bias"))
        assert torch.equal(value, before[name] if kept else imagenet_like[name]), name


def test_filters_of_half_precision_are_shrunk_in_single(imagenet_like):
    half = {name: value.half() for name, value in imagenet_like.items()}
    model = build_model("resnet18", 1000, stem="small")
    copy_weights(model, half, "halves", stem_init="shrunk")
    assert torch.equal(model.conv1.weight, shrink_filters(half["conv1.weight"].float()))


def test_filters_are_shrunk_of_a_stem_of_7x7_alone(imagenet_like):
    state = build_model("resnet18", 10, stem="small").state_dict()
    with pytest.raises(TinyclfError, match="'a state' have no stem of 7x7"):
        copy_weights(build_model("resnet18", 10, stem="small"), state, "a state", stem_init="shrunk")


def test_the_stand_in_is_a_resnet18s():
    with pytest.raises(TinyclfError, match="a resnet18, and the model is 'resnet34'"):
        weights_file("mini", "resnet34")


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


WRAPPED = {
    "distributed.pt": lambda state: prefixed(state, "module."),
    "compiled.bin": lambda state: prefixed(state, "_orig_mod."),
    "stacked.pth": lambda state: prefixed(state, "module.model.backbone._orig_mod."),
    "averaged.pth": lambda state: prefixed(state, "module.") | {"n_averaged": torch.tensor(3)},
    # As Lightning and timm write them
    "lightning.ckpt": lambda state: {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(state, "model."),
        "optimizer_states": [{"state": {}}],
    },
    "timm.pth.tar": lambda state: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": state,
        "args": argparse.Namespace(lr=0.1),
        "metric": 70.0,
    },
    "script.pt": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "model.pth": lambda state: {"model": prefixed(state, "module."), "epoch": 3},
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_state_dict_is_found_within_what_people_have(imagenet_like, tmp_path, name, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in imagenet_like.items()}
    model = loaded(1000, saved(WRAPPED[name](state), tmp_path / name))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_names_of_which_only_some_have_a_prefix_keep_it(imagenet_like, tmp_path):
    some = {f"module.{name}" if name == "fc.bias" else name: value for name, value in imagenet_like.items()}
    with pytest.raises(TinyclfError, match=r"module\.fc\.bias is not of this model"):
        loaded(1000, saved(some, tmp_path / "some.pth"))


def test_a_head_of_another_size_starts_afresh_when_asked(tmp_path):
    torch.manual_seed(7)
    path = saved(build_model("resnet18", 37).state_dict(), tmp_path / "pets.pt")
    model = build_model("resnet18", 10)
    with pytest.raises(TinyclfError, match=r"fc\.weight has shape .* -p adapt=classes, the head starts afresh"):
        load_initial_weights(model, Settings(weights=path), list("abcdefghij"))
    head = model.fc.weight.clone()
    load_initial_weights(model, Settings(weights=path, adapt="classes"), list("abcdefghij"))
    assert torch.equal(model.conv1.weight, torch.load(path)["conv1.weight"]) and torch.equal(model.fc.weight, head)


def test_a_file_without_a_head_gets_a_fresh_one_when_asked(imagenet_like, tmp_path):
    path = saved({k: v for k, v in imagenet_like.items() if "fc" not in k}, tmp_path / "features.pt")
    model = build_model("resnet18", 10)
    with pytest.raises(TinyclfError, match=r"fc\.weight is missing.* adapt=classes"):
        load_weights(model, path)
    load_weights(model, path, fresh_head=True)
    assert torch.equal(model.conv1.weight, imagenet_like["conv1.weight"])
