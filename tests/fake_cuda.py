"""A GPU where there is none: torch's FakeTensorMode has tensors of device `cuda`, which hold nothing.

`train_and_evaluate` runs the epoch and the evaluation of settings with them. Within an epoch it raises Fault for what
mixes devices, for what copies between the host and the device or waits for a value, and for images, activations and
weights that are not channels last. Backward passes are not run, as the autograd engine asks the driver for the GPU:
gradients are empty tensors.
"""

import contextlib
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyclf.data import loader as loader_module
from tinyclf.data import resize
from tinyclf.data.packed import Packed, PackedSplit
from tinyclf.experiments.recipe import recipe_for, train_loader, untrained_model, val_loader
from tinyclf.models.depth import Stage
from tinyclf.training import evaluate, loop
from tinyclf.training.checkpoint import TrainingState
from tinyclf.training.loop import Plan, Training

CUDA = torch.device("cuda", 0)
CLASSES, IMAGES = 10, 16
IN_PLACE = ("aten::_fused_sgd_", "aten::_amp_update_scale_")  # they compute nothing new, and have no fake kernels


class Fault(AssertionError):
    """What would be wrong, or slow, on a GPU."""


class Watch(TorchDispatchMode):
    """Raises Fault for operations that mix devices, and within an epoch for those that wait or copy."""

    def __init__(self, float64):
        super().__init__()
        self.within, self.float64 = False, float64

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, inputs = func._schema.name, tensors((args, kwargs))
        # A number is a tensor too, and travels with the call
        devices = {each.device.type for each in inputs if each.ndim or each.device.type != "cpu"}
        if len(devices) > 1:
            raise Fault(f"{name} mixes devices")
        if name in IN_PLACE:
            return args[0] if name == "aten::_amp_update_scale_" else None
        if name == "aten::_local_scalar_dense" and (devices <= {"cpu"} or not self.within):
            return 1  # read on the host, or where the sums of an epoch are, at its end
        try:
            result = func(*args, **kwargs or {})
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Fault(f"{name} waits for a value") from error
        results = tensors(result)
        if not self.float64 and any(each.is_cuda and each.dtype == torch.float64 for each in results):
            raise Fault(f"{name} gives float64, which a Mac's GPU does not have")
        if self.within and len(devices | {each.device.type for each in results if each.ndim}) > 1:
            raise Fault(f"{name} copies between host and device")
        if (
            self.within
            and name in ("aten::index", "aten::index_put_")
            and any(e.dtype == torch.bool for e in inputs[1:])
        ):
            raise Fault(f"{name} by a mask waits for how many are chosen")
        return result

    def steps(self, items, *_):
        """In place of a progress bar: what is asked of the device from the first batch on, to the last one."""
        for item in items:
            self.within = True
            yield item
        self.within = False


def tensors(values):
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


class Moves:
    """`nn.Module.to` with new tensors: torch would swap those of a module, which it cannot do with fakes."""

    def __init__(self):
        self.moved = {}

    def to(self, module, device=None, *, memory_format=None):
        for kept in (each for part in module.modules() for each in (part._parameters, part._buffers)):
            for name, old in kept.items():
                if old is not None:
                    kept[name] = self.moved.setdefault(id(old), (old, self.new(old, device, memory_format)))[1]
        return module

    def new(self, old, device, memory_format):
        with torch.no_grad():
            value = old if device is None else old.to(device)
            value = value.to(memory_format=memory_format) if memory_format and value.ndim == 4 else value
        if value is old or not isinstance(old, nn.Parameter):
            return value
        return nn.Parameter(value, old.requires_grad)

    def newest(self, old):
        while id(old) in self.moved and self.moved[id(old)][1] is not old:
            old = self.moved[id(old)][1]
        return old


@contextlib.contextmanager
def fake_cuda(capability=(9, 0)):
    """Tensors can be on `cuda` within, and hold nothing; yields the moves of modules."""
    moves, caches = Moves(), (resize.weights, resize.taps)
    for cached in caches:
        cached.cache_clear()
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        mock.patch("torch.cuda.get_device_capability", lambda *_: capability),
        mock.patch("torch.cuda.get_device_name", lambda *_: "A fake GPU"),
        mock.patch.object(nn.Module, "to", lambda module, *args, **kwargs: moves.to(module, *args, **kwargs)),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        try:
            yield moves
        finally:
            for cached in caches:
                cached.cache_clear()


