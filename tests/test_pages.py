"""The pages as a reader has them: opened from disk in a browser without a network, wide, narrow and dark."""

import json
import re
import shutil
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from bs4 import BeautifulSoup

from tinyclf import cli
from tinyclf.experiments.catalog import select
from tinyclf.experiments.run import train
from tinyclf.report.accuracy import accuracy_table, answer
from tinyclf.report.notebook import comparison
from tinyclf.utils.paths import PROJECT

CUT_OFF = """() => [...document.querySelectorAll("body *")].filter(each => {
    const box = each.getBoundingClientRect(), scrolls = each.closest(".table, .rendered_html, pre, .code");
    return box.width && !scrolls && (box.right > innerWidth + 1 || box.left < -1);
}).map(each => each.outerHTML.slice(0, 200))"""

# Texts, whatever is folded open, whose colour has too little contrast with what is behind them (WCAG AA).
TOO_FAINT = """() => {
    document.querySelectorAll("details").forEach(each => each.open = true);
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([red, green, blue]) => [red, green, blue].map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, channel) => sum + value * [0.2126, 0.7152, 0.0722][channel], 0);
    const behind = element => {
        for (let one = element; one; one = one.parentElement) {
            const colour = parts(getComputedStyle(one).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
    };
    return [...document.body.querySelectorAll("*")].filter(each =>
        each.getClientRects().length && [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())
    ).map(each => {
        const levels = [light(parts(getComputedStyle(each).color)), light(behind(each))].sort((a, b) => a - b);
        const opacity = Number(getComputedStyle(each).opacity);
        return [(levels[1] + 0.05) / (levels[0] + 0.05) * opacity, each.outerHTML.slice(0, 120)];
    }).filter(([ratio]) => ratio < 4.5);
}"""
# A heading that leaves out a level, one of nothing, a column without a name, a region for the mouse alone, and a toggle
# that stands above the title of its page
WRONG = """() => {
    const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map(each => Number(each.tagName[1]));
    const title = document.querySelector("h1").getBoundingClientRect();
    return [
        ...levels.filter((level, place) => level > (place ? levels[place - 1] : 0) + 1).map(level => `h${level}`),
        ...[...document.querySelectorAll("h1, h2, h3, th")].filter(each => !each.textContent.trim()),
        ...[...document.querySelectorAll(".table")].filter(each => each.tabIndex < 0),
        ...[...document.querySelectorAll("main summary")]
            .filter(each => each.checkVisibility() && each.getBoundingClientRect().top < title.top),
    ].map(each => each.outerHTML ?? each);
}"""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Pages of short runs on mini."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYCLF_REPORTS", str(folder))
        short = {"epochs": 1, "input_size": 16, "batch_size": 100}
        scratch, other, data = select(["baseline-scratch", "data"], "mini", short, seeds=[0, 1])
        cli.run_one_by_one([scratch, data], "tinyclf.report.notebook:run")
        train(other)
        last = [*comparison(["baseline-scratch", "baseline-scratch-seed-1"], "mini"), *select(["summary"], "mini")]
        cli.run_one_by_one(last, "tinyclf.report.notebook:run")
    return folder


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        if not path and not Path(started.chromium.executable_path).is_file():
            pytest.skip("no Chromium: apt-get install chromium, or .venv/bin/playwright install chromium")
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox"])


@contextmanager
def opened(browser, path, width, scheme="light"):
    """A page at a width, and what went wrong while it loaded."""
    page, wrong = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda one: wrong.append(one.url) if not one.url.startswith(("data:", path.as_uri())) else None)
    page.goto(path.as_uri())
    yield page, wrong
    page.close()


def check_text(path):
    html, page = path.read_text(), BeautifulSoup(path.read_text(), "html.parser")
    assert len(html.encode()) < 1.5e6 and "&lt;p" not in html
    assert all(image.get("alt") for image in page.select("img")), "every picture is described"
    names = {each.get("id") or each["name"] for each in page.select("[id], a[name]")}
    for target in targets(page):
        if target.startswith("#"):
            assert target[1:] in names
        elif not target.startswith(("data:", "https://")):  # a link to the web; that nothing is fetched is seen below
            assert "://" not in target and (path.parent / unquote(target).partition("#")[0]).exists(), target


def targets(page):
    """What a page leads to and what it shows."""
    return {each.get("href") or each["src"] for each in page.select("[href], [src]")}


def check(browser, path):
    check_text(path)
    with opened(browser, path, 390) as (page, wrong):
        for width in (390, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            assert wrong == [] and page.evaluate(CUT_OFF) == [] and page.evaluate(WRONG) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_page_opens_whole_from_disk_at_any_width_and_can_be_read_in_light_and_dark(made, browser):
    names = ("index.html", "baseline-scratch/index.html", "data/index.html")
    (compared,) = made.glob("mini/comparisons/*/index.html")
    for path in (compared, *(made / "mini" / name for name in names)):
        check(browser, path)
        for scheme in ("light", "dark"):
            with opened(browser, path, 1440, scheme) as (page, _):
                assert page.evaluate(TOO_FAINT) == []


def test_no_column_of_the_tables_of_results_is_out_of_sight(made, browser):
    for path in (made / "mini/index.html", PROJECT / "reports/tiny-imagenet/ablations/index.html"):
        with opened(browser, path, 390) as (page, _):
            boxes = [cell.bounding_box() for cell in page.locator("table.cards td:visible").all()[:200]]
            assert len(boxes) > 20 and all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)


