"""The metrics of a model on a split, from one pass over it: accuracy, loss, calibration and confusions.

And what any pass needs: how far it is, what is said where memory runs out or a loss is not finite.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from types import SimpleNamespace

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from tqdm import tqdm

from tinyclf.data.loader import Batch, ImageLoader
from tinyclf.training.device import autocast, this_process
from tinyclf.utils.errors import TinyclfError

WIDTH = 79  # of a bar
NO_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")  # GPUs, a CPU, cuDNN and cuBLAS say
BINS = 15  # of confidence, in the calibration error: as usual since Guo et al. 2017, arXiv:1706.04599


class Evaluation:
    """The metrics of one pass, computed when asked for. Accuracies are in 0..1, losses in nats.

    logits: float32 (N, classes); labels: int64 (N,).
    """

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.logits, self.labels, self.classes = logits, labels, logits.shape[1]
        self.losses = nn.functional.cross_entropy(logits, labels, reduction="none")  # float32 (N,)

    @property
    def loss(self) -> float:
        """Mean cross-entropy over images."""
        return self.losses.double().mean().item()

    @property
    def top1(self) -> float:
        """The share of images whose most probable class is the right one."""
        return (self.logits.argmax(1) == self.labels).double().mean().item()

    @property
    def top5(self) -> float:
        """The share of images whose right class is among the five most probable."""
        likeliest = self.logits.topk(min(5, self.classes)).indices
        return (likeliest == self.labels[:, None]).any(1).double().mean().item()

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (l1) over BINS bins of equal width: 0 where confidence equals accuracy."""
        gaps = (images * abs(accuracy - sure) for _, _, images, sure, accuracy in self.reliability)
        return sum(gaps) / len(self.labels)

    @cached_property
    def predictions(self) -> tuple[Tensor, Tensor]:
        """The probability of each image's most probable class, float32 (N,), and that class, int64 (N,)."""
        confidence, predicted = self.logits.softmax(1).max(1)
        return confidence, predicted

    @property
    def reliability(self) -> list[tuple[float, float, int, float, float]]:
        """A row for each bin of confidence that holds images: lower and upper end, images, confidence, accuracy.

        The last two are means over the images. The calibration error is made of these.
        """
        confidence, right = self.predictions[0].double(), (self.predictions[1] == self.labels).double()
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        rows = []
        for number in bins.unique().tolist():
            inside = bins == number
            means = confidence[inside].mean().item(), right[inside].mean().item()
            rows.append((number / BINS, (number + 1) / BINS, int(inside.sum()), *means))
        return rows

    def mistakes(self, count: int) -> list[tuple[int, int, int, float]]:
        """The `count` most confident mistakes: position of the image, its label, the predicted class, confidence."""
        confidence, predicted = self.predictions
        wrong = (predicted != self.labels).nonzero()[:, 0]
        worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
        columns = (worst, self.labels[worst], predicted[worst], confidence[worst])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @cached_property
    def confusion(self) -> Tensor:
        """How many images of each class were predicted as which: int64 (classes, classes), the true ones in rows."""
        pairs = self.labels * self.classes + self.logits.argmax(1)
        return pairs.bincount(minlength=self.classes**2).view(self.classes, self.classes)

    @property
    def class_accuracy(self) -> Tensor:
        """Top-1 accuracy of each class: float64 (classes,); NaN for one that has no image."""
        confusion = self.confusion.double()
        return confusion.diag() / confusion.sum(1)

    def summary(self) -> dict[str, float]:
        """The single figures by name."""
        return {name: getattr(self, name) for name in ("top1", "top5", "loss", "calibration_error")}


def evaluate(
    model: nn.Module, loader: ImageLoader, epoch: int = 0, *, precision: str = "fp32", flip_tta: bool = False
) -> Evaluation:
    """One pass of `model` over all images of `loader`, each counted once however many processes share them.

    flip_tta: take the mean of the logits of each image and of its mirror image (test-time augmentation).
    epoch: how many the model was trained for; the TinyclfError for a loss that is not finite names it.
    """
    name = f"epoch {epoch} validation"
    logits = predict_logits(model, loader, name, precision, flip_tta=flip_tta)
    if loader.parts > 1:
        logits = reduce(logits, "sum")  # zeros wherever another process counts, so that the sum is exact
    # On the host: a Mac's GPU has no float64, and the metrics of a run are then those of a CPU.
    evaluation = Evaluation(logits.cpu(), loader.labels.cpu())
    refuse_non_finite(evaluation.losses, name, len(loader), loader.batch_size)
    return evaluation


@torch.no_grad()
def predict_logits(
    model: nn.Module, loader: ImageLoader, name: str, precision: str, *, flip_tta: bool = False
) -> Tensor:
    """The logits of all images, float32 (N, classes), on their device; zeros for the part of another process.

    name: what a progress bar calls it. loader: one that neither shuffles nor augments.
    """
    model.eval().to(memory_format=torch.channels_last)
    all_logits, slices = torch.empty(0), loader.slices()
    for batch in progress(loader.epoch(), name, len(loader)):
        with autocast(precision, loader.device):
            logits = model(batch.images).float()
            if flip_tta:
                logits = (logits + model(batch.images.flip(3)).float()) / 2
        if not len(all_logits):  # in one tensor from the first batch on: see `Training.train_epoch`
            all_logits = torch.zeros((len(loader.labels), logits.shape[1]), device=loader.device)
        all_logits[next(slices)] = logits
    return all_logits


def progress(batches: Iterable[Batch], name: str, total: int) -> Iterator[Batch]:
    """`batches`, `total` of them, with a bar on a terminal that disappears when the loop ends.

    Elsewhere (in a notebook, in a log) the bar is drawn every half minute, over the one before.
    """
    every = 0.2 if sys.stdout and not sys.stdout.closed and sys.stdout.isatty() else 30
    screen = SimpleNamespace(write=partial(say, end=""), flush=lambda: None)
    times = {"mininterval": every, "maxinterval": every, "delay": every}
    return iter(tqdm(batches, name, total, leave=False, file=screen, ncols=WIDTH, ascii=False, **times))


def say(text: str, end: str = "\n") -> None:
    """Print a line, in the first process alone. A stream that is closed, full or gone is no reason to end a run."""
    with suppress(OSError, ValueError):
        if this_process().is_main_process:
            print(text, end=end, flush=True)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a TinyclfError that says which batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in NO_MEMORY):
            raise
        raise TinyclfError(
            f"out of memory with batches of {batch_size} images: try batch_size = {max(2, batch_size // 2)}"
        ) from error


def refuse_non_finite(losses: Tensor, name: str, steps: int, per_step: int = 1, rate: float | None = None) -> None:
    """Raise TinyclfError at the first loss that is NaN or infinite.

    losses: those of a pass from its first step on, `per_step` for a step. name: which pass it is, of how many steps.
    rate: the learning rate of a training pass.
    """
    wrong = (~torch.isfinite(losses)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        learning_rate = "" if rate is None else f", learning rate {rate:g}"
        raise TinyclfError(
            f"the loss became {losses[first].item()} at {name} step {first // per_step + 1} of {steps}{learning_rate}: "
            "lower the learning rate, or check the data and the initial weights"
        )
