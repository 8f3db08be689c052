"""The metrics of one pass against scikit-learn-like computations by hand in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from tinyclf.data.loader import ImageLoader
from tinyclf.training.evaluate import Evaluation, evaluate

COUNT, CLASSES = 500, 7


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES - 1, COUNT)  # the last class has no image
    logits = rng.normal(0, 2, (COUNT, CLASSES)).astype(np.float32)
    logits[np.arange(COUNT), labels] += 2
    return Evaluation(torch.from_numpy(logits), torch.from_numpy(labels)), logits, labels


def test_accuracies_loss_and_confusions_are_those_counted_by_hand(made):
    evaluation, logits, labels = made
    ranked = np.argsort(-logits, axis=1)
    assert evaluation.top1 == (ranked[:, 0] == labels).mean()
    assert evaluation.top5 == (ranked[:, :5] == labels[:, None]).any(1).mean()
    logarithm = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    assert evaluation.loss == pytest.approx(-logarithm[np.arange(COUNT), labels].mean(), abs=1e-6)
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, ranked[:, 0]), 1)
    assert evaluation.confusion.tolist() == confusion.tolist()
    for target in range(CLASSES - 1):
        accuracy = (ranked[labels == target, 0] == target).mean()
        assert evaluation.class_accuracy[target].item() == pytest.approx(accuracy, abs=1e-12)
    assert evaluation.class_accuracy[-1].isnan()


def test_the_bins_of_the_reliability_diagram_make_up_the_calibration_error(made):
    evaluation, logits, labels = made
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    rows = evaluation.reliability
    for lower, upper, images, sure, accuracy in rows:
        within = (confidence >= lower) & (confidence < upper)
        assert images == within.sum() and accuracy == right[within].mean()
        assert sure == pytest.approx(confidence[within].mean())
    assert sum(images for _, _, images, *_ in rows) == len(labels) and len(rows) > 3
    expected = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels), CLASSES, 15)
    assert evaluation.calibration_error == pytest.approx(expected.item(), abs=1e-6) and expected > 0.01


def test_mistakes_are_the_wrong_ones_the_most_confident_first(made):
    evaluation, logits, labels = made
    confidence, found = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1), logits.argmax(1)
    wrong = [row for row in np.argsort(-confidence, kind="stable") if found[row] != labels[row]]
    for count in (3, len(labels)):
        rows = evaluation.mistakes(count)
        assert [row[:3] for row in rows] == [(row, labels[row], found[row]) for row in wrong[:count]]
    assert [row[3] for row in rows] == pytest.approx(confidence[wrong])
    perfect = Evaluation(torch.eye(3), torch.arange(3))
    assert perfect.top5 == 1  # of fewer than five classes, all are among the likeliest
    assert perfect.mistakes(5) == [] and perfect.reliability[0][4] == 1


def test_one_pass_sees_each_image_once_whatever_the_batch():
    rng = np.random.default_rng(0)
    images, labels, calls = rng.integers(0, 256, (23, 64, 64, 3), dtype=np.uint8), np.arange(23) % 4, []
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 4))
    model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    expected = evaluate(model, ImageLoader(images, labels, 23))
    for size in (1, 5, 22, 24):
        calls.clear()
        found = evaluate(model, ImageLoader(images, labels, size))
        assert sum(calls) == 23 and calls[0] == min(size, 23)
        torch.testing.assert_close(found.logits, expected.logits)
        assert found.summary() == pytest.approx(expected.summary(), abs=1e-6)
