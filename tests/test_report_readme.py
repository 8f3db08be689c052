"""The README of a data set's reports: tables and curves for whoever browses the repository."""

import re

import pytest
from records import leave, planned

from tinyclf.report import index_page
from tinyclf.report.accuracy import accuracy_table
from tinyclf.report.index_page import write_readme
from tinyclf.report.wording import markdown_tables
from tinyclf.utils.paths import PROJECT


def test_it_has_the_tables_and_the_curves_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    folder = tmp_path / "tiny-imagenet"
    write_readme("tiny-imagenet")
    assert [path.name for path in folder.iterdir()] == ["README.md"], "no curves without runs"
    leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet"))
    write_readme("tiny-imagenet")
    text, before = (folder / "README.md").read_text(), (folder / "curves.svg").read_bytes()
    assert text.startswith("# tinyclf: ResNet18 on Tiny-ImageNet\n\n**0 of 5 published") and "25.94%" in text
    assert re.search(r"!\[accuracy .*Step 1: baseline from scratch from 10\.00% to 20\.00%.*\]\(curves\.svg\)", text)
    assert markdown_tables(accuracy_table("tiny-imagenet")).replace("### ", "## ") in text
    write_readme("tiny-imagenet")
    assert (folder / "curves.svg").read_bytes() == before


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "tiny-imagenet-20"])
def test_the_committed_one_is_what_the_records_give(dataset, monkeypatch):
    monkeypatch.delenv("TINYCLF_REPORTS", raising=False)
    written = {}
    monkeypatch.setattr(index_page, "atomic_write", lambda path, content: written.update({path.name: content}))
    write_readme(dataset)
    committed = (PROJECT / "reports" / dataset / "README.md").read_text()
    assert written["README.md"] == committed, f"write it again: tinyclf run summary --dataset {dataset}"
    assert set(re.findall(r"\]\((?!\.\.)(.*?)\)", committed)) == {"curves.svg"}
