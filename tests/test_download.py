"""`download` against a server of our own on the loopback that breaks off, lies, or is not there."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tinyclf.data.locate import download
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import locked

CONTENT = np.random.default_rng(0).bytes(1_000_003)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    content = CONTENT
    drops: tuple[int, ...] = ()  # each of the first answers ends after so many bytes
    ranges = True
    length: str | None = ""  # the Content-Length that is sent; empty: the true one, None: none
    failures: tuple[int, ...] = ()  # each of the first answers is this status
    asked: list[str | None]  # the Range header of each request


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        number = len(server.asked)
        server.asked.append(self.headers["Range"])
        if number < len(server.failures):
            return self.send_error(server.failures[number])
        start = int(self.headers["Range"][len("bytes=") : -1]) if self.headers["Range"] and server.ranges else 0
        if start and start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if server.length is not None:
            self.send_header("Content-Length", server.length or str(len(server.content) - start))
        self.end_headers()
        end = start + server.drops[number] if number < len(server.drops) else None
        self.wfile.write(server.content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, **changed: object) -> Path:
    url = f"http://127.0.0.1:{server.server_port}/set.zip"
    return download(folder, url, **{"digest": f"md5:{MD5}", "pause": 0} | changed)


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_whole_file_comes_once(server, tmp_path):
    for _ in range(2):
        assert fetch(server, tmp_path) == tmp_path / "set.zip"
    assert (tmp_path / "set.zip").read_bytes() == CONTENT and server.asked == [None]


def test_a_dropped_connection_is_resumed(server, tmp_path, capsys):
    server.drops = (500_000, 0, 0, 0, 300_000, 0)
    assert fetch(server, tmp_path, tries=4).read_bytes() == CONTENT
    assert server.asked == [None] + ["bytes=500000-"] * 4 + ["bytes=800000-"] * 2
    assert left(tmp_path) == ["set.zip"] and "connection lost at byte 500,000" in capsys.readouterr().err


def test_the_next_call_goes_on_from_what_came(server, tmp_path):
    server.drops = (600_000, 0, 0)
    with pytest.raises(TinyclfError, match=r"Start again to go on\. Or get it by hand") as error:
        fetch(server, tmp_path, tries=2)
    assert left(tmp_path) == ["set.zip.tinyclf-part"] and str(tmp_path / "set.zip") in str(error.value)
    server.drops = ()
    server.asked.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT and server.asked == ["bytes=600000-"]


def test_a_server_that_ignores_range_and_one_that_is_busy(server, tmp_path):
    server.ranges = False
    server.drops, server.failures = (0, 0, 700_000, 100_000), (503, 429)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None] * 3 + ["bytes=700000-", "bytes=100000-"]


@pytest.mark.parametrize("length", ["", None, "9" * 400])
@pytest.mark.parametrize("content", [CONTENT + b"x", CONTENT[:-1], b"<html>Log in</html>"])
def test_of_a_wrong_file_nothing_is_kept(server, tmp_path, content, length):
    server.content, server.length = content, length
    (tmp_path / "set.zip.tinyclf-part").write_bytes(content[:10])
    with pytest.raises(TinyclfError, match=rf"not the file it should be: {len(content):,} bytes, md5(.|\n)*{MD5}"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []
    server.content = CONTENT
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_file_or_server_that_is_not_there_or_silent_is_given_up(server, tmp_path):
    server.failures = (404,)
    with pytest.raises(TinyclfError, match=r"set\.zip cannot be fetched: HTTP Error 404.*get it by hand"):
        fetch(server, tmp_path)
    assert len(server.asked) == 1 and "set.zip" not in left(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"
        with pytest.raises(TinyclfError, match=rf"{url} cannot be fetched: .*timed out"):
            download(tmp_path, url, "md5:0", tries=1, timeout=0.05)
    with pytest.raises(TinyclfError, match=rf"{url} cannot be fetched: .*refused"):
        download(tmp_path, url, "md5:0", tries=2, pause=0)


def test_two_downloads_do_not_mix(server, tmp_path):
    with locked(tmp_path / "set.zip.lock"), pytest.raises(TinyclfError, match="Another process is downloading"):
        fetch(server, tmp_path)


def test_a_part_that_is_whole_already_is_used(server, tmp_path):
    (tmp_path / "set.zip.tinyclf-part").write_bytes(CONTENT)
    digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:8]}"
    assert fetch(server, tmp_path, digest=digest).read_bytes() == CONTENT
