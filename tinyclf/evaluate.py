"""What a model is worth on a split, from one pass over it: accuracy, loss, calibration and confusions."""

from functools import cached_property

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_stat_scores,
)

from tinyclf.loader import NOTHING, ImageLoader
from tinyclf.errors import TinyclfError
from tinyclf.precision import precisely, refuse_non_finite
from tinyclf.progress import progress

BINS = 15  # of confidence, in the calibration error: as usual since Guo et al. 2017, arXiv:1706.04599


class Evaluation:
    """The metrics of one pass, computed by torchmetrics when asked for. Accuracies are in 0..1, losses in nats.

    logits: float32 (N, classes); labels: int64 (N,).
    """

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.logits, self.labels, self.classes = logits, labels, logits.shape[1]
        self.losses = cross_entropy(logits, labels, reduction="none")  # float32 (N,)

    @property
    def loss(self) -> float:
        """Mean cross-entropy over images."""
        return self.losses.double().mean().item()

    @property
    def top1(self) -> float:
        """The share of images whose likeliest class is the right one."""
        return self._accuracy(1)

    @property
    def top5(self) -> float:
        """The share of images whose right class is among the five likeliest."""
        return self._accuracy(min(5, self.classes))

    def _accuracy(self, among: int) -> float:
        scores = multiclass_stat_scores(self.logits, self.labels, self.classes, "micro", among, validate_args=False)
        right, *_, images = scores.tolist()  # counts, as torchmetrics' own ratio would be rounded to 7 digits
        return float(right / images)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (l1) over BINS bins of equal width: 0 where confidence equals accuracy."""
        return multiclass_calibration_error(self.logits.softmax(1), self.labels, self.classes, BINS).item()

    @cached_property
    def likeliest(self) -> tuple[Tensor, Tensor]:
        """Of each image the probability of its likeliest class, float32 (N,), and that class, int64 (N,)."""
        confidence, found = self.logits.softmax(1).max(1)
        return confidence, found

    @property
    def reliability(self) -> list[tuple[float, float, int, float, float]]:
        """Of each of BINS bins of confidence that holds images: lower and upper end, images, confidence, accuracy.

        The last two are means over the images. What the calibration error sums up.
        """
        confidence, right = self.likeliest[0].double(), (self.likeliest[1] == self.labels).double()
        places = (confidence * BINS).long().clamp(max=BINS - 1)
        rows = []
        for place in places.unique().tolist():
            inside = places == place
            means = confidence[inside].mean().item(), right[inside].mean().item()
            rows.append((place / BINS, (place + 1) / BINS, int(inside.sum()), *means))
        return rows

    def mistakes(self, count: int) -> list[tuple[int, int, int, float]]:
        """The `count` most confident mistakes: position of the image, its label, what it was taken for, confidence."""
        confidence, found = self.likeliest
        wrong = (found != self.labels).nonzero()[:, 0]
        worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
        columns = (worst, self.labels[worst], found[worst], confidence[worst])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @cached_property
    def confusion(self) -> Tensor:
        """How many images of each class were taken for which: int64 (classes, classes), the true ones in rows."""
        return multiclass_confusion_matrix(self.logits, self.labels, self.classes, validate_args=False)

    @property
    def class_accuracy(self) -> Tensor:
        """Top-1 accuracy of each class: float64 (classes,); NaN for one that has no image."""
        confusion = self.confusion.double()
        return confusion.diag() / confusion.sum(1)

    def summary(self) -> dict[str, float]:
        """The single figures by name."""
        return {name: getattr(self, name) for name in ("top1", "top5", "loss", "calibration_error")}


def evaluate(
    model: nn.Module,
    batches: ImageLoader,
    epoch: int = 0,
    *,
    precision: str = "fp32",
    mirrored: bool = False,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """One pass of `model` over all images of `batches`, each counted once however many processes share them.

    mirrored: take the mean of the logits of each image and of its mirror image.
    epoch: the one that the model was trained for, to be named in the TinyclfError raised if the loss is not finite.
    """
    name = f"epoch {epoch} validation"
    logits = logits_of(model, batches, name, precision, mirrored=mirrored)
    if accelerator is not None and batches.parts > 1:
        logits = accelerator.reduce(logits)  # zeros wherever another process counts, so that the sum is exact
    evaluation = Evaluation(logits, batches.labels)
    refuse_non_finite(evaluation.losses, name, len(batches), batches.batch_size)
    return evaluation


@torch.no_grad()
def logits_of(model: nn.Module, batches: ImageLoader, name: str, precision: str, *, mirrored: bool = False) -> Tensor:
    """The logits of all images, float32 (N, classes), on their device; zeros for another process's part of them.

    name: what a progress bar calls it. Raises TinyclfError for batches that are shuffled or augmented.
    """
    if batches.shuffle or batches.augmentation != NOTHING:
        raise TinyclfError("evaluation takes images in their order and as they are, not shuffled nor augmented")
    model.eval().to(memory_format=torch.channels_last)
    logits, places = torch.empty(0), batches.indices()
    for batch in progress(batches.epoch(), name, len(batches)):
        with precisely(precision, batches.device):
            found = model(batch.images).float()
            if mirrored:
                found = (found + model(batch.images.flip(3)).float()) / 2
        if not len(logits):  # in one tensor from the first batch on: see `training.train_epoch`
            logits = torch.zeros((len(batches.labels), found.shape[1]), device=batches.device)
        logits[next(places)] = found
    return logits
