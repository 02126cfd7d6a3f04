"""`groundup compare` as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
from rich.text import Text

from groundup.checkpoint.log import Log
from groundup.comparison import plot
from groundup.comparison.table import GAP, Row, table

TASKS = {"hellaswag": {"acc": 0.25, "acc_norm": 0.3125, "acc_norm_stderr": 0.0125, "n": 500}}


@pytest.fixture
def runs(run, tmp_path):
    """A real run, and a copy of it with lower losses and results of a task."""
    shutil.copytree(run, tmp_path / "one", symlinks=True)
    shutil.copytree(run, tmp_path / "two", symlinks=True)
    log = tmp_path / "two" / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        if record["event"] == "eval":
            record["val_loss"] -= 0.5
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    more = Log(log)
    more.write("evaluate", checkpoint="step-00000012", step=12, results=TASKS)
    more.close()
    config = tmp_path / "two" / "config.yaml"
    config.write_text(config.read_text().replace("dropout: 0.0", "dropout: 0.1"))
    return [tmp_path / "one", tmp_path / "two"]


def test_table_and_json_have_the_same_numbers(groundup, runs):
    done, found = groundup("compare", *runs), json.loads(groundup("compare", *runs, "--json").out)
    assert done.status == 0
    assert (found["measure"], found["same_text"]) == ("val_loss", "same")
    one, two = (r["value"] for r in found["at"]["tokens"]["losses"])
    assert two == pytest.approx(one - 0.5)
    assert ["at", "3.07K", "tokens", f"{one:.4f}", f"{two:.4f}", "-0.5000"] in [
        line.split() for line in done.out.splitlines()
    ]
    assert found["settings"] == {"model.dropout": [0.0, 0.1]}
    assert "model.dropout" in done.out
    assert found["runs"][1]["tasks"]["hellaswag"]["metrics"]["acc_norm"] == 0.3125
    assert "0.312 ± 0.013" in done.out
    assert found["to_reach"]["loss"] == min(e["val_loss"] for e in found["runs"][0]["evaluations"])
    assert found["to_reach"]["step"][0]["value"] == 12
    assert not any(line != line.rstrip() for line in done.out.splitlines())
    assert sorted(Path().iterdir()) == [Path("one"), Path("two")]


def test_one_run_alone(groundup, runs):
    out = groundup("compare", runs[0]).out
    assert "lowest val loss" in out
    assert "at the same point" not in out


def test_a_plot_is_replaced_only_with_overwrite(groundup, runs, monkeypatch):
    monkeypatch.setattr(plot, "missing", lambda: None)
    monkeypatch.setattr(plot, "draw", lambda comparison, kind: f"{kind}: {len(comparison.runs)} lines".encode())
    assert groundup("compare", *runs, "--out", "a.svg").status == 0
    assert Path("a.svg").read_text() == "svg: 2 lines"
    refused = groundup("compare", runs[0], "--out", "a.svg")
    assert (refused.status, refused.out) == (2, "")
    assert "a.svg: exists already; choose another name, or add --overwrite" in refused.err
    assert Path("a.svg").read_text() == "svg: 2 lines"
    assert groundup("compare", runs[0], "--out", "a.svg", "--overwrite", "--json").status == 0
    assert Path("a.svg").read_text() == "svg: 1 lines"


def test_a_plot_is_a_png(groundup, runs):
    pytest.importorskip("matplotlib")
    done = groundup("compare", *runs, "--out", "a.PNG")
    assert done.out.endswith("plotted in a.PNG\n")
    assert Path("a.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "a.pdf"], "--out a.pdf: the name must end in .png or .svg"),
        (["--out", "one"], "--out one: the name must end"),
        (["--out", "nowhere/a.png"], "there is no folder nowhere"),
        (["--out", "folder.png"], "is a folder; give a file in it"),
        (["--overwrite"], "--overwrite: there is nothing to replace"),
        (["--at-tokens", "many"], "--at-tokens many: not a whole number of tokens"),
        (["--at-tokens", "1M"], "one was evaluated from 1,536 to 3,072 tokens; give a number between"),
        (["one"], "the same run twice"),
        (["nowhere"], "nowhere: holds no run"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, sentence, groundup, runs, monkeypatch):
    monkeypatch.setattr(plot, "missing", lambda: None)
    Path("folder.png").mkdir()
    before = sorted(Path().rglob("*"))
    done = groundup("compare", *(run.name for run in runs), *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert sentence in done.err
    assert sorted(Path().rglob("*")) == before


def test_without_matplotlib_the_extra_is_named(groundup, runs, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    done = groundup("compare", *runs, "--out", "a.png")
    assert done.status == 2
    assert "[plot]" in done.err
    assert groundup("compare", *runs).status == 0  # the table needs none of it


@pytest.mark.parametrize("width", [None, 10, 20, 27, 28, 80])
def test_a_table_keeps_its_width_and_columns(width):
    rows = [Row("facts"), Row("loss", ("1.0", "22.0", "3")), Row("日本", ("x", "y", "z" * 9), frozenset({2}))]
    lines = list(table(["a", "b", "a name"], rows, width))
    assert all(isinstance(line, Text) for line in lines)
    plain = [line.plain for line in lines]
    assert sum("22.0" in line for line in plain) == sum("zzz" in line for line in plain) == 1
    if width is None or width >= 28:
        assert plain == ["       a    b     a name", "", "facts", "loss   1.0  22.0  3", "日本   x    y     zzzzzzzzz"]
    if width and width >= 20:
        assert max(line.cell_len for line in lines) <= width
    assert GAP == 2
