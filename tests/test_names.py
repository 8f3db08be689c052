"""The names of runs: what can be a folder beside the pages and tables of its data set, and the seed at the end."""

import pytest

from tinyclf.experiments.names import check_name, family, seed_of, with_seed
from tinyclf.utils.errors import TinyclfError


@pytest.mark.parametrize("name", ["baseline-scratch", "fast-scratch.ema", "lr=0.1+flip", "3", "data-2", "a" * 100])
def test_the_name_of_a_folder_is_taken(name):
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "-x", ".x", "a b", "é", "a" * 101, "a\n", "a."),
        *(
            "data",
            "Data",
            "ablations",
            "summary",
            "index.html",
            "README.md",
            "curves.svg",
            "runs.csv",
            "notebook.partial",
            "x.lock",
        ),
    ],
)
def test_what_is_no_folder_or_would_be_that_of_a_page_or_a_table_is_refused(name):
    with pytest.raises(TinyclfError, match=r"^run = "):
        check_name(name)


def test_the_seed_ends_the_name_of_a_run_and_is_read_from_there():
    assert family(with_seed("x", 12)) == "x" and seed_of(with_seed("x", 12)) == 12
    assert family("x-seed-3.y") == "x-seed-3.y" and seed_of("x") is seed_of("x-seed-3.y") is None
