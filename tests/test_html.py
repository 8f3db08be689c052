"""Text from data shows as it is, whatever it holds, in tables, galleries, figures and whole pages."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd

from tinyclf.report.format import Column, markdown
from tinyclf.report.html import gallery, link, small_lines, table, verdict_mark

EVIL = "<script>alert(1)</script> & \"more\" | 'less'"


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(str(html))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_tables_and_galleries_escape_text_but_not_markup():
    frame = pd.DataFrame({EVIL: [EVIL, "b"], "link": [link(EVIL, 'a?b&c="d'), ""], "two": [small_lines(1, EVIL), "2"]})
    parsed = Tags(table(frame).data)
    names = [name for name, _ in parsed.tags]
    assert "script" not in names and parsed.text.count(EVIL) == 4 and names.count("small") == 1
    assert [attrs["href"] for name, attrs in parsed.tags if name == "a"] == ['a?b&c="d']
    parsed = Tags(gallery(list(np.zeros((2, 64, 64, 3), np.uint8)), [EVIL, "plain"]).data)
    assert [attrs["alt"] for name, attrs in parsed.tags if name == "img"] == [EVIL, "plain"]
    assert "script" not in dict(parsed.tags)


def test_numbers_are_aligned_by_what_they_are_not_by_how_they_look_and_a_terminal_gets_text():
    frame = pd.DataFrame({"float": [1.5, float("nan")], "int": [1, 2], "text": ["1.5", "2%"], "bool": [True, False]})
    cells = re.findall(r"<td([^>]*)>([^<]*)<", table(frame).data)
    assert [bool(attributes) for attributes, _ in cells[:4]] == [True, True, False, False]
    assert [text for _, text in cells] == ["1.5000", "1", "1.5", "True", "", "2", "2%", "False"]
    columns = [Column("twice", lambda row: str(2 * row["int"])), Column("word", lambda row: "x", number=False)]
    tags = [attrs.get("class") for name, attrs in Tags(table(frame, columns).data).tags if name in ("th", "td")]
    assert tags == ["number", None] * 3
    linked = pd.DataFrame({"run": [link("mine", "mine/index.html")], "epochs": [3]})
    assert repr(table(linked)).split() == ["run", "epochs", "mine", "3"]


def test_a_verdict_has_an_arrow_beside_its_colour():
    assert verdict_mark("reproduced", "reproduced") == "reproduced" and "&lt;" in verdict_mark("above", "<")
    assert Tags(verdict_mark("below", "below")).tags == [("span", {"class": "below"})]
    assert [verdict_mark(kind, "x")[20:].strip('">')[:1] for kind in ("above", "below")] == ["▲", "▼"]


def test_markdown_cells_hold_neither_html_nor_the_end_of_a_cell():
    columns = [Column("a", lambda row: row["a"]), Column("b", lambda row: row["b"], number=False)]
    lines = markdown([{"a": "<b>|x", "b": "[y](z)"}], columns).splitlines()
    assert lines == ["| a | b |", "| --: | --- |", r"| &lt;b>\|x | [y](z) |"]
