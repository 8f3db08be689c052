"""Notebooks run headlessly to self-contained pages; one that fails leaves its page and does not stop the others."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from cells import names_of
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tinyclf import cli
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.run import train
from tinyclf.report import notebook
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked
from tinyclf.utils.paths import NOTEBOOKS, PROJECT, data_dir

FIGURE = """
from matplotlib.figure import Figure
from tinyclf.report.figures import Described, show
show(Described(Figure(), 'an empty "figure" & <no> more'))
print("value", value)
"""
VALUE = 'print("value", value)'


def experiment(tmp_path, name, *code):
    parameters = new_code_cell('dataset = "mini"\nvalue = 1', metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell(f"# About {name}"), parameters, *map(new_code_cell, code)]
    path = tmp_path / f"{name}.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return Experiment(name, f"Title of {name}", path, {"dataset": "mini", "value": 7})


def test_a_page_is_self_contained_with_code_folded_and_pictures_described(tmp_path, reports, monkeypatch):
    (tmp_path / "a file").touch()  # what the user has of matplotlib stops no page, and is on none
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "a file"))
    monkeypatch.setenv("MPLBACKEND", "bogus")
    notebook.run(experiment(tmp_path, "good", FIGURE))
    page = (reports / "mini/good/index.html").read_text()
    assert "<title>Title of good (mini)</title>" in page and "About good" in page and "value 7" in page
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page) == ['href="../index.html']  # a link to follow
    assert not re.findall(r"@import|import\(|url\((?!['\"]?(?:data:|#))", page)
    assert page.count('<details class="code">') == 3  # parameters, injected parameters, the cell
    ((_, alt),) = re.findall(r"""<img alt=(["'])(.*?)\1 src="data:image/svg""", page)
    assert html.unescape(alt) == 'an empty "figure" & <no> more' and "<" not in alt
    assert "matplotlib-" not in page and str(tmp_path) not in page


def test_an_executed_notebook_names_no_path_of_this_machine_however_it_is_written(tmp_path, reports, monkeypatch):
    said = [str(data_dir() / "mini"), str(PROJECT / "docs")]
    own = tmp_path / 'it\'s "own" ä\\b'  # as a folder of a person may be called
    (own / "mini").mkdir(parents=True)
    monkeypatch.setenv("TINYCLF_REPORTS", str(own))
    code = f"""
import html, json, os, sys
from urllib.parse import quote
from IPython.display import HTML
from markupsafe import escape
print(value, weights, {said}, file=sys.stderr)
path = os.environ['TINYCLF_REPORTS'] + '/x'
print(path, repr(path), ascii(path), json.dumps(path), html.escape(path), quote(path))
HTML(escape([path]))
"""
    one = experiment(tmp_path, "good", code)
    notebook.run(dataclasses.replace(one, parameters=one.parameters | {"weights": str(tmp_path / "some.pth")}))
    for path in (own / "mini/good/index.html", own / "mini/good/notebook.ipynb"):
        text = html.unescape(path.read_text())
        assert "7 some.pth ['data/mini', " in text
        assert not [one for one in (*said, str(tmp_path), str(PROJECT)) if one in text]


def test_one_that_fails_leaves_its_page_beside_those_of_an_earlier_run(tmp_path, reports):
    place = reports / "mini/same"
    notebook.run(experiment(tmp_path, "same", VALUE))
    before = {path: path.read_bytes() for path in (place / "index.html", place / "notebook.ipynb")}
    with pytest.raises(TinyclfError, match=r"ZeroDivisionError.*\n.*failed\.html"):
        notebook.run(experiment(tmp_path, "same", "1 / 0"))
    assert "Traceback" in (place / "failed.html").read_text(), "of an error that nobody foresaw"
    raising = "from tinyclf.utils.errors import TinyclfError\nraise TinyclfError('<b>data</b> are missing')"
    with pytest.raises(TinyclfError, match="<b>data</b> are missing"):
        notebook.run(experiment(tmp_path, "same", raising))
    page = (place / "failed.html").read_text()
    assert "&lt;b&gt;data&lt;/b&gt; are missing" in page and "Traceback" not in page
    assert {path: path.read_bytes() for path in before} == before


def test_the_kernel_is_that_of_this_python_whatever_python3_is_elsewhere(tmp_path, reports, monkeypatch):
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook.run(experiment(tmp_path, "good", f"import sys\nprint('the same', sys.executable == {sys.executable!r})"))
    assert "the same True" in (reports / "mini/good/notebook.ipynb").read_text()


def test_where_a_kernel_dies_the_others_still_run(tmp_path, reports):
    dies = experiment(tmp_path, "dead", "import os\nos.kill(os.getpid(), 9)")
    (reports / "mini/mine").mkdir(parents=True)
    (reports / "mini/mine/index.html").write_text("somebody's own")
    with pytest.raises(TinyclfError, match="failed: dead"):
        cli.run_one_by_one([dies, experiment(tmp_path, "good", VALUE)], "tinyclf.report.notebook:run")
    listed = names_of("9_summary")["other_pages"]("mini").data
    assert '"good/index.html">Title of good' in listed and "mine" not in listed


def test_two_pages_of_one_experiment_are_not_made_at_once(tmp_path, reports):
    lock, said = reports / "mini/good/.page.lock", rf"running already.*process {os.getpid()}"
    with locked(lock), pytest.raises(TinyclfError, match=said):
        notebook.run(experiment(tmp_path, "good", VALUE))


def test_plain_papermill_runs_the_baseline_from_any_folder(tmp_path, reports):
    quick = {"epochs": 1, "input_size": 16, "batch_size": 100}
    given = json.dumps(quick | {"run_name": "from-papermill"})  # JSON is YAML
    command = [sys.executable, "-m", "papermill", NOTEBOOKS / "1_baseline.ipynb", "out.ipynb", "-y", given]
    done = subprocess.run([*command, "--log-output"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "epoch  1/1  lr 1e-03" in done.stderr  # a line for each epoch in the log
    train(Experiment("from-python", "", NOTEBOOKS / "1_baseline.ipynb", {"dataset": "mini"} | quick))
    histories = [(reports / "mini" / run / "history.csv").read_bytes() for run in ("from-papermill", "from-python")]
    assert histories[0] == histories[1]  # to the last bit


def test_an_optional_section_needs_an_output_and_one_with_an_error_stays_open():
    def section(title, cell):
        return [new_markdown_cell(f"## {title}", metadata={"tags": ["folded", "optional"]}), cell]

    wrong = new_output("error", ename="E", evalue="wrong", traceback=[])
    silent, failed = section("None", new_code_cell()), section("Bad", new_code_cell(outputs=[wrong]))
    whole = new_notebook(cells=[new_markdown_cell("# Title"), *silent, *failed])
    notebook.arrange(whole)
    assert whole.cells[1:] == failed and "opens" not in failed[0].metadata
