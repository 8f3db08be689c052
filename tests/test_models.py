"""The surgery and the starting weights, against torchvision's own ResNet18."""

import io
import pickle
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.nn.functional import conv2d, interpolate, pixel_shuffle

from tinyclf import models
from tinyclf.errors import TinyclfError
from tinyclf.models import resnet18


@pytest.fixture(scope="module")
def imagenet_like():
    """A state dict as torchvision's own: 1000 classes, every tensor told apart from a fresh one."""
    torch.manual_seed(7)
    return torchvision.models.resnet18().state_dict()


def saved(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def test_without_weights_it_is_torchvisions_with_another_head():
    torch.manual_seed(0)
    ours = resnet18(200).eval()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=200).eval()
    images = torch.rand(2, 3, 128, 128)  # from there on, no map is small enough for a convolution of ours
    assert torch.equal(ours(images), theirs(images))
    torch.testing.assert_close(ours(images[..., :64, :64]), theirs(images[..., :64, :64]))
    assert ours.fc.out_features == 200 and isinstance(ours.avgpool, torch.nn.AdaptiveAvgPool2d)


@pytest.mark.parametrize(("size", "stem"), [(64, "imagenet"), (224, "imagenet"), (64, "small"), (64, "sub-pixel")])
def test_it_takes_images_of_any_size(size, stem):
    assert resnet18(10, stem=stem).eval()(torch.rand(1, 3, size, size)).shape == (1, 10)


def test_the_small_stem_is_the_published_one():
    model = resnet18(200, stem="small")
    assert model.conv1.weight.shape == (64, 3, 3, 3) and model.conv1.stride == (1, 1) and model.conv1.bias is not None
    assert model.conv1(torch.rand(1, 3, 64, 64)).shape == (1, 64, 64, 64)
    assert isinstance(model.maxpool, torch.nn.Identity)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_are_taken_over_all_but_the_head(imagenet_like, tmp_path, suffix):
    path = saved(imagenet_like, tmp_path / f"weights{suffix}")
    model = resnet18(200, path)
    for name, value in model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, imagenet_like[name]), name
    assert model.fc.weight.shape == (200, 512)
    same_head = resnet18(1000, path)
    assert torch.equal(same_head.fc.weight, imagenet_like["fc.weight"])


def test_a_file_without_batch_norms_counters_is_whole(imagenet_like, tmp_path):
    state = {name: value for name, value in imagenet_like.items() if not name.endswith("num_batches_tracked")}
    assert len(state) == 102
    assert torch.equal(resnet18(200, saved(state, tmp_path / "old.pth")).conv1.weight, state["conv1.weight"])


def test_under_the_small_stem_the_large_one_is_left_out(imagenet_like, tmp_path):
    path = saved(imagenet_like, tmp_path / "weights.pth")
    state = resnet18(200, path, "small").state_dict()
    assert torch.equal(state["layer1.0.conv1.weight"], imagenet_like["layer1.0.conv1.weight"])
    assert state["conv1.weight"].shape == (64, 3, 3, 3)


def test_a_shrunk_stem_does_to_an_image_what_the_large_one_does_to_it_enlarged(imagenet_like, tmp_path):
    filters, image = imagenet_like["conv1.weight"].double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    enlarged = interpolate(image, scale_factor=5, mode="bilinear")  # odd: old centres are new ones
    expected = conv2d(enlarged, filters, padding=3)[:, :, 2::5, 2::5]
    found = conv2d(image, models.shrunk(filters, 5.0), padding=1)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])
    model = resnet18(200, saved(imagenet_like, tmp_path / "weights.pth"), "small", shrink_stem=True)
    assert torch.equal(model.conv1.weight, models.shrunk(imagenet_like["conv1.weight"], 224 / 64))
    assert not model.conv1.bias.any()


@pytest.fixture
def enlarged():
    """An image, and the same enlarged four times: bicubic as PIL has it, unrounded."""
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    return image, interpolate(image, scale_factor=4, mode="bicubic", antialias=True)  # antialias: with PIL's kernel


def sub_pixels(filters, image):
    layer = resnet18(10, stem="sub-pixel").conv1.double()
    layer.weight.data = models.composed(filters)
    return layer(image)


def test_a_composed_stem_does_to_an_image_what_the_large_one_does_to_it_enlarged(imagenet_like, enlarged):
    filters, (image, large) = imagenet_like["conv1.weight"].double(), enlarged
    found, expected = sub_pixels(filters, image), conv2d(large, filters, stride=2, padding=3)
    assert found.shape == expected.shape == (1, 64, 32, 32)
    inner = slice(7, -6)  # from the first to the last pixel that no tap leads out of the image from; starts odd
    difference = (found - expected)[:, :, inner, inner]
    torch.testing.assert_close(difference[:, :, ::2, ::2], torch.zeros_like(difference[:, :, ::2, ::2]))
    # The even sub-pixels have a sixth tap, of the outermost weights alone, which is given to the one beside it
    assert 1e-4 < difference.std() / expected.std() < 5e-3
    without = filters.clone()
    without[:, :, 0] = without[:, :, :, 0] = 0
    found, expected = sub_pixels(without, image), conv2d(large, without, stride=2, padding=3)
    torch.testing.assert_close(found[:, :, inner, inner], expected[:, :, inner, inner])


