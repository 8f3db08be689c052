"""torchvision's classification models for any number of classes, and the surgery on ResNets for small images."""

from torch import nn
from torchvision import models

from tinyclf.checks import one_of
from tinyclf.choices import STEMS
from tinyclf.errors import TinyclfError

# Both have auxiliary heads, for training alone, and pretrained weights that expect another normalization than all other
# models: with `transform_input` they take images normalized like theirs.
INCEPTIONS = ("googlenet", "inception_v3")


def build_model(name: str, num_classes: int, *, stem: str = "imagenet", zero_init: bool = False) -> nn.Module:
    """torchvision's model `name`: images float32 (B, 3, H, W) in, logits float32 (B, num_classes) out.

    Its weights are torchvision's random initialization, from torch's global generator. stem: see `change_stem`.
    zero_init: the last norm of each block of a ResNet starts at 0, so that the block starts as the identity.

    Raises TinyclfError for an unknown name, and for a stem or zero_init that the model has not.
    Source: the surgery on ResNets is that of the open project Tiny-ImageNet-Classifier.
    """
    one_of("model", name, tuple(models.list_models(module=models)))
    options = {}
    if zero_init:
        if models.get_model_builder(name).__module__ != models.resnet.__name__:
            raise TinyclfError(f"zero_init = True: only ResNets have it, and the model is {name!r}")
        options = {"zero_init_residual": True}
    if name in INCEPTIONS:
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    model: nn.Module = models.get_model(name, num_classes=num_classes, **options)
    if isinstance(model, models.ResNet):
        model.avgpool = nn.AdaptiveAvgPool2d(1)
    change_stem(model, stem)
    return model


def change_stem(model: nn.Module, stem: str) -> None:
    """Give a ResNet another stem, in place, with random weights.

    stem: `imagenet` (7x7, stride 2, then max pool; the model keeps it), `small` (3x3, stride 1, with a bias, no pool)
    or `small-pool` (the same with a max pool of stride 1, as the pretrained layers behind it expect maxima).
    Raises TinyclfError for an unknown stem, and for a model that is no torchvision ResNet.
    """
    one_of("stem", stem, STEMS)
    if stem == "imagenet":
        return
    if not isinstance(model, models.ResNet):
        raise TinyclfError(f"stem = {stem!r}: only torchvision's ResNets can have it, not {type(model).__name__}")
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, kernel_size=3, stride=1, padding=1)
    model.maxpool = nn.Identity() if stem == "small" else nn.MaxPool2d(kernel_size=3, stride=1, padding=1)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The tensors whose shapes depend on the number of classes: those of the last convolution or linear layer."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    return tuple(name for name in model.state_dict() if name.startswith(f"{layers[-1]}."))
