"""`groundup export` and `groundup push` as typed."""

import json
import subprocess
import sys

import pytest


def test_export_reports_what_was_checked(groundup, run, tmp_path):
    done = groundup("export", run, "--to", "hf", "--out", "out", "--license", "mit")
    assert (done.status, done.err) == (0, "")
    assert "out: step-00000012 as hf" in done.out
    assert "logits differ by" in done.out or "the same logits to the last bit" in done.out
    again = groundup("export", run, "--to", "hf", "--out", "out")
    assert (again.status, again.err.count("\n")) == (2, 1)
    assert "is there already" in again.err


def test_json_is_one_object(groundup, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = json.loads(groundup("export", run, "--to", "hf", "--out", "out", "--json").out)
    assert (result["to"], result["checkpoint"], result["checked_by"]) == ("hf", "step-00000012", None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["export", "nowhere", "--to", "hf", "--out", "out"], "nowhere: is neither a run nor a checkpoint"),
        (["export", "x", "--out", "out"], "--to"),
        (["export", "x", "--to", "ggfu", "--out", "out"], "did you mean gguf?"),
        (["export", "x", "--to", "hf"], "--out"),
        (["push", "x", "book"], "book: no name of a repository; give owner/name"),
        (["push", "x"], "OWNER/NAME"),
    ],
)
def test_mistakes(argv, message, groundup, tmp_path):
    done = groundup(*argv)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_mistakes_and_help_need_no_torch():
    lines = ("export --help", "push --help", "export x --to hf --out /", "push x y", "export x --to q --out o")
    code = (
        f"import sys\nfrom groundup.cli import main\nfor argv in {lines}:\n"
        "    try: main(argv.split())\n    except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"
