"""The downloaded corpus: fetched once, checked, with an alternative if that fails."""

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from groundup.errors import DataError
from groundup.kernels import cpu_build
from groundup.sources import download
from groundup.sources.corpus import open_sources

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Local server for the text, with changeable responses and a counter."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.n_requests += 1
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(TEXT)))
            self.end_headers()
            self.wfile.write(self.server.text)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        http.status, http.text, http.n_requests = 200, TEXT, 0
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        monkeypatch.setattr(download, "SHAKESPEARE_URL", f"http://127.0.0.1:{http.server_port}/input.txt")
        monkeypatch.setattr(download, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT).hexdigest())
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 5.0)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        yield http
        http.shutdown()
        thread.join()


def kept(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_it_is_downloaded_once_and_then_read_from_the_cache(server, tmp_path):
    for _ in range(2):
        with open_sources(["shakespeare"]) as corpus:
            assert [(d.source, "".join(d.chunks())) for d in corpus] == [("shakespeare", TEXT.decode())]
    assert server.n_requests == 1
    assert kept(tmp_path) == ["tinyshakespeare.txt"]


def test_a_damaged_copy_is_downloaded_again(server, tmp_path):
    download.shakespeare().write_bytes(TEXT[:-1])
    assert download.shakespeare().read_bytes() == TEXT
    assert server.n_requests == 2


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (404, b"gone", "answered 404 Not Found"),
        (500, b"oops", "answered 500"),
        (200, TEXT[:-1] + b"!", "has another checksum than the text"),
        (200, TEXT[:9], "(has another checksum|cannot be reached)"),
    ],
)
def test_a_failed_download_is_one_sentence_and_leaves_no_file(server, tmp_path, status, text, message):
    server.status, server.text = status, text
    with pytest.raises(DataError, match=rf"shakespeare: .*{message}.*; try again, or .* give it as a file"):
        download.shakespeare()
    assert kept(tmp_path) == []


def test_without_a_network_the_message_names_an_alternative(server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(download, "SHAKESPEARE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/input.txt")
        with pytest.raises(DataError, match=r"cannot be reached \(.*refused.*\); .* groundup prepare input\.txt"):
            download.shakespeare()


def test_a_silent_server_times_out(server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(download, "SHAKESPEARE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/input.txt")
        with pytest.raises(DataError, match=r"cannot be reached \(timed out\)"):
            download.shakespeare()


def test_a_cache_that_cannot_be_written_is_one_sentence(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        DataError, match=r"cannot be written .*; name another folder in the environment variable XDG_CACHE"
    ):
        download.shakespeare()


@pytest.mark.parametrize("variables", [{}, {"HOME": "here"}, {"HOME": "here", "XDG_CACHE_HOME": "here"}])
def test_a_user_without_a_home_is_told_what_to_name(server, monkeypatch, tmp_path, variables):
    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr("groundup.kernels.cpu_build.shutil.which", lambda name: "/usr/bin/g++")
    with pytest.raises(DataError, match=r"^shakespeare: ~/\.cache cannot be written \(there is no home folder\); name"):
        download.shakespeare()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="there is no home folder"):  # so that torch computes everything
        cpu_build._cached_or_built()


def test_the_checksum_is_that_of_the_real_text(shared_data):
    assert download._is_shakespeare((shared_data / "tinyshakespeare" / "input.txt").read_bytes())
