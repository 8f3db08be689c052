"""Text from data shows as it is, whatever it holds, in tables, galleries, figures and whole pages."""

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from tinyclf.report.format import Column, markdown
from tinyclf.report.html import gallery, link, small_lines, table

EVIL = "<script>alert(1)</script> & \"more\" | 'less'"


def parsed(html):
    return BeautifulSoup(html.data, "html.parser")


def test_tables_and_galleries_escape_text_but_not_markup():
    frame = pd.DataFrame({EVIL: [EVIL, "b"], "link": [link(EVIL, 'a?b&c="d'), ""], "two": [small_lines(1, EVIL), "2"]})
    page = parsed(table(frame))
    assert not page("script") and page.get_text().count(EVIL) == 4 and len(page("small")) == 1
    assert [tag["href"] for tag in page("a")] == ['a?b&c="d']
    page = parsed(gallery(list(np.zeros((2, 64, 64, 3), np.uint8)), [EVIL, "plain"]))
    assert not page("script") and [tag["alt"] for tag in page("img")] == [EVIL, "plain"]


def test_numbers_are_aligned_by_what_they_are_not_by_how_they_look_and_a_terminal_gets_text():
    frame = pd.DataFrame({"float": [1.5, float("nan")], "int": [1, 2], "text": ["1.5", "2%"], "bool": [True, False]})
    cells = parsed(table(frame))("td")
    assert [bool(cell.attrs) for cell in cells] == [True, True, False, False] * 2
    assert [cell.text for cell in cells] == ["1.5000", "1", "1.5", "True", "", "2", "2%", "False"]
    columns = [Column("twice", lambda row: str(2 * row["int"])), Column("word", lambda row: "x", number=False)]
    assert [cell.get("class") for cell in parsed(table(frame, columns))(["th", "td"])] == [["number"], None] * 3
    linked = pd.DataFrame({"run": [link("mine", "mine/index.html")], "epochs": [3]})
    assert repr(table(linked)).split() == ["run", "epochs", "mine", "3"]


def test_markdown_cells_hold_neither_html_nor_the_end_of_a_cell():
    columns = [Column("a", lambda row: row["a"]), Column("b", lambda row: row["b"], number=False)]
    lines = markdown([{"a": "<b>|x", "b": "[y](z)"}], columns).splitlines()
    assert lines == ["| a | b |", "| --: | --- |", r"| &lt;b>\|x | [y](z) |"]
