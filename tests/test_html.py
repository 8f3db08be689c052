"""Text from data shows as it is, whatever it holds, in tables, galleries, figures and whole pages."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from markupsafe import Markup

from tinyclf.html import details, gallery, link, picture, table, two_lines
from tinyclf.accuracy import markdown

EVIL = "<script>alert(1)</script> & \"more\" | 'less'"


class Tags(HTMLParser):
    """Counts the elements of a page, and gathers its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(str(html))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_table_escapes_cells_columns_and_labels_but_not_markup():
    frame = pd.DataFrame({EVIL: [EVIL, "b"], "link": [link(EVIL, 'a?b&c="d'), ""], "two": [two_lines("1", EVIL), "2"]})
    found = Tags(table(frame).data)
    names = [name for name, _ in found.tags]
    assert "script" not in names and found.text.count(EVIL) == 4
    assert [attrs["href"] for name, attrs in found.tags if name == "a"] == ['a?b&c="d']
    assert next(attrs["data-label"] for name, attrs in found.tags if name == "td") == EVIL
    assert names.count("small") == 1 and names.count("tr") == 3


def test_numbers_stand_right_and_wide_tables_become_cards():
    frame = pd.DataFrame({"a": ["1.5", "-2 %", ""], "b": ["1.5", "x", "2"], "c": ["", "", ""], "d": ["3 of 15"] * 3})
    cells = re.findall(r"<td[^>]*>", table(frame).data)[:4]
    assert ['class="number"' in cell for cell in cells] == [True, False, False, True]
    assert 'class="cards"' in table(frame).data and 'class="x cards"' in table(frame, "x").data
    assert "cards" not in table(frame[["a", "b"]]).data
    indexed = frame[["a"]].set_index(pd.Index(list("xyz"), name="place"))
    assert "place</th>" in table(indexed).data and ">x<" in table(indexed).data


def test_a_table_has_its_text_where_no_html_is_shown():
    text = repr(table(pd.DataFrame({"run": [link("mine", "mine/index.html")], "epochs": ["3"]})))
    assert text.split() == ["run", "epochs", "0", "mine", "3"]
    assert "all 1 rows" in details("all 1 rows", table(pd.DataFrame({"a": ["b"]}))).data


def test_a_gallery_and_a_picture_describe_their_images_and_escape_it():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    found = Tags(gallery(list(images), [EVIL, "plain"]).data + picture("<svg></svg>", EVIL))
    alternatives = [attrs["alt"] for name, attrs in found.tags if name == "img"]
    assert alternatives == [EVIL, "plain", EVIL] and "script" not in dict(found.tags)
    assert all(attrs["src"].startswith("data:image/") for name, attrs in found.tags if name == "img")
    assert isinstance(picture("", ""), Markup)


def test_markdown_cells_hold_neither_html_nor_the_end_of_a_cell():
    assert markdown(pd.DataFrame({"a": ["<b>|x"], "b": ["[y](z)"]})).splitlines()[-1] == r"| &lt;b>\|x | [y](z) |"
