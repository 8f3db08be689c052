"""Whether an accuracy is the published one: the one rule that pages, tables and README judge by. Imports no torch."""

import math
from itertools import pairwise
from typing import NamedTuple

from tinyclf.data.registry import TINY_IMAGENET
from tinyclf.experiments.names import family
from tinyclf.report.format import percent, pixels
from tinyclf.report.runs import Row, published, published_curve

LIMIT = 0.01  # of a difference that is "reproduced": one point
Z = 1.96  # standard errors on either side of an estimate that make a 95% interval
ERRORS = 2  # standard errors of a difference, beyond which two accuracies are told apart
PUBLISHED_IMAGES = TINY_IMAGENET.classes * TINY_IMAGENET.val


class Verdict(NamedTuple):
    """What a result says of a published one."""

    kind: str  # reproduced, above or below; "" where nothing compares
    text: str  # for a reader; "" where there is a result, whole, and nothing published to judge it by


def interval(accuracy: float, images: float) -> tuple[float, float]:
    """The 95% interval of an accuracy in 0..1 on so many images, by Wilson: within 0..1, and never empty.

    The mean over seeds has that of one seed: all seeds are evaluated on the same images, and more seeds are no more
    images.
    """
    centre, ratio = accuracy + Z**2 / (2 * images), Z**2 / images
    reach = Z * math.sqrt(accuracy * (1 - accuracy) / images + ratio / (4 * images))
    return (centre - reach) / (1 + ratio), (centre + reach) / (1 + ratio)


def difference_error(one: float, other: float, images: float, other_images: float) -> float:
    """The standard error of the difference of two accuracies in 0..1, unpaired, each a binomial share of its images."""
    return math.sqrt(one * (1 - one) / images + other * (1 - other) / other_images)


def difference_interval(accuracy: float, published: float, images: float) -> tuple[float, float]:
    """The 95% interval of an accuracy on so many images less a published one, on all validation images; both in 0..1.

    It is unpaired: the images are the same, but the published project kept no predictions.
    """
    difference = accuracy - published
    reach = Z * difference_error(accuracy, published, images, PUBLISHED_IMAGES)
    return difference - reach, difference + reach


def told_apart(one: float, other: float, images: float, other_images: float) -> bool:
    """Whether two accuracies differ by more than ERRORS standard errors."""
    return abs(one - other) > ERRORS * difference_error(one, other, images, other_images)


def judge(accuracy: float, published: float, reading_error: float = 0.0) -> str:
    """`reproduced` where the two accuracies, in 0..1, differ by at most LIMIT; else `above` or `below`.

    reading_error: of a published accuracy that was read off a figure; it comes on top. Empty where an accuracy is NaN.
    """
    difference = accuracy - published
    if math.isnan(difference):
        return ""
    if abs(difference) <= LIMIT + reading_error + 1e-9:  # a difference of exactly one point has a rounding error
        return "reproduced"
    return "above" if difference > 0 else "below"


def verdict(name: str, dataset: str, accuracy: float, epochs: float, planned: float) -> Verdict:
    """The verdict on a run, or on the mean of runs that differ in their seed alone.

    name: of an experiment or of its run; accuracy: after its last epoch, NaN if it was not run; epochs: that it was
    trained; planned: that it is to be trained. A run that has not reached the published epochs is judged by the
    published curve at its epoch.
    """
    if math.isnan(accuracy):
        return Verdict("", f"not run yet: `tinyclf run {family(name)} --dataset {dataset}`")
    row = published(name, dataset) or {}
    then, total = published_curve(name, dataset, "val_accuracy").get(epochs, math.nan), row.get("epochs", planned)
    kind = judge(accuracy, then, 0 if epochs == total else row.get("reading_error", 0))
    if epochs >= total:
        return Verdict(kind, kind)
    told = f", as published ({percent(then)})" if kind == "reproduced" else f", {kind} the published {percent(then)}"
    return Verdict(kind, f"{epochs:.0f} of {total:.0f} epochs so far{told * bool(kind)}")


def standin(row: Row) -> bool:
    """Whether a row rests on weights that stand in for ImageNet's."""
    return "stand-in" in row["start"]


def reproduction(rows: list[Row]) -> list[str]:
    """How many of the rows with a published accuracy reproduce it, and what the others do: sentences.

    rows: of an accuracy table.
    """
    whole = [row for row in rows if row["whole"] and row["verdict"].kind]
    reproduced = sum(row["verdict"].kind == "reproduced" for row in whole)
    standins, missing = sum(map(standin, rows)), sum(math.isnan(row["accuracy"]) for row in rows)
    first = f"{reproduced} of {len(rows)} published results reproduced within 1 point"
    sentences = [first + f"; {standins} of the {len(rows)} from stand-in weights" * (standins > 0)]
    for row in whole:
        if row["verdict"].kind != "reproduced":
            accuracies = f"{percent(row['accuracy'])}, published {percent(row['published_last'])}"
            sentences.append(f"“{row['title']}” is {row['verdict'].kind}: {accuracies}")
    others = {"not run yet": missing, "with other numbers of epochs than published": len(rows) - len(whole) - missing}
    sentences += [f"{number} {words}" for words, number in others.items() if number]
    return [f"{sentence}." for sentence in sentences]


def order(rows: list[Row]) -> list[str]:
    """Whether neighbours in the published order by the last epoch are in that order: a sentence, or none without two.

    It is claimed of those alone that differ by more than ERRORS standard errors, published and ours. Rows that have no
    accuracy or no published one are passed over.
    """
    claims: dict[str, list[str]] = {claim: [] for claim in ("as published", "the other way round", "not told apart")}
    known = [row for row in rows if row["accuracy"] > 0 and row["ranked"] > 0]
    for better, worse in pairwise(sorted(known, key=lambda row: -row["ranked"])):
        published = told_apart(better["ranked"], worse["ranked"], PUBLISHED_IMAGES, PUBLISHED_IMAGES)
        ours = told_apart(better["accuracy"], worse["accuracy"], better["val_images"], worse["val_images"])
        claim = "as published" if better["accuracy"] > worse["accuracy"] else "the other way round"
        claim = claim if published and ours else "not told apart"
        names = (row["experiment"] + f" at {pixels(row['size'])}" * bool(row["size"]) for row in (better, worse))
        claims[claim].append(" > ".join(names))
    told = "; ".join(f"{claim}: {', '.join(pairs)}" for claim, pairs in claims.items() if pairs)
    start = "Order of neighbours by the last epoch, told apart by more than two standard errors"
    return [f"{start}: {told}."] * bool(told)