def channels_last(tensor):
    return tensor.ndim != 4 or tensor.is_contiguous(memory_format=torch.channels_last)


def refuse_other_layouts(model, precision):
    """Let each convolution raise Fault for an input, a weight or an output that is not channels last."""

    def check(layer, inputs, output):
        # In low precision torch asks the GPU whether cuDNN can, and without one its output has another layout
        checked = {"weight": layer.weight} | ({"input": inputs[0], "output": output} if precision in EXACT else {})
        for name, tensor in checked.items():
            if not channels_last(tensor):
                raise Fault(f"the {name} of {layer} is not channels last")

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(check)


EXACT = ("fp32", "tf32")


def data():
    splits = [PackedSplit(np.zeros((IMAGES, 64, 64, 3), np.uint8), np.arange(IMAGES) % CLASSES) for _ in range(2)]
    names = [str(number) for number in range(CLASSES)]
    return Packed("mini", names, names, "fingerprint", *splits)


def train_and_evaluate(settings, change=lambda state: None, float64=True):
    """Train for an epoch, of two steps with batches of 8, and evaluate, on a fake GPU.

    change: is called with the state before. float64: whether the GPU has it; a Mac's has not.
    Raises Fault. Returns the checks of the loss that were made, by name of the pass.
    """
    watch, checks = Watch(float64), Counter()
    process = SimpleNamespace(device=CUDA, num_processes=1, process_index=0)  # what is asked of an Accelerator
    model = untrained_model(settings, CLASSES)
    recipe = recipe_for(model, settings, IMAGES)
    if recipe.before_step:
        recipe.before_step.shallow_steps = 1  # and in the second step all blocks run
    state = TrainingState(model, recipe.optimizer, recipe.scheduler, recipe.ema)
    with fake_cuda() as moves, watched(watch, checks, model):
        state.scaler = torch.amp.GradScaler("cuda") if settings.precision == "fp16" else None
        plan = Plan(1, recipe.scheduler_interval, recipe.before_step, settings.precision)
        train, val = train_loader(data(), settings, process), val_loader(data(), settings, process)
        val.batch_size = 8  # more than one of them
        training = Training(state, recipe.criterion, train, val, plan, process)
        for group in state.optimizer.param_groups:
            group["params"] = [moves.newest(parameter) for parameter in group["params"]]
        refuse_other_layouts(model, settings.precision)
        change(state)
        with watch:
            training.train_epoch(1)
            for flip_tta in {False, settings.flip_tta}:
                evaluate.evaluate(state.trained_model, val, 1, precision=settings.precision, flip_tta=flip_tta)
        states = [each for values in state.optimizer.state.values() for each in tensors(values)]
        if any(each.device != CUDA or not channels_last(each) for each in states):
            raise Fault("the optimizer's state is elsewhere, or not channels last")
    return checks


def blocks_left_out(stage):
    """The parameters of the blocks of a stage that do not run."""
    active = len(stage) if stage.active is None else stage.active
    return [value for block in list(stage)[active:] for value in block.parameters()]


@contextlib.contextmanager
def watched(watch, checks, model):
    """Has `watch` told of steps, counts in `checks` those of the loss, and puts empty gradients for backward passes."""

    def look(losses, name, *_, **__):
        checks[name] += 1

    def backward(loss, gradient):
        if {loss.device, gradient.device} != {CUDA}:
            raise Fault("the loss is not on the GPU")
        stages = [stage for stage in model.modules() if isinstance(stage, Stage)]
        left_out = {id(value) for stage in stages for value in blocks_left_out(stage)}
        for parameter in model.parameters():
            parameter.grad = None if id(parameter) in left_out else torch.empty_like(parameter)

    with contextlib.ExitStack() as stack:
        for module in (loop, evaluate):
            stack.enter_context(mock.patch.object(module, "refuse_non_finite", look))
            stack.enter_context(mock.patch.object(module, "progress", watch.steps))
        for module in (loop, resize):
            has = mock.patch.object(module, "has_float64", lambda device: watch.float64 or device.type == "cpu")
            stack.enter_context(has)
        stack.enter_context(mock.patch.object(loader_module, "AHEAD", 0))  # each batch on its own, within the epoch
        stack.enter_context(mock.patch.object(Tensor, "backward", backward))
        yield
