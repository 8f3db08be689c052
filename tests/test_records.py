"""Records that were changed, cut or made up: refused in one message that names the path and the place in it."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import leave, planned, started_from

from tinyclf.experiments.record import read_record
from tinyclf.report.runs import listing, load_runs
from tinyclf.utils.errors import NewerVersionError, TinyclfError
from tinyclf.utils.paths import PROJECT, reports_dir

MISSING = object()
NAN, INFINITE = float("nan"), float("inf")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini" / "finetuning"


@pytest.fixture
def record():
    recipe = {"model": "ResNet", "ema": None}
    parent = leave("preprocessing", planned("preprocessing"))
    more = {"flip_tta": {}, "other_sizes": {"64": {}}, "recipe": recipe, "weights": started_from(parent)}
    return json.loads(json.dumps(leave("finetuning", planned("finetuning"), **more)))


def changed(record, place, value):
    """A copy of a record with another value at a place, `history 0 epoch`."""
    record = copy.deepcopy(record)
    *path, last = [int(part) if part.isdigit() and part != "64" else part for part in place.split()]
    inner = record
    for part in path:
        inner = inner[part]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return record


EDITS = [
    *(("run", value) for value in (MISSING, 3, "", "../x", "javascript:alert(1)//", "index.html", "a" * 200)),
    *(("command", value) for value in (MISSING, 3, None)),
    *(("settings", value) for value in (MISSING, [], None, {"epochs": "3"}, {"epochs": 0}, {"newer": 1})),
    *(("settings learning_rate", value) for value in ("fast", NAN, INFINITE, [0.1], None)),
    *(("overrides", value) for value in (MISSING, [], "none")),
    *(("history", value) for value in ([], {}, None, "x", [[]], [3])),
    *(("history 1 epoch", value) for value in (MISSING, 0, 1.5, "2", None, True)),
    *(("history 1 val_loss", value) for value in (NAN, INFINITE, "5.0", None, 10**400)),
    *(("history 0 images_per_second", value) for value in (0, -1, NAN)),
    *(("result", value) for value in (MISSING, [], {})),
    *((f"result {which} val_accuracy", value) for which in ("last", "best") for value in (7.3, -0.1, "73 %", NAN)),
    *(("evaluation top5", value) for value in (MISSING, 5, None)),
    *(("flip_tta", value) for value in ([], "x", {"top1": 0.5})),
    *(("other_sizes", value) for value in (MISSING, [], {"large": {}}, {"-64": {}})),
    *(("compute total", value) for value in (MISSING, 0, None, NAN, "1e15")),
    *(("environments", value) for value in ([], {}, None, [{}])),
    *(("environments 0 hardware", value) for value in (None, {}, "a GPU")),
    *(("weights", value) for value in (MISSING, [], None)),
    *(("weights parent run", value) for value in (MISSING, "../../x", "javascript:x", None)),
    *(("weights parent settings", value) for value in (MISSING, {"seed": -1})),
    *(("weights parent parent", value) for value in ({}, "x", [])),
    *(("finished", value) for value in (MISSING, 3, "yesterday", "2026-11-26", "2026-11-26T08:00:00")),
    *(("seconds", value) for value in (MISSING, "60", NAN)),
    *(("recipe", value) for value in ([], "SGD", {"model": 3})),
    *(("data val", value) for value in (MISSING, 0, "40")),
]


@pytest.mark.parametrize(("place", "value"), EDITS)
def test_an_edited_record_is_refused_by_its_path_and_the_place(place, value, record, folder):
    path = folder / "record.json"
    path.write_text(json.dumps(changed(record, place, value)))
    with pytest.raises(TinyclfError) as error:
        load_runs("mini")
    start, end = f"{path}: not a readable record (", "); delete it and run again"
    said = str(error.value)
    assert said.startswith(start) and said.endswith(end) and len(said) < len(start) + 700
    assert place.split()[0] in said.removeprefix(start) or said.removeprefix(start).startswith("it has no")


def test_what_is_no_record_at_all_is_refused(record, folder):
    path, whole = folder / "record.json", json.dumps(record).encode()
    for content in (
        b"",
        whole[:300],
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 1}',
        b"9" * 9999,
    ):
        path.write_bytes(content)
        with pytest.raises(TinyclfError, match=r"finetuning/record\.json: not a readable record \("):
            listing("mini")


def test_a_record_of_a_newer_version_is_not_to_be_deleted(record, folder):
    (folder / "record.json").write_text(json.dumps(record | {"version": 3}))
    with pytest.raises(NewerVersionError, match="of version 3, and this tinyclf reads 2: use the tinyclf that wrote"):
        load_runs("mini")


def test_a_run_that_calls_itself_a_script_is_no_run_whatever_its_folder(record, folder):
    path = folder.with_name("javascript:alert(1)") / "record.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))  # of a run of a sound name
    assert load_runs("mini")["run"].tolist() == ["preprocessing", "finetuning"]


def test_every_committed_record_is_one():
    paths = list((PROJECT / "reports").glob("*/*/record.json"))
    assert len(paths) > 20
    for path in paths:
        assert read_record(path)["run"] == path.parent.name


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_any_value_at_any_place_gives_a_table_or_one_message(data):
    record = leave("baseline-scratch", planned("baseline-scratch"), flip_tta={})
    places = [f"{key} {inner}" for key, value in record.items() if isinstance(value, dict) for inner in value]
    places += [*record, "history 0", *(f"history 0 {key}" for key in record["history"][0])]
    edited = changed(record, data.draw(st.sampled_from(places)), data.draw(JSON))
    (reports_dir() / "mini/baseline-scratch/record.json").write_text(json.dumps(edited))
    try:
        load_runs("mini")
    except TinyclfError as error:
        assert "record.json: " in str(error)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(content=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_record_or_one_message(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(TinyclfError, match=r"any\.json: "):
        read_record(path)
