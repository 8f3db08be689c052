"""The metrics of one pass against computations by hand in NumPy; what is said where memory runs out."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from tinyclf.training.evaluate import Evaluation, enough_memory
from tinyclf.utils.errors import TinyclfError

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
    by_class = [(ranked[labels == target, 0] == target).mean() for target in range(CLASSES - 1)]
    assert evaluation.class_accuracy.tolist() == pytest.approx([*by_class, np.nan], abs=1e-12, nan_ok=True)


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


def test_out_of_memory_says_which_batch_size_to_try_and_other_errors_pass():
    on_a_mac = RuntimeError("MPS backend out of memory (MPS allocated: 8.50 GB, max allowed: 9.07 GB)")
    for error in (torch.OutOfMemoryError("CUDA out of memory"), on_a_mac, MemoryError()):
        with pytest.raises(TinyclfError, match=r"batches of 100 images: try batch_size = 50"), enough_memory(100):
            raise error
    with pytest.raises(TinyclfError, match="out of memory"), enough_memory(100):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(100):
        raise RuntimeError("shapes do not match")
