"""Notebooks run headlessly to self-contained pages; one that fails leaves its page and does not stop the others."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

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
import matplotlib.pyplot as plt
from tinyclf.report.figures import Described, show
figure, axes = plt.subplots()
plt.close(figure)
show(Described(figure, 'an empty "figure" & <no> more'))
print("value", value)
"""
VALUE = 'print("value", value)'
RUN = "tinyclf.report.notebook:run"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


def experiment(tmp_path, name, *code):
    parameters = new_code_cell('dataset = "mini"\nvalue = 1', metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell(f"# About {name}"), parameters, *map(new_code_cell, code)]
    path = tmp_path / f"{name}.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return Experiment(name, f"Title of {name}", path, {"dataset": "mini", "value": 7})


def left_in(place):
    """The names of the files in a page's folder, without the lock, which may stay."""
    return {path.name for path in place.iterdir() if path.suffix != ".lock"}


def test_a_page_is_self_contained_with_code_folded_and_pictures_described(tmp_path, folder, monkeypatch):
    (tmp_path / "a file").touch()  # what the user has of matplotlib stops no page, and is on none
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "a file"))
    monkeypatch.setenv("MPLBACKEND", "bogus")
    notebook.run(experiment(tmp_path, "good", FIGURE))
    page = (folder / "mini" / "good" / "index.html").read_text()
    assert "<title>Title of good (mini)</title>" in page and "About good" in page and "value 7" in page
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page) == ['href="../index.html']  # a link to follow
    assert not re.findall(r"@import|import\(|url\((?!['\"]?(?:data:|#))", page)
    assert page.count('<details class="code">') == 3  # parameters, injected parameters, the cell
    ((_, alt),) = re.findall(r"""<img alt=(["'])(.*?)\1 src="data:image/svg""", page)
    assert html.unescape(alt) == 'an empty "figure" & <no> more' and "<" not in alt
    assert "matplotlib-" not in page and str(tmp_path) not in page


def test_an_executed_notebook_names_no_path_of_this_machine_however_it_is_written(tmp_path, folder, monkeypatch):
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
    assert left_in(own / "mini/good") == {"index.html", "notebook.ipynb"}
    for path in (own / "mini/good").glob("*.*"):
        text = html.unescape(path.read_text())
        assert "7 some.pth ['data/mini', " in text or path.suffix == ".lock"
        assert not [one for one in (*said, str(tmp_path), str(PROJECT)) if one in text]


def test_one_that_fails_leaves_its_page_and_the_others_still_run(tmp_path, folder, capsys):
    message = "the <b>data</b> is not there"
    code = f"from tinyclf.utils.errors import TinyclfError\nraise TinyclfError({message!r})"
    with pytest.raises(TinyclfError) as failed:
        cli.run_one_by_one(
            [experiment(tmp_path, "bad", code), experiment(tmp_path, "good", VALUE)], "tinyclf.report.notebook:run"
        )
    assert str(failed.value) == "failed: bad"
    assert f"tinyclf: bad: {message}" in capsys.readouterr().err
    page = (folder / "mini" / "bad" / "failed.html").read_text()
    assert "the &lt;b&gt;data&lt;/b&gt; is not there" in page and "Traceback" not in page
    assert "value 7" in (folder / "mini" / "good" / "index.html").read_text()


def test_the_pages_of_an_earlier_run_outlive_one_that_fails(tmp_path, folder):
    good, place = experiment(tmp_path, "same", "print('good')"), folder / "mini" / "same"
    notebook.run(good)
    before = {name: (place / name).read_bytes() for name in left_in(place)}
    with pytest.raises(TinyclfError, match=r"ZeroDivisionError.*\n.*failed\.html"):
        notebook.run(experiment(tmp_path, "same", "1 / 0"))
    assert "Traceback" in (place / "failed.html").read_text(), "of an error that nobody foresaw"
    assert {name: (place / name).read_bytes() for name in left_in(place) if "failed" not in name} == before


