"""Growing depth: a ResNet that trains with the first block of each stage alone, and later with all of them."""

from itertools import islice

from torch import Tensor, nn

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Stage(nn.Sequential):
    """A stage of a ResNet, of which the first `active` blocks run; None: all of them."""

    active: int | None = None

    def _get_name(self) -> str:
        return "Sequential"  # so that the model prints as torchvision's: it has the same layers

    def forward(self, input: Tensor) -> Tensor:
        for block in islice(self, self.active):
            input = block(input)
        return input


class GrowingDepth:
    """Makes a ResNet shallow for its first training steps: one block of each stage runs, and then all.

    Call it before each step with the number of steps before that one. The blocks that join must start as the identity,
    as `zero_init` has them: then they change nothing when they join, nor in a validation before.
    """

    def __init__(self, model: nn.Module, shallow_steps: int) -> None:
        self.shallow_steps, self._model = shallow_steps, model
        for name in STAGES:
            setattr(model, name, Stage(*getattr(model, name)))

    def __call__(self, step: int) -> None:
        set_depth(self._model, 1 if step < self.shallow_steps else None)


def set_depth(model: nn.Module, blocks: int | None) -> None:
    """Have the first `blocks` of each `Stage` run, or all."""
    for stage in model.modules():
        if isinstance(stage, Stage):
            stage.active = blocks
