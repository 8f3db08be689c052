"""Pretrained weights: their files, downloaded or trained if need be, and their tensors copied into a model."""

import argparse
import hashlib
import os
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchvision.models import get_model_weights  # type: ignore[attr-defined] # it is public

from tinyclf.data.augment import Augmentation
from tinyclf.data.cache import pack
from tinyclf.data.loader import ImageLoader
from tinyclf.data.locate import download
from tinyclf.data.registry import FILE, NAMED_WEIGHTS, is_file
from tinyclf.data.synthetic import PRETRAIN, VERSION, make_dataset
from tinyclf.models.resnet import build_model, compose_filters, head_names, shrink_filters, stem_of
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.files import atomic_write, locked
from tinyclf.utils.paths import data_dir, user_file

IMAGENET_CLASSES = 1000
AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # in torchvision's files of GoogLeNet and Inception v3
DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # torchvision's files have `norm.1` for `norm1`
# Where training scripts, Lightning and timm keep the state dict within a checkpoint
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
# The training of the stand-in for ImageNet weights, a minute on one core; no part of the published recipe
EPOCHS, SIZE, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 2, 40, 25, 0.02, 5e-4
STAND_IN = f"{VERSION} {PRETRAIN} {EPOCHS} {SIZE} {BATCH_SIZE} {LEARNING_RATE} {WEIGHT_DECAY} fused"


def load_weights(
    model: nn.Module, weights: str, *, model_name: str = "resnet18", stem_init: str = "random", fresh_head: bool = False
) -> None:
    """Copy pretrained weights into a model of `build_model`, in place.

    weights: `none` (nothing is copied), `imagenet` (torchvision's own, through torch's cache), `mini` (see
    `stand_in_file`) or the path of a state dict. A head of ImageNet's 1000 classes is left out where the model's has
    another number of them, that of `mini` always, any with `fresh_head`; for the stem see `copy_weights`.
    Raises TinyclfError for unknown names, unreadable files, and tensors that do not fit, by name.
    """
    path = weights_file(weights, model_name)
    if path is None:
        return
    state, head = load_state(path), head_names(model)
    classes = {len(state[name]) for name in head if name in state}
    own_classes = len(model.state_dict()[head[0]])
    other_head = fresh_head or weights == "mini" or classes == {IMAGENET_CLASSES} != {own_classes}
    copy_weights(model, state, weights, head if other_head else (), stem_init=stem_init)


def copy_weights(
    model: nn.Module, state: dict[str, Tensor], origin: str, fresh: tuple[str, ...] = (), *, stem_init: str = "random"
) -> None:
    """Copy a state dict into `model`, in place.

    origin: what messages call `state`. fresh: the starts of the names of tensors that keep the model's own values.
    stem_init: what another stem takes from one of 7x7: `random`, nothing, or `shrunk`, see `shrink_filters` and
    `compose_filters`.
    Raises TinyclfError naming missing, foreign and misshapen tensors, as torch does, and those with values that are not
    finite.
    """
    own, stem = model.state_dict(), stem_of(state)
    faults = [f"they have a {stem} stem (stem={stem})"] * (stem in ("small", "sub-pixel") and stem != stem_of(own))
    if stem_init == "shrunk":
        state = convert_stem(state, stem_of(own), origin)
        fresh = tuple(name for name in fresh if name != "conv1.")
    elif stem == "imagenet" != stem_of(own):
        fresh += ("conv1.",)
    kept = {name: value for name, value in own.items() if name.startswith(fresh)}
    taken = {name: value for name, value in state.items() if not name.startswith(fresh)}
    floats = [name for name in taken if name in own and own[name].is_floating_point()]
    broken = [name for name in floats if not (taken[name].is_floating_point() and taken[name].float().isfinite().all())]
    faults += [f"{name} has values that are NaN, infinite or no real numbers" for name in broken]
    try:
        model.load_state_dict(kept | taken)
    except RuntimeError as error:  # a heading, and a line for each kind of fault, some of them long
        faults += [line.strip("\t .")[:200] for line in str(error).splitlines()[1:]]
    if faults:
        listed = "; ".join(faults[:5])
        hint = ". With -p adapt=classes, the head starts afresh" * any(name in listed for name in head_names(model))
        raise TinyclfError(f"weights {origin!r} do not fit this {type(model).__name__}: {listed}{hint}")