def test_the_kernel_is_that_of_this_python_whatever_python3_is_elsewhere(tmp_path, folder, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = ["/no/such/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook.run(experiment(tmp_path, "good", f"import sys\nprint('the same', sys.executable == {sys.executable!r})"))
    assert "the same True" in (folder / "mini/good/notebook.ipynb").read_text()


def test_killed_between_its_two_files_a_page_stands_in_no_front_pages_way(tmp_path, folder, monkeypatch):
    (folder / "mini/notes").mkdir(parents=True)
    (folder / "mini/notes/index.html").write_text("somebody's own")
    good, other_pages = experiment(tmp_path, "good", VALUE), names_of("9_summary")["other_pages"]
    rename = os.replace

    def die(source, target):
        if Path(target).name == "index.html":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", die)
        notebook.run(good)
    assert not {"Title", "notes"} & set(other_pages("mini").data.split())
    notebook.run(good)
    assert '"good/index.html">Title of good' in other_pages("mini").data and "notes" not in other_pages("mini").data


def test_a_page_of_somebody_else_is_not_replaced_and_nothing_runs(tmp_path, folder):
    (folder / "mini/mine").mkdir(parents=True)
    (folder / "mini/mine/index.html").write_text("somebody's own")
    with pytest.raises(TinyclfError, match="mine has a page that is not of tinyclf"):
        notebook.run(experiment(tmp_path, "mine", f"open({str(tmp_path / 'ran')!r}, 'w')"))
    assert (folder / "mini/mine/index.html").read_text() == "somebody's own" and not (tmp_path / "ran").exists()


def test_a_kernel_that_dies_leaves_its_page_and_the_others_still_run(tmp_path, folder):
    die = experiment(tmp_path, "dead", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(TinyclfError, match="failed: dead"):
        cli.run_one_by_one([die, experiment(tmp_path, "good", VALUE)], RUN)
    assert "The run ended here: the kernel died" in (folder / "mini" / "dead" / "failed.html").read_text()
    assert (folder / "mini" / "good" / "index.html").is_file()


def test_a_kernel_that_cannot_start_is_one_message_and_the_others_are_tried(tmp_path, folder, monkeypatch, capsys):
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "die.py").write_text("import os\nos._exit(3)")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with pytest.raises(TinyclfError, match="failed: one, two"):
        cli.run_one_by_one(
            [experiment(tmp_path, name, VALUE) for name in ("one", "two")], "tinyclf.report.notebook:run"
        )
    assert (
        capsys.readouterr().err.count("the notebook cannot be executed (Kernel died before replying to kernel_info)")
        == 2
    )


def test_two_pages_of_one_experiment_are_not_made_at_once(tmp_path, folder):
    place = folder / "mini" / "good"
    with locked(place / ".page.lock"), pytest.raises(TinyclfError, match=rf"running already.*process {os.getpid()}"):
        notebook.run(experiment(tmp_path, "good", VALUE))


def test_plain_papermill_runs_the_baseline_from_any_folder(tmp_path, folder):
    quick = {"epochs": 1, "input_size": 16, "batch_size": 100}
    parameters = [each for name, value in quick.items() for each in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", NOTEBOOKS / "1_baseline.ipynb", "out.ipynb", *parameters]
    last = ["-p", "run_name", "from-papermill", "--log-output"]
    done = subprocess.run([*command, *last], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "mini" / "from-papermill" / "record.json").read_text())
    assert record["settings"]["epochs"] == len(record["history"]) == 1
    assert (tmp_path / "out.ipynb").is_file()
    assert "epoch  1/1  lr 1e-03" in done.stderr  # a line for each epoch in the log
    train(Experiment("from-python", "", NOTEBOOKS / "1_baseline.ipynb", {"dataset": "mini"} | quick))
    histories = [(folder / "mini" / run / "history.csv").read_bytes() for run in ("from-papermill", "from-python")]
    assert histories[0] == histories[1]  # to the last bit


def test_sections_fold_at_their_heading_unless_they_have_an_error_and_optional_ones_need_an_output():
    def heading(title, *tags):
        return new_markdown_cell(f"## {title}\n\nText of {title}.", metadata={"tags": list(tags)})

    some, wrong = new_output("stream", text="some"), new_output("error", ename="E", evalue="wrong", traceback=[])
    shown, silent, failed = (new_code_cell(outputs=outputs) for outputs in ([some], [], [wrong]))
    none, two = [heading("None", "folded", "optional"), silent.copy()], [heading("Two"), shown.copy()]
    one, bad = [heading("One", "folded"), shown, silent], [heading("Bad", "folded", "optional"), failed]
    whole = new_notebook(cells=[new_markdown_cell("# Title"), *none, *one, *bad, *two])
    notebook.arrange(whole)
    assert whole.cells[1:] == [*one, *bad, *two]
    assert one[0].metadata["opens"] == "One" and one[0].source.strip() == "Text of One."
    assert "closes" not in shown.metadata and silent.metadata["closes"]
    assert silent.metadata["shown"] and not shown.metadata["shown"], "code is shown where it has no output"
    assert not [cell for cell in (*bad, *two) if "opens" in cell.metadata]