def test_committed_pages_lead_where_they_say_and_have_no_image_of_the_data_set_or_path_of_a_machine():
    pages = [*(PROJECT / "reports").glob("tiny-imagenet*/**/index.html")]
    assert len(pages) > 20
    for path in pages:
        check_text(path)
        for text in (path.read_text(), path.with_name("notebook.ipynb").read_text()):
            assert not re.search(r'(?<!xlink:href=\\"data:)image/(png|jpeg)', text), path  # but a heat map's cells
            assert re.findall(r"(?<![\w.:/+<])/(?:home|root|Users|work|tmp|mnt|opt|content|kaggle)/.*", text) == []


def test_committed_pages_open_whole_from_disk(browser):
    """Those of more than a run, and of each data set two of a run: each takes seconds."""
    for front in (PROJECT / "reports").glob("tiny-imagenet*/index.html"):
        runs = sorted(front.parent.glob("*/**/index.html"))[-2:]
        for path in (front, front.with_name("ablations") / "index.html", *runs):
            check(browser, path)


def test_the_front_page_opens_with_the_answer_of_the_records(made, browser, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(made))
    records = [json.loads(path.read_text()) for path in made.glob("mini/baseline-scratch*/record.json")]
    with opened(browser, made / "mini/index.html", 390) as (page, _):
        assert page.title() == "tinyclf: ResNet18 on mini, a small synthetic data set"
        assert page.locator("h1").all_inner_texts() == [page.title()]
        assert page.locator(".answer").inner_text().split() == " ".join(answer(accuracy_table("mini"))).split()
        assert page.locator(".answer").bounding_box()["y"] < 300 and page.locator(".banner").count() == 1
        row = page.locator("table.glance").first.locator("tr", has_text="baseline from scratch")
        assert f"{100 * np.mean([record['evaluation']['top1'] for record in records]):.2f}" in row.inner_text()
        assert row.locator("a").all_inner_texts() == ["seed 0", "seed 1"], "no link from a mean to the page of one run"
        assert page.evaluate("document.documentElement.scrollHeight") < 6000
        assert "What to try next" not in page.inner_text("main")
    folder = made / "mini"
    front_page = BeautifulSoup((folder / "index.html").read_text(), "html.parser")
    assert {str(each.relative_to(folder)) for each in folder.glob("*/**/index.html")} <= targets(front_page)


def test_the_headline_of_a_run_is_above_the_fold_and_equal_to_the_record(made, browser):
    path = made / "mini/baseline-scratch"
    record = json.loads((path / "record.json").read_text())
    with opened(browser, path / "index.html", 1440) as (page, _):
        assert "Your turn" not in page.inner_text("main") and "pip install" not in page.inner_text("main")
        told = page.locator(".answer")
        words = " ".join(told.inner_text().split())
        assert words.startswith(f"{100 * record['evaluation']['top1']:.2f}% top-1 (95% interval ")
        assert words.count("1 epoch") == 1 and "published" not in words
        assert told.bounding_box()["y"] < 250 and page.locator("figure img").first.bounding_box()["y"] < 450
        numbers = page.locator('a[download="figure.csv"]').first.get_attribute("href").partition(",")[2]
        assert b64decode(numbers).startswith(b"epoch,accuracy,")
        assert page.locator("details.section[open]").count() == 0
        assert {"Training", "All classes", "History"} <= set(page.locator("details.section h2").all_inner_texts())
        assert page.locator("details.code").count() and page.locator("details.code[open]:visible").count() == 0


def test_all_classes_can_be_sorted_and_searched(made, browser):
    with opened(browser, made / "mini/baseline-scratch/index.html", 1440) as (page, wrong):
        page.evaluate("document.querySelectorAll('details.section').forEach(each => each.open = true)")
        table = page.locator("table.sortable")

        def accuracies():
            return [float(text.rstrip("%")) for text in table.locator("td:nth-child(2)").all_inner_texts()]

        table.locator("th:nth-child(2) button").click()
        assert accuracies() == sorted(accuracies()) and len(accuracies()) == 10
        table.locator("th:nth-child(2) button").click()
        assert accuracies() == sorted(accuracies(), reverse=True)
        words = table.locator("td:nth-child(1)").all_inner_texts()
        page.locator("input.search").fill(words[3].upper())
        assert 0 < table.locator("tbody tr:visible").count() < 10 and wrong == []
        assert words[3] in table.locator("tbody tr:visible").first.inner_text()
