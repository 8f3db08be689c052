"""The rule by which a result counts as reproduced, held to the formulas of a textbook and to cases made by hand."""

import math

import numpy as np
import pytest

from tinyclf.report.verdict import Verdict, difference_interval, interval, judge, order, verdict


@pytest.mark.parametrize(("hits", "images"), [(2594, 10_000), (0, 200), (200, 200)])
def test_the_interval_ends_where_the_accuracy_would_be_two_standard_errors_away(hits, images):
    accuracy, ends = hits / images, interval(hits / images, images)
    for end in ends:  # the definition of Wilson's interval; an end at 0 or 1 is the accuracy itself
        assert abs(accuracy - end) == pytest.approx(1.96 * math.sqrt(max(0, end * (1 - end)) / images), abs=1e-9)
    assert -1e-12 <= ends[0] <= accuracy <= ends[1] + 1e-12 and ends[0] < ends[1] <= 1 + 1e-12


def test_the_interval_of_a_difference_is_that_of_two_samples():
    draw = np.random.default_rng(0).binomial
    differences = draw(1000, 0.3, 400_000) / 1000 - draw(10_000, 0.25, 400_000) / 10_000
    assert difference_interval(0.3, 0.25, 1000) == pytest.approx(np.quantile(differences, (0.025, 0.975)), abs=4e-4)


def test_one_point_decides_and_an_error_of_reading_comes_on_top():
    ends = {judge(published + sign * 0.01, published) for published in (0.2594, 0.5661, 0.7305) for sign in (-1, 1)}
    assert ends == {"reproduced"}
    assert judge(0.2695, 0.2594) == "above" and judge(0.2493, 0.2594) == "below" and judge(math.nan, 0.5) == ""
    assert judge(0.514, 0.5, reading_error=0.004) == "reproduced" and judge(0.5141, 0.5, reading_error=0.004) == "above"


def test_a_run_is_judged_by_the_published_accuracy_of_its_epoch():
    def judged(dataset, accuracy, epochs, planned=15):
        return tuple(verdict("baseline-scratch-seed-1", dataset, accuracy, epochs, planned))

    assert judged("tiny-imagenet", 0.26, 15) == ("reproduced", "reproduced")
    assert judged("tiny-imagenet", 0.106, 2) == ("reproduced", "2 of 15 epochs so far, as published (9.30%)")
    assert judged("tiny-imagenet", 0.15, 2) == ("above", "2 of 15 epochs so far, above the published 9.30%")
    assert judged("tiny-imagenet", 0.25, 11) == ("", "11 of 15 epochs so far")  # nothing could be read off there
    assert judged("tiny-imagenet", 0.27, 20, 20) == judged("mini", 0.5, 15) == ("", "")


def row(name, accuracy, published, size=0):
    facts = {"experiment": name, "size": size, "accuracy": accuracy, "ranked": published, "val_images": 10_000}
    return facts | {"verdict": Verdict("", "")}


def test_an_order_is_claimed_of_neighbours_that_differ_beyond_two_standard_errors():
    best, rest = row("best", 0.70, 0.73), [row("last", 0.2, 0.15, size=64), row("middle", 0.6, 0.6)]
    claimed = "standard errors: as published: best > middle, middle > last at 64x64."
    assert order([*rest, best])[0].endswith(claimed)
    (told,) = order([*rest, best | {"accuracy": 0.55}])
    assert told.endswith(": middle > last at 64x64; the other way round: best > middle.")
    error = math.sqrt(2 * 0.24 / 10_000)  # of a difference of two shares near 0.6
    for key in ("accuracy", "ranked"):  # ours and the published ones
        near, far = ({key: 0.6 + errors * error} for errors in (1.99, 2.01))
        assert order([*rest, best | near])[0].endswith("; not told apart: best > middle.")
        assert order([*rest, best | far])[0].endswith(claimed)
    assert order([best]) == order([]) == []