def test_a_composed_stem_is_exact_on_what_does_not_change_from_pixel_to_pixel(imagenet_like):
    filters, plain = imagenet_like["conv1.weight"].double(), torch.rand(1, 3, 1, 1, dtype=torch.float64)
    found = sub_pixels(filters, plain.expand(1, 3, 16, 16))
    expected = (filters.sum((2, 3)) @ plain[0, :, 0])[None, :, :, None].expand(1, 64, 32, 32)
    torch.testing.assert_close(found, expected)


def test_the_sub_pixel_stem_is_torchs_pixel_shuffle_and_ends_where_the_enlarged_image_does(imagenet_like, tmp_path):
    path = saved(imagenet_like, tmp_path / "weights.pth")
    model = resnet18(200, path, "sub-pixel", shrink_stem=True)
    composed = models.composed(imagenet_like["conv1.weight"])
    assert torch.equal(model.conv1.weight, composed)
    assert model.maxpool(model.conv1(torch.rand(1, 3, 64, 64))).shape == (1, 64, 64, 64)
    image = torch.rand(2, 3, 9, 5)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode="replicate")
    for layout in (torch.contiguous_format, torch.channels_last):
        found = model.to(memory_format=layout).conv1(image)
        torch.testing.assert_close(found, pixel_shuffle(conv2d(padded, model.conv1.weight), 2))
        assert found.is_contiguous(memory_format=torch.channels_last)
    fresh = resnet18(200, path, "sub-pixel")
    assert torch.equal(fresh.layer1[0].conv1.weight, imagenet_like["layer1.0.conv1.weight"])
    state = fresh.state_dict() | {"conv1.weight": composed}
    again = resnet18(200, saved(state, tmp_path / "again.safetensors"), "sub-pixel")
    assert torch.equal(again.conv1.weight, composed)
    with pytest.raises(TinyclfError, match=r"they have a sub-pixel stem \(stem=sub-pixel\)"):
        resnet18(200, str(tmp_path / "again.safetensors"))


def test_what_does_not_fit_is_named(imagenet_like, tmp_path):
    state = dict(imagenet_like)
    del state["layer2.0.conv1.weight"]
    state["bn1.weight"] = torch.zeros(32)
    state["fc.weight"], state["fc.bias"] = torch.zeros(37, 512), torch.zeros(37)
    state["layer9.weight"] = torch.zeros(1)
    with pytest.raises(TinyclfError) as error:
        resnet18(200, saved(state, tmp_path / "wrong.pth"))
    said = str(error.value)
    assert "layer2.0.conv1.weight is missing" in said and "layer9.weight is not of this model" in said
    assert "bn1.weight has shape (32,), expected (64,)" in said
    assert "fc.weight has shape (37, 512), expected (200, 512)" in said


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
            resnet18(200, str(tmp_path / name))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x00" * 200])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(TinyclfError, match=path.name):
        resnet18(200, str(path))


def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path):
    with pytest.raises(TinyclfError, match="expected a state dict"):
        resnet18(200, saved({"model": {"a": torch.zeros(1)}}, tmp_path / "nested.pth"))


def test_a_stem_or_a_checkpoint_in_the_wrong_place_is_refused_with_the_setting_for_it(tmp_path):
    small = saved(resnet18(10, stem="small").state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(TinyclfError, match=r"they have a small stem \(stem=small\)"):
        resnet18(10, small)
    checkpoint = saved({"model.fc.bias": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(TinyclfError, match=rf"checkpoint of a run: .* weights=run:{tmp_path.name}"):
        resnet18(10, checkpoint)


def test_unknown_names_and_missing_files_are_refused():
    with pytest.raises(TinyclfError, match="did you mean imagenet"):
        resnet18(200, "imagenett")
    with pytest.raises(TinyclfError, match=r"no file .*nothing-here\.pth"):
        resnet18(200, "nothing-here.pth")
    with pytest.raises(TinyclfError, match="stem = 'tiny'"):
        resnet18(200, stem="tiny")


def test_without_a_network_it_says_which_file_to_put_where(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(TinyclfError) as error:
        resnet18(200, "imagenet")
    assert models.IMAGENET.url in str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in str(error.value)


def test_with_the_file_in_torchs_cache_imagenet_needs_no_network(tmp_path, monkeypatch, imagenet_like):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    saved(imagenet_like, folder / "resnet18-f37072fd.pth")
    assert torch.equal(resnet18(200, "imagenet").conv1.weight, imagenet_like["conv1.weight"])
