"""Records that were changed, cut or made up: refused in one message that names the file, and left out of tables."""

import copy
import json

import pytest
from records import leave, planned, started_from

from tinyclf.data.registry import dataset_info
from tinyclf.experiments.record import read_record, read_records, read_table
from tinyclf.experiments.settings import BEFORE
from tinyclf.report.runs import load_runs
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import PROJECT

MISSING, NAN, INFINITE = object(), float("nan"), float("inf")
EDITS = {
    "run": (MISSING, 3, "", "../x", "javascript:alert(1)//", "index.html", "a" * 200),
    "settings": (MISSING, [], None, {"epochs": "3"}, {"epochs": 0}, {"newer": 1}, {}),
    "settings learning_rate": ("fast", NAN, INFINITE, [0.1], None, 10**400),
    "history": ([], {}, None, "x", [[]], [3]),
    "history 1 val_loss": (NAN, INFINITE, "5.0", None, 10**400),
    "history 0 images_per_second": (0, -1, NAN),
    "result best val_accuracy": (7.3, -0.1, "73 %", NAN, 0.9),  # the last is none of its epochs
    "evaluation top5": (MISSING, 5, None),
    "environments": ([], {}, None, [{}]),
    "environments 0 hardware": (None, {}, "a GPU"),
    "weights parent run": (MISSING, "../../x", "javascript:x", None),
    "weights parent parent": ({}, "x", []),
    "finished": (MISSING, 3, "yesterday", "2026-11-26", "2026-11-26T08:00:00"),
    "version": (MISSING, 1, "2"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini" / "finetuning"


@pytest.fixture
def record():
    parent = leave("preprocessing", planned("preprocessing"))
    more = {"flip_tta": {}, "other_sizes": {"64": {}}, "recipe": {"model": "ResNet", "ema": None}, "own_code": False}
    made = leave("finetuning", planned("finetuning"), weights=started_from(parent), **more)
    return json.loads(json.dumps(made))


def changed(record, place, value):
    """A copy of a record with another value at a place, `history 0 epoch`."""
    record = copy.deepcopy(record)
    *path, last = [int(part) if part.isdigit() else part for part in place.split()]
    inner = record
    for part in path:
        inner = inner[part]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return record


def test_an_edited_record_is_refused_by_its_path_and_left_out_of_the_others_tables(record, folder, capsys):
    path = folder / "record.json"
    contents = [json.dumps(changed(record, place, value)) for place, values in EDITS.items() for value in values]
    whole = json.dumps(record)
    for content in (*contents, "", whole[:300], "[]", "null", "3", "[" * 100_000, "9" * 9999, "no JSON"):
        path.write_text(content)
        with pytest.raises(TinyclfError) as error:
            read_record(path)
        said, start, end = str(error.value), f"{path}: not a readable record (", "); delete it and run again"
        assert said.startswith(start) and said.endswith(end) and len(said) < len(start) + 700, content[:300]
    path.write_bytes(b"\xff\xfe")
    for _ in range(2):
        assert load_runs("mini")["run"].tolist() == ["preprocessing"]
    assert capsys.readouterr().err.count(str(path)) == 1


def test_every_committed_record_is_read_as_it_is_with_the_settings_that_are_newer():
    paths = list((PROJECT / "reports").glob("*/*/record.json"))
    assert len(paths) > 20
    for path in paths:
        before = record = json.loads(path.read_text())
        while before:  # it, and the runs that it started from
            before["settings"] = BEFORE | before["settings"]
            before = before["weights"].get("parent") if before is record else before["parent"]
        assert read_record(path) == record and record["run"] == path.parent.name
        info = dataset_info(record["data"]["name"])
        assert record["data"]["classes"] == info.layout.classes // info.class_step


def test_a_damaged_table_is_refused_by_its_path(record, folder):
    for content in (b"", b"\x1f\x8b\x08\x00", b"no gzip"):
        (folder / "predictions.csv.gz").write_bytes(content)
        with pytest.raises(TinyclfError, match=r"predictions\.csv\.gz: not a readable table"):
            read_table(read_records("mini")["finetuning"], "predictions.csv.gz")