def convert_stem(state: dict[str, Tensor], stem: str, origin: str) -> dict[str, Tensor]:
    """A state dict with the 7x7 filters of its stem made those of a small or sub-pixel one. Raises TinyclfError."""
    if stem_of(state) != "imagenet":
        raise TinyclfError(f"stem_init = 'shrunk': weights {origin!r} have no stem of 7x7 to shrink")
    filters = state["conv1.weight"].float()
    if stem == "sub-pixel":
        return state | {"conv1.weight": compose_filters(filters)}
    return state | {"conv1.weight": shrink_filters(filters), "conv1.bias": torch.zeros(len(filters))}


def load_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU, read without executing pickles. Raises TinyclfError.

    It may lie within a checkpoint, and its names may all begin with what wrappers put there: `model._orig_mod.fc.bias`.
    """
    try:
        # Namespace: the options that timm and many scripts keep beside the weights, plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception:  # pickle's own errors are many, and torch's advise to execute the file
        fault = "not readable as a state dict of tensors: it is damaged, or a pointer of Git LFS, or holds other things"
        raise TinyclfError(f"{path}: {fault}") from None
    while isinstance(state, dict) and (key := next((key for key in NESTED if isinstance(state.get(key), dict)), "")):
        state = state[key]
    for name, value in state.items() if isinstance(state, dict) else [(None, state)]:
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            fault = f"expected a state dict, names with tensors; see {name!r} in it"
            raise TinyclfError(f"{path}: {fault}. Of a checkpoint of a run, name the run: weights=run:NAME")
    state.pop("n_averaged", None)  # which torch's AveragedModel counts
    start = os.path.commonprefix([*state])  # noqa: RUF071  # by characters, and cut behind the last dot
    named = {DENSENET_NAME.sub(r"\1\2", name[start.rfind(".") + 1 :]): value for name, value in state.items()}
    return {name: value for name, value in named.items() if not name.startswith(AUXILIARY_HEADS)}


def weights_file(weights: str, model_name: str = "resnet18") -> Path | None:
    """The file of `weights`, downloaded or trained if need be; None for `none`. Raises TinyclfError."""
    if is_file(weights):
        return user_file(weights, "weights")
    one_of("weights", weights, NAMED_WEIGHTS, f"or {FILE}")
    if weights == "imagenet":
        return imagenet_file(model_name)
    return stand_in_file() if weights == "mini" else None


def imagenet_file(model_name: str) -> Path:
    """torchvision's ImageNet weights of a model, in torch's own cache, downloaded and checked on first use."""
    files = get_model_weights(model_name).__members__
    url: str = files.get("IMAGENET1K_V1", files["DEFAULT"]).value.url
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    prefix = path.stem.rsplit("-", 1)[-1]  # torchvision names its files after the start of their sha256
    if not fingerprint(download(path.parent, url, f"sha256:{prefix}")).startswith(prefix):
        raise TinyclfError(f"weights = 'imagenet': the sha256 of {path} does not start with {prefix}: remove it")
    return path


def fingerprint(path: Path) -> str:
    """sha256 of a weights file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stand_in_file() -> Path:
    """The stand-in for ImageNet weights on `mini`: a ResNet18 of other synthetic classes, trained once and cached.

    A state dict, safetensors in torchvision's names, with a head for the classes of its training.
    """
    path = data_dir() / f"mini-pretrained-{hashlib.sha256(STAND_IN.encode()).hexdigest()[:8]}.safetensors"
    with locked(path.with_suffix(".lock")):  # jobs that need it wait for the first of them
        if not path.is_file():
            print("weights = 'mini': a stand-in for ImageNet's is trained, once")
            atomic_write(path, save(train_stand_in()))
    return path


def train_stand_in() -> dict[str, Tensor]:
    """Train on `mini-pretrain`, SGD with a one-cycle learning rate; the same state dict every time on one machine."""
    data = pack(make_dataset(PRETRAIN, data_dir()), PRETRAIN, PRETRAIN.folder)
    images, labels, flip = data.train.images, data.train.labels, Augmentation(flip=True)
    loader = ImageLoader(images, labels, BATCH_SIZE, shuffle=True, augmentation=flip, input_size=SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("resnet18", len(data.classes))
    use_small_map_conv(model)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        for batch in loader.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
            schedule.step()
    return model.state_dict()
