"""`groundup serve` as typed."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")


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
        (["serve", "x", "--port", "70000"], "--port 70000: must be from 0 to 65535"),
        (["serve", "x", "--port", "80x"], "'80x' is not a whole number"),
        (["serve", "x", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: is no address"),
    ],
)
def test_mistakes(argv, message, groundup):
    done = groundup(*argv, *([] if "--port" in argv else ["--port", "0"]))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err


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


def test_a_run_is_served_until_a_signal_and_the_key_stays_out_of_sight(run, tmp_path):
    key = "k3y-" + "x" * 20
    (tmp_path / "key").write_text(f"{key}\n")
    command = [sys.executable, "-m", "groundup", "serve", f"mine={run}", "--port", "0", "--device", "cpu"]
    command += ["--host", "0.0.0.0", "--api-key-file", str(tmp_path / "key")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            url = re.match(r"(http://127\.0\.0\.1:\d+)  serves mine; Ctrl-C stops\n", line)[1]
            request = urllib.request.Request(
                f"{url}/v1/completions", json.dumps({"prompt": "The", "max_tokens": 4, "seed": 1}).encode(),
                {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
            )  # fmt: skip
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 4
            words = Path(f"/proc/{process.pid}/cmdline")
            assert not words.exists() or key[:5] not in words.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_an_open_address_without_a_key_is_warned_about(run):
    command = [sys.executable, "-m", "groundup", "serve", str(run), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().endswith(f"serves {run.name}; Ctrl-C stops\n")
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.count("\n") == 1
    assert "can be reached from other machines" in err
