"""Whether an accuracy is the published one: the one rule that pages, tables and README judge by. Imports no torch."""

import math
from typing import NamedTuple

from tinyclf.data.registry import TINY_IMAGENET
from tinyclf.experiments.names import family
from tinyclf.report.format import percent
from tinyclf.report.published import published, published_at

Z = 1.96  # standard errors on either side of an estimate that make a 95% interval
PUBLISHED_IMAGES = TINY_IMAGENET.classes * TINY_IMAGENET.val
ERRORS = 2  # standard errors of a difference, within which it is "reproduced"

SO_FAR = {
    "": "",
    "reproduced": ", as published ({})",
    "above": ", above the published {}",
    "below": ", below the published {}",
}


class Verdict(NamedTuple):
    """What a result says of a published one."""

    kind: str  # reproduced, above or below; "" where nothing compares
    text: str  # for a reader; "" where there is a result, whole, and nothing published to judge it by


def standard_error(accuracy: float, images: float) -> float:
    """Of an accuracy in 0..1 on so many images: that of a binomial share."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def interval(accuracy: float, images: float) -> tuple[float, float]:
    """The 95% interval of an accuracy in 0..1 on so many images, by Wilson: within 0..1, and never empty.

    The mean over seeds has that of one seed: all seeds are evaluated on the same images, and more seeds are no more
    images.
    """
    centre, ratio = accuracy + Z**2 / (2 * images), Z**2 / images
    reach = Z * math.sqrt(accuracy * (1 - accuracy) / images + ratio / (4 * images))
    return (centre - reach) / (1 + ratio), (centre + reach) / (1 + ratio)


def tolerance(accuracy: float, published: float, images: float, reading_error: float = 0.0) -> float:
    """By how much an accuracy on so many images may differ from a published one to be the same; see `judge`."""
    errors = standard_error(accuracy, images), standard_error(published, PUBLISHED_IMAGES)
    return ERRORS * math.hypot(*errors) + reading_error


def judge(accuracy: float, published: float, images: float, reading_error: float = 0.0) -> str:
    """`reproduced`: the two differ by at most two standard errors of their difference; else `above` or `below`.

    Accuracies lie in 0..1. Each counts as a sample: ours of `images`, the published one of all validation images.
    reading_error: of a published accuracy that was read off a figure; it comes on top. Empty where an accuracy is NaN.
    """
    difference = accuracy - published
    if math.isnan(difference):
        return ""
    if abs(difference) <= tolerance(accuracy, published, images, reading_error):
        return "reproduced"
    return "above" if difference > 0 else "below"


def verdict(name: str, dataset: str, accuracy: float, epochs: float, planned: float, images: float) -> Verdict:
    """The verdict on a run, or on the mean of runs that differ in their seed alone.

    name: of an experiment or of its run; accuracy: after its last epoch, NaN if it was not run; epochs: that it was
    trained; planned: that it is to be trained; images: that it was evaluated on. A run that has not reached its
    planned epochs is judged by the published curve at its epoch.
    """
    if math.isnan(accuracy):
        return Verdict("", f"not run yet: `{command(name, dataset)}`")
    row = published(name, dataset) or {}
    whole = epochs == row.get("epochs", math.nan)
    then = published_at(name, dataset, epochs)
    kind = judge(accuracy, then, images, 0 if whole else row.get("reading_error", 0))
    if epochs < row.get("epochs", planned):
        text = f"{epochs:.0f} of {row.get('epochs', planned):.0f} epochs so far"
        return Verdict(kind, text + SO_FAR[kind].format(percent(then)))
    return Verdict(kind, kind)


def command(name: str, dataset: str) -> str:
    """What runs an experiment on a data set."""
    return f"tinyclf run {family(name)} --dataset {dataset}"
