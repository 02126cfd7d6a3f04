"""`groundup serve` as typed."""

import argparse
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import groundup
from groundup.cli.serve import origin

pytest.importorskip("fastapi", reason="needs the extra `serve`")
httpx = pytest.importorskip("httpx")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serve"], "RUN"),
        (["serve", "nowhere"], "nowhere: is neither a run nor a checkpoint"),
        (["serve", "a/x", "b/x"], "b/x: x is the name of a/x already; give another by NAME=b/x"),
        (["serve", "book="], "book=: gives no name for the model; give NAME=RUN"),
        (["serve", "=runs/book"], "gives no name for the model; give NAME=runs/book"),
        (["serve", "x", "--slots", "0"], "--slots 0: must be 1 or more"),
        (["serve", "x", "--time-limit", "soon"], "--time-limit soon: expected a duration"),
        (["serve", "x", "--time-limit", "0"], "--time-limit 0: must be more than 0"),
        (["serve", "x", "--api-key-file", "nokey"], "--api-key-file nokey: No such file"),
        (["serve", "x", "--cors-origin", "example.org"], "'example.org' is no origin; give scheme and host"),
        (["serve", "x", "--port", "70000"], "--port 70000: must be from 0 to 65535"),
        (["serve", "x", "--port", "80x"], "'80x' is not a whole number"),
        (["serve", "x", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: is no address"),
    ],
)
def test_mistakes(argv, message, groundup):
    done = groundup(*argv, *([] if "--port" in argv else ["--port", "0"]))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_origins_are_what_browsers_send():
    origins = {
        "*": "*",
        "null": "null",
        "https://example.org": "https://example.org",
        "HTTPS://Example.org/": "https://example.org",
        "https://example.org:443": "https://example.org",
        "http://localhost:3000": "http://localhost:3000",
        "http://[::1]:80": "http://[::1]",
        "https://müller.de": "https://xn--mller-kva.de",
        "app://obsidian.md": "app://obsidian.md",
    }
    assert {word: origin(word) for word in origins} == origins


@pytest.mark.parametrize(
    "word",
    [
        *("", "example.org", "https://", "https://a.org/page", "https://a.org?x", "https://me@a.org", "https://[x"),
        *("https://*.a.org", "https://a b.org", "https://a.org:x", "https://a.org:99999"),
    ],
)
def test_what_no_browser_sends_is_no_origin(word):
    with pytest.raises(argparse.ArgumentTypeError, match="is no origin"):
        origin(word)


def test_a_file_without_a_key_is_refused_without_its_content(groundup, tmp_path, monkeypatch):
    for content in ("", "\n", "two words", "schlüssel"):
        (tmp_path / "key").write_text(content)
        done = groundup("serve", "x", "--port", "0", "--api-key-file", "key")
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "--api-key-file key: holds no key" in done.err
        assert not content.strip() or content.strip() not in done.err
    monkeypatch.setenv("GROUNDUP_API_KEY", "")
    assert "GROUNDUP_API_KEY: holds no key" in groundup("serve", "x", "--port", "0").err


def test_without_the_extra_the_command_that_installs_it_is_named(groundup, monkeypatch):
    monkeypatch.setattr("groundup.cli.serve.find_spec", lambda name: None)
    done = groundup("serve", "x")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert re.search(r"serve: needs the library fastapi; install it with pip install .*serve", done.err)


def test_help_and_mistakes_import_neither_torch_nor_fastapi():
    code = (
        "import sys\nfrom groundup.cli import main\n"
        "for argv in ('serve --help', 'serve --help-all', 'serve', 'serve x --slots 0', 'serve a/x b/x'):\n"
        "    try: main(argv.split())\n    except SystemExit: pass\n"
        "print({'torch', 'fastapi', 'uvicorn'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "set()"


@contextmanager
def served(*argv: object):
    """The process of `groundup serve` on a free port, and its address."""
    command = [sys.executable, "-m", "groundup", "serve", *map(str, argv), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.fullmatch(
                r"http://127\.0\.0\.1:(\d+)  serves \S+ \(.*(?:PyTorch|C\+\+).*\); Ctrl-C stops\n", line
            )
            assert found, line + process.stderr.read()
            yield process, f"http://127.0.0.1:{found[1]}"
        finally:
            process.kill()


def test_a_run_is_served_until_a_signal_also_when_its_folder_is_gone(run, tmp_path):
    key = "k3y-first-half+other-half-of-it"
    (tmp_path / "key").write_text(f"{key}\n")
    body = {"prompt": "The", "max_tokens": 300, "seed": 1}
    [expected] = groundup.generate(run, "The", max_tokens=300, seed=1, temperature=1, device="cpu")
    options = ("--host", "0.0.0.0", "--api-key-file", tmp_path / "key")
    with served(f"mine={run}", *options) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        seen = [Path(f"/proc/{process.pid}/cmdline").read_text()] if sys.platform == "linux" else []
        client.headers["Authorization"] = f"Bearer {key}"
        with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            shutil.rmtree(run)
            events += [line for line in lines if line]
        assert events.pop() == "data: [DONE]"
        assert "The" + "".join(json.loads(line[6:])["choices"][0]["text"] for line in events if line) == expected
        assert "The" + client.post("/v1/completions", json=body).json()["choices"][0]["text"] == expected
        for path in ("/", "/docs", "/openapi.json", "/metrics", "/health", "/v1/models", "/v1/nothing"):
            seen.append(client.get(path).text)
        for wrong in (key[:-1], f"{key}x", key[: len(key) // 2], "none"):
            denied = client.get("/v1/models", headers={"Authorization": f"Bearer {wrong}"})
            assert denied.status_code == 401
            seen.append(denied.text)
        with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=20) as connection:
            connection.sendall(b"no HTTP at all \xff\r\nAuthorization: Bearer " + key.encode() + b"\r\n\r\n")
            seen.append(connection.recv(1000).decode())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    half = len(key) // 2
    assert not any(part in text for text in seen for part in (key[:half], key[half:]))


def test_an_open_address_without_a_key_is_warned_about(run):
    with served(run, "--host", "0.0.0.0") as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.count("\n") == 1
    assert "can be reached from other machines" in err
