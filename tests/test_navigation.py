"""The pages of runs lead to the previous one, to the next one and to the front page, whatever was made when."""

import re

import pytest
from records import leave, planned

from tinyclf.report.navigation import connect

PAGE = "<body><nav>old</nav><main>&nbsp;\\1 <nav>not this</nav></main></body>"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini"


def add(folder, run, settings):
    leave(run, settings)
    (folder / run / "index.html").write_text(PAGE)
    connect(folder, run)


def links(folder, run):
    nav, *rest = re.findall(r"<nav>(.*?)</nav>", (folder / run / "index.html").read_text(), re.DOTALL)
    assert rest == ["not this"] and "\\1" in (folder / run / "index.html").read_text()
    return re.findall(r'href="(.*?)"', nav)


def test_pages_are_linked_in_the_order_of_the_experiments_whatever_was_made_first(folder):
    add(folder, "my-own", planned("baseline-scratch"))
    add(folder, "baseline-imagenet", planned("baseline-imagenet"))
    add(folder, "baseline-scratch-seed-1", planned("baseline-scratch", seed=1))
    add(folder, "baseline-scratch", planned("baseline-scratch"))
    front, order = "../index.html", ["baseline-scratch", "baseline-scratch-seed-1", "baseline-imagenet", "my-own"]
    pages = [f"../{run}/index.html" for run in order]
    assert links(folder, order[0]) == [front, pages[1]]
    assert links(folder, order[1]) == [pages[0], front, pages[2]]
    assert links(folder, order[2]) == [pages[1], front, pages[3]]
    assert links(folder, order[3]) == [pages[2], front]
    assert "Step 1: baseline from scratch, seed 1" in (folder / order[0] / "index.html").read_text()


def test_a_page_of_no_run_and_a_run_without_a_page_are_no_neighbours(folder):
    leave("baseline-imagenet", planned("baseline-imagenet"))
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "index.html").write_text(PAGE)
    connect(folder, "data")
    add(folder, "baseline-scratch", planned("baseline-scratch"))
    assert links(folder, "baseline-scratch") == ["../index.html"]
    assert (folder / "data" / "index.html").read_text() == PAGE
