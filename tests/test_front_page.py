"""The front page of a data set and its README: the answer, a row for each experiment with its verdict, and links."""

import re
from types import SimpleNamespace

import pytest
from cells import names_of
from IPython.display import HTML
from records import leave, planned

from tinyclf.experiments.settings import Settings
from tinyclf.report.accuracy import accuracy_table, answer, dataset_note, markdown_tables
from tinyclf.report.runs import PUBLISHED
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import PROJECT

WHOLE = {"name": "tiny-imagenet", "classes": 200, "train": 100_000, "val": 10_000, "sha256": "abc"}


def page(dataset):
    """The functions of the notebook that makes the front page, after it made that of `dataset`."""
    return SimpleNamespace(**names_of("9_summary", dataset=dataset))


def ran(name, *accuracies, **more):
    """The record of a run on all of Tiny-ImageNet of as many epochs as published, or of these accuracies."""
    accuracies = accuracies if len(accuracies) > 1 else [0.2] * (PUBLISHED[name]["epochs"] - 1) + [*accuracies]
    return leave(name, planned(name, "tiny-imagenet", weights="none"), accuracies, data=WHOLE, **more)


def test_the_answer_counts_what_was_reproduced_and_names_what_was_not():
    assert answer(accuracy_table("tiny-imagenet"))[0] == "No experiment has run yet."
    ran("baseline-scratch", 0.2694)  # 1.00 points more
    ran("baseline-imagenet", 0.5560)  # 1.01 points less
    standin = {"label": "ImageNet (stand-in: x.safetensors)", "file": None, "sha256": None}
    ran("preprocessing", 0.57, 0.66, other_sizes={"64": {"top1": 0.153}}, weights=standin)
    assert answer(accuracy_table("tiny-imagenet")) == [
        "1 of 6 published results reproduced within 1 point; 2 of the 6 from stand-in weights.",
        "“Step 1: baseline with ImageNet weights” is below: 55.60%, published 56.61%.",
        "2 not run yet.",
        "2 with other numbers of epochs than published.",
    ]
    leave("baseline-scratch", planned("baseline-scratch"), (0.2, 0.4))
    first, second = answer(accuracy_table("mini"))
    assert first == "1 of 8 experiments have run." and "40.00%" in second and "published" not in second


def test_a_row_links_its_runs_and_has_interval_and_verdict():
    for seed, run, accuracy in ((0, "baseline-scratch", 0.09), (1, "baseline-scratch-seed-1", 0.13)):
        leave(run, planned("baseline-scratch", "tiny-imagenet", epochs=2, seed=seed), (0.05, accuracy), data=WHOLE)
    scratch, imagenet = page("tiny-imagenet").front_tables("tiny-imagenet").values()
    assert all(f'href="baseline-scratch{seed}/record.json"' in scratch.data for seed in ("", "-seed-1"))
    row = scratch.texts.iloc[0]
    assert row["experiment"] == "Step 1: baseline from scratch seed 0, seed 1", "none of their pages has the mean"
    assert (row["published"], row["epochs"], row["time"]) == ("25.94%", "2 of 15", "12 s A processor, 2 threads")
    assert row["ours"] == "11.00 ± 2.83% 10.4 to 11.6% 2 seeds" and 'class="above"' in scratch.data
    assert row["verdict"].startswith("▲\u00a02 of 15 epochs so far, above the published 9.30% +1.70 points, 95% ")
    assert "<code>tinyclf run baseline-imagenet --dataset tiny-imagenet</code>" in imagenet.data


@pytest.mark.parametrize("dataset", ["mini", "tiny-imagenet-20"])
def test_where_nothing_compares_a_banner_says_so_and_nothing_published_is_shown(dataset, monkeypatch):
    shown = []
    monkeypatch.setattr("tinyclf.report.figures.show", lambda figure: shown.append(HTML(figure.text)))
    monkeypatch.setattr("IPython.display.display", lambda *some, **more: shown.extend(some))
    leave("baseline-scratch", planned("baseline-scratch", dataset))
    page(dataset)
    shown = "".join(output.data for output in shown)
    assert 'class="banner"' in shown and dataset_note(dataset).split("`")[2][:40] in shown
    assert not [text for text in ("25.94", "56.61", "73.05", ">published<", "dotted") if text in shown]


def test_runs_are_listed_with_their_files_and_ablations_apart(reports):
    leave("mine", Settings(epochs=2), command="")
    leave("fast-scratch.slower", planned("fast-scratch.slower"))
    (reports / "mini/mine/history.csv").touch()
    runs_table = page("mini").runs_table
    row = ["mine own code", "record, history", "2", "2026-11-25 10:00:00", "0123456789"]
    assert runs_table("mini").texts.to_numpy().tolist() == [row]
    assert runs_table("mini", of_ablations=True).texts["run"].tolist() == ["fast-scratch.slower"]


def test_the_readme_has_the_tables_and_the_curves_of_all_runs_and_replaces_none_of_another_project(reports):
    folder, write_readme = reports / "tiny-imagenet", page("tiny-imagenet").write_readme
    assert [path.name for path in folder.iterdir()] == ["README.md"], "no curves without runs"
    leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet"))
    write_readme("tiny-imagenet")
    text, before = (folder / "README.md").read_text(), (folder / "curves.svg").read_bytes()
    assert text.startswith("# tinyclf: ResNet18 on Tiny-ImageNet\n\n**0 of 6 published")
    assert re.search(r"!\[accuracy .*Step 1: baseline from scratch from 10\.00% to 20\.00%.*\]\(curves\.svg\)", text)
    assert markdown_tables(accuracy_table("tiny-imagenet")).replace("### ", "## ") in text
    (folder / "curves.svg").unlink()  # as where it was interrupted
    write_readme("tiny-imagenet")
    assert (folder / "curves.svg").read_bytes() == before
    for name in ("README.md", "curves.svg"):
        (folder / "README.md").unlink()
        (folder / name).write_text("My notes")
        with pytest.raises(TinyclfError, match=rf"{name} is not of tinyclf: move it away"):
            write_readme("tiny-imagenet")
        assert (folder / name).read_text() == "My notes"


def test_the_committed_readmes_are_what_the_records_give(monkeypatch):
    functions, written = page("mini"), {}
    monkeypatch.delenv("TINYCLF_REPORTS", raising=False)
    names = functions.write_readme.__globals__
    monkeypatch.setitem(names, "atomic_write", lambda path, content: written.update({path: content}))
    for dataset in ("tiny-imagenet", "tiny-imagenet-20"):
        monkeypatch.setitem(names, "folder", PROJECT / "reports" / dataset)
        functions.write_readme(dataset)
        path = PROJECT / "reports" / dataset / "README.md"
        assert written[path] == path.read_text(), f"write it again: tinyclf run summary --dataset {dataset}"
