"""The rule by which a result counts as reproduced, held to the formulas of a textbook."""

import math
import subprocess
import sys

import pytest

from tinyclf.report.verdict import interval, judge, verdict

IMAGES = 10_000


@pytest.mark.parametrize(("hits", "images"), [(2594, 10_000), (0, 200), (200, 200), (105, 200)])
def test_the_interval_ends_where_the_accuracy_would_be_two_standard_errors_away(hits, images):
    accuracy, ends = hits / images, interval(hits / images, images)
    for end in ends:  # the definition of Wilson's interval; an end at 0 or 1 is the accuracy itself
        assert abs(accuracy - end) == pytest.approx(1.96 * math.sqrt(max(0, end * (1 - end)) / images), abs=1e-9)
    assert -1e-12 <= ends[0] <= accuracy <= ends[1] + 1e-12 and ends[0] < ends[1] <= 1 + 1e-12


def test_two_standard_errors_of_both_samples_decide():
    error = math.sqrt(2 * 0.25 / IMAGES)  # of the difference of two shares near a half
    for sign, kind in ((1, "above"), (-1, "below")):
        assert judge(0.5 + sign * 1.99 * error, 0.5, IMAGES) == "reproduced"
        assert judge(0.5 + sign * 2.01 * error, 0.5, IMAGES) == kind
        assert judge(0.5 + sign * 2.01 * error, 0.5, IMAGES, reading_error=0.004) == "reproduced"
    assert judge(0.52, 0.5, 1000) == "reproduced" and judge(0.52, 0.5, IMAGES) == "above", (
        "of fewer images, less is known"
    )
    assert judge(math.nan, 0.5, IMAGES) == judge(0.5, math.nan, IMAGES) == ""


def judged(name, dataset, accuracy, epochs, planned=15):
    return tuple(verdict(name, dataset, accuracy, epochs, planned, IMAGES))


def test_a_run_is_judged_by_the_published_accuracy_of_its_epoch():
    name, dataset = "baseline-scratch-seed-1", "tiny-imagenet"
    assert judged(name, dataset, 0.26, 15) == ("reproduced", "reproduced")
    assert judged(name, dataset, 0.20, 15) == ("below", "below")
    assert judged(name, dataset, 0.094, 2) == ("reproduced", "2 of 15 epochs so far, as published (9.30%)")
    assert judged(name, dataset, 0.15, 2) == ("above", "2 of 15 epochs so far, above the published 9.30%")
    assert judged(name, dataset, 0.25, 11) == ("", "11 of 15 epochs so far")  # nothing could be read off there
    assert judged(name, dataset, 0.27, 20, 20) == ("", "")
    assert judged(name, "mini", 0.5, 15) == ("", "") and judged(name, "mini", 0.5, 3) == ("", "3 of 15 epochs so far")
    command = "not run yet: `tinyclf run baseline-scratch --dataset tiny-imagenet`"
    assert judged(name, dataset, math.nan, 0) == ("", command)


def test_it_needs_no_torch():
    code = "import sys, tinyclf.report.verdict; assert not {'torch', 'IPython', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
