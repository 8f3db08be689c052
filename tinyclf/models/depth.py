"""Growing depth: a ResNet that trains with the first block of each stage alone, and later with all of them."""

import copy
from itertools import islice

from torch import Tensor, nn

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Stage(nn.Sequential):
    """A stage of a ResNet, of which the first `active` blocks run."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.active = len(blocks)

    def _get_name(self) -> str:
        return "Sequential"  # so that the model prints as torchvision's: it has the same layers

    def forward(self, input: Tensor) -> Tensor:
        for block in islice(self, self.active):
            input = block(input)
        return input


class GrowingDepth:
    """Makes `model` shallow for its first training steps: one block of each stage runs, and then all.

    Call it before each step with the number of steps before that one. The blocks that join must start as the identity,
    as `zero_init` has them: then they change nothing when they join, nor in a validation before.
    """

    def __init__(self, model: nn.Module, shallow_steps: int) -> None:
        self.shallow_steps = shallow_steps
        self.stages = [Stage(*getattr(model, name)) for name in STAGES]
        for name, stage in zip(STAGES, self.stages, strict=True):
            setattr(model, name, stage)

    def __call__(self, step: int) -> None:
        for stage in self.stages:
            stage.active = 1 if step < self.shallow_steps else len(stage)


def shallow_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` of which the first block of each `Stage` runs alone."""
    model = copy.deepcopy(model)
    for stage in model.modules():
        if isinstance(stage, Stage):
            stage.active = 1
    return model
