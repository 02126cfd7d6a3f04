"""Installed trackers, each read back with its own reader; others are skipped."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from groundup.config.sections import TrackingConfig
from groundup.tracking.trackers import open_trackers

SETTINGS = {
    "config": {"model": {"n_layer": 2}, "train": {"device": "cpu"}},
    "environment": {"python": "3.x", "versions": {"torch": "2"}},
    "flops_per_token": 1e6,
    "peak_flops": 1e12,
}
TIMEOUT_S = 60  # seconds; a fresh import on a busy machine


def step(n, loss):
    return {"step": n, "tokens": 64 * n, "loss": loss, "lr": 0.5, "grad_norm": 1.0, "tokens_per_s": 1e5, "cursor": n}


def first_part(shown):
    for n in range(1, 6):
        shown.record("step", step(n, 5.0 - n / 8))
    shown.record("eval", {"step": 5, "train_loss": 4.0, "val_loss": 4.25, "bits_per_byte": 2.5})
    shown.record("sample", {"step": 5, "text": "Once <upon> a ```time```"})
    shown.close(TIMEOUT_S)


def second_part(shown):
    """A resumed run, and a rollback: steps 4 and 5 once more."""
    shown.record("resume", {"step": 5})
    shown.record("rollback", {"step": 3})
    for n in (4, 5, 6):
        shown.record("step", step(n, 1.0))
    shown.close(TIMEOUT_S)


def train(run, *to, **more):
    """Record both parts; returns the messages."""
    messages = []
    for part in (first_part, second_part):
        part(open_trackers(TrackingConfig(backends=to, offline=True, **more), run, SETTINGS, messages.append))
    return messages


def test_tensorboard_reads_back_what_was_recorded(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

    assert train(tmp_path, "tensorboard") == []
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={TENSORS: 0}, purge_orphaned_data=False)
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert losses == [(n, 5.0 - n / 8) for n in range(1, 6)] + [(4, 1.0), (5, 1.0), (6, 1.0)]
    assert [e.value for e in events.Scalars("train/mfu")] == pytest.approx([0.1] * 8)
    assert [(e.step, e.value) for e in events.Scalars("val/bits_per_byte")] == [(5, 2.5)]
    assert events.Scalars("memory/process_gb")[0].value > 0
    assert [(e.step, e.value) for e in events.Scalars("event/rollback")] == [(3, 1.0)]
    sample = events.Tensors("sample")[0]
    assert sample.step == 5
    assert b"Once <upon> a ```time```" in sample.tensor_proto.string_val[0]
    assert json.loads(
        events.Tensors("environment")[0].tensor_proto.string_val[0].split(b"\n", 1)[1].rsplit(b"\n", 1)[0]
    )
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_a_tensorboard_folder_that_cannot_be_written_is_reported(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / "tensorboard").write_text("in the way")
    messages = []
    shown = open_trackers(TrackingConfig(backends=("tensorboard",)), tmp_path, SETTINGS, messages.append)
    shown.record("step", step(1, 2.0))
    shown.close(TIMEOUT_S)
    assert len(messages) == 1
    assert messages[0].startswith("tracking: tensorboard is switched off: ")


def python(code, cwd, to=subprocess.PIPE, **environment):
    """Run `code`, with this file's names, in a new process; returns its output."""
    header = "import sys; sys.path[:0] = [FOLDER]; from test_real import *\nfrom pathlib import Path\n"
    header = header.replace("FOLDER", repr(os.path.dirname(__file__)))  # noqa: PTH120
    return subprocess.run(
        [sys.executable, "-c", header + textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), **environment},
        check=True,
        text=True,
        stdout=to,
        stderr=subprocess.STDOUT,
        timeout=2 * TIMEOUT_S,
    ).stdout


def test_trackio_stores_what_was_recorded(tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed")
    home = tmp_path / "trackio"
    # Only a new process uses another folder, and can show that nothing is printed.
    out = python(
        """
        import huggingface_hub
        requests = []
        huggingface_hub.whoami = lambda **_: requests.append("who am I") or {"name": "me"}
        assert (messages := train(Path("run"), "trackio")) == [], messages
        assert requests == []
        """,
        _with_run(tmp_path),
        TRACKIO_DIR=str(home),
        HF_TOKEN="hf_never_sent",
    )
    assert out == ""
    with sqlite3.connect(next(home.glob("*.db"))) as db:
        rows = [
            (n, json.loads(metrics), run)
            for n, metrics, run in db.execute("select step, metrics, run_id from metrics order by id")
        ]
    assert len({run for *_, run in rows}) == 1
    losses = [(n, metrics["train/loss"]) for n, metrics, _ in rows if "train/loss" in metrics]
    assert losses == [(n, 5.0 - n / 8) for n in range(1, 6)] + [(4, 1.0), (5, 1.0), (6, 1.0)]
    assert [metrics["val/loss"] for _, metrics, _ in rows if "val/loss" in metrics] == [4.25]
    assert any("Once <upon>" in str(metrics.get("sample")) for _, metrics, _ in rows)


def _with_run(folder):
    (folder / "run").mkdir()
    return folder


def test_wandb_writes_files_offline(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    out = python(
        """assert (out := train(Path("run"), "wandb")) == [], out""", _with_run(tmp_path), WANDB_API_KEY="k" * 40
    )
    assert out == ""
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    identity = json.loads((tmp_path / "run" / "tracking.json").read_text())["id"]
    assert len(parts) == 2
    assert all(part.name.endswith(identity) for part in parts)
    rows = [row for part in parts for row in history(next(part.glob("*.wandb")))]
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(n, 5.0 - n / 8) for n in range(1, 6)] + [(4, 1.0), (5, 1.0), (6, 1.0)]
    assert [row["val/loss"] for row in rows if "val/loss" in row] == [4.25]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"k" * 40 not in everything
    assert b"&lt;upon&gt;" in everything


def history(path):
    """Rows of a wandb file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, data, at, parts = 32_768, path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little left for a header
            at += block - at % block
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a record that is complete, or complete now
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                yield {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def test_without_a_key_wandb_is_switched_off_without_a_prompt(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    out = python(
        """
        messages = []
        shown = open_trackers(TrackingConfig(backends=("wandb",)), Path("run"), SETTINGS, messages.append)
        shown.record("step", step(1, 2.0))
        shown.close(TIMEOUT_S)
        print(messages)
        """,
        _with_run(tmp_path),
    )
    assert "wandb is switched off: no API key; see `wandb login`" in out


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_stopped_wandb_process_does_not_delay_the_exit(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    code = """
        messages = []
        shown = open_trackers(TrackingConfig(backends=("wandb",), offline=True), Path("run"), SETTINGS, messages.append)
        shown.record("step", step(1, 2.0))
        while shown.waiting or not shown._open:
            time.sleep(0.05)
        import wandb.sdk.wandb_setup as setup
        core = setup.singleton()._connection._proc._process
        os.kill(core.pid, signal.SIGSTOP)
        shown.record("step", step(2, 2.0))
        shown.close(1)
        Path("out").write_text(f"{core.pid} {messages} {time.time()}")
    """
    python(code, _with_run(tmp_path), to=subprocess.DEVNULL)  # its process would keep a pipe open
    ended, out = time.time(), (tmp_path / "out").read_text()
    try:
        assert "wandb is switched off: it did not finish in time" in out
        assert ended - float(out.split()[-1]) < 10
    finally:
        os.kill(int(out.split()[0]), signal.SIGKILL)
