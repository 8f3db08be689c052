"""Whatever a checkpoint, a parameter or a name holds: a result or one message, and no other exception."""

import contextlib
import hashlib
import io
from http.client import HTTPResponse
from types import SimpleNamespace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from tinyclf.data.locate import download
from tinyclf.experiments.names import check_name
from tinyclf.experiments.parameters import parse_assignment
from tinyclf.experiments.settings import Settings
from tinyclf.training import checkpoint
from tinyclf.utils.errors import TinyclfError

bounded = settings(max_examples=80, derandomize=True, deadline=None, database=None)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@bounded
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_damaged_checkpoint_in_one_message(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    path.write_bytes(content)
    with contextlib.suppress(TinyclfError):
        checkpoint.read(path)
        raise AssertionError("it was read")


@bounded
@given(name=st.sampled_from(Settings.names()), text=st.text(max_size=20) | PLAIN.map(str) | st.just("9" * 5000))
def test_any_parameter_is_a_setting_or_one_message(name, text):
    with contextlib.suppress(TinyclfError):
        key, value = parse_assignment(f"{name}={text}")
        Settings.from_notebook({key: value})


class Terminal(io.StringIO):
    def isatty(self):
        return True


ODD = st.sampled_from(["abc", "", "1e3", "1000, 1000", "-1", "0", "1_000", "9" * 400, "9" * 5000])


@bounded
@given(length=ODD | st.integers().map(str) | st.text("0123456789+-._ex, ", max_size=6))
def test_any_content_length_is_the_whole_file_or_one_message(length, tmp_path_factory):
    content, folder = bytes(1000), tmp_path_factory.mktemp("download")
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + content

    def answer(*_, **__):
        response = HTTPResponse(SimpleNamespace(makefile=lambda mode: io.BytesIO(raw)))
        response.begin()
        return response

    with patch("urllib.request.urlopen", answer), patch("sys.stderr", Terminal()), contextlib.suppress(TinyclfError):
        path = download(folder, "http://host/set.zip", f"md5:{hashlib.md5(content).hexdigest()}", tries=1, pause=0)
        assert path.read_bytes() == content


@bounded
@given(name=JSON | st.text("./\\:a-", max_size=6))
def test_any_name_stays_within_the_folder_of_its_data_set_or_is_refused(name, tmp_path_factory):
    with contextlib.suppress(TinyclfError):
        check_name(name)
        folder = tmp_path_factory.getbasetemp()
        assert (folder / name).resolve().parent == folder.resolve() and ":" not in name
