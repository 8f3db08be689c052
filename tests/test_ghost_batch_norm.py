"""Ghost batch norm is what several replicas do: against plain PyTorch, in double precision."""

import copy

import pytest
import torch
from torch import nn
from torchvision import models

from tinyclf.models.ghost_batch_norm import use_ghost_batch_norm

CLASSES = 5


def make(name):
    torch.manual_seed(0)
    model = models.get_model(name, num_classes=CLASSES).double()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.BatchNorm2d):  # or all layers would be alike
            layer.weight.data.uniform_(0.5, 1.5)
            layer.eps = 0.01
    return model.train()


def step_of_replicas(model, images, labels, parts):
    """The loss of a step of as many copies: each with its part of the batch, the gradients summed up in `model`."""
    replicas, losses = [copy.deepcopy(model) for _ in range(parts)], []
    for replica, part, targets in zip(replicas, images.chunk(parts), labels.chunk(parts), strict=True):
        losses.append(nn.functional.cross_entropy(replica(part), targets, reduction="sum") / len(labels))
        losses[-1].backward()
    for parameter, *copies in zip(model.parameters(), *(each.parameters() for each in replicas), strict=True):
        parameter.grad = sum(each.grad for each in copies)
    model.load_state_dict(model.state_dict() | dict(replicas[0].named_buffers()))
    return sum(losses)


@pytest.mark.parametrize(("name", "count", "parts"), [("resnet18", 11, 2), ("mobilenet_v2", 13, 4)])
def test_a_step_is_that_of_replicas(name, count, parts):
    plain, ours = make(name), make(name)
    images, labels = torch.rand(count, 3, 64, 64, dtype=torch.float64), torch.arange(count) % CLASSES
    keys = list(ours.state_dict())
    use_ghost_batch_norm(ours, parts)
    expected = step_of_replicas(plain, images, labels, parts)
    loss = nn.functional.cross_entropy(ours(images), labels)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-10)
    assert list(ours.state_dict()) == keys
    for (key, one), other in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=key)
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), plain.eval()(images))
