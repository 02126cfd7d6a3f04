"""trace_step finds exactly the documents of a step, in a hand-made corpus with every token known."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import groundup
from groundup.cli.why import shortened
from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.presets import preset
from groundup.config.schema import to_yaml
from groundup.data.shards import Manifest
from groundup.data.windows import LAYOUT, ShuffledWindows
from groundup.diagnostics.step_documents import cursor_after, trace_step
from groundup.errors import CheckpointError, DataError, UsageError
from groundup.training.train_state import Progress
from groundup.utils.files import SUMS, sha256

BLOCK, ROWS, SEED, STEPS = 16, 4, 7, 40
# A different text per row, some shorter than a sequence; in bytes, with one token each and an end.
TEXTS = [f"<{i}> " + "abcdefghijklmnopqrstuvwxyz"[: 1 + i % 26] * (1 + i % 5) for i in range(60)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("why")
    for name, texts in (("one.jsonl", TEXTS[:30]), ("two.jsonl", TEXTS[30:])):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    groundup.prepare([folder / "one.jsonl", folder / "two.jsonl"], folder / "data", tokenizer="byte", val_fraction=0.0)
    return folder


@pytest.fixture
def run(corpus, tmp_path) -> Path:
    values = {
        "data": str(corpus / "data"),
        "model": {"block_size": BLOCK, "vocab_size": 257},
        "train": {"seed": SEED, "batch_tokens": BLOCK * ROWS, "max_steps": STEPS},
    }
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        to_yaml(merge_and_validate([preset("gpt2-nano"), ConfigSource("test", values)]))
    )
    return folder


def log(run, *records):
    with (run / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def checkpoint(run, step=10, **progress):
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(
        json.dumps({"step": step, "tokens": 0, "sequence_layout": LAYOUT, **progress})
    )
    (folder / SUMS).write_text(f"{sha256(folder / 'progress.json')}  progress.json\n")
    return folder


class Sequence:
    """Training split as written above: every token with its document."""

    def __init__(self):
        self.ids = [token for text in TEXTS for token in (*text.encode(), 256)]
        self.document = [i for i, text in enumerate(TEXTS) for _ in range(len(text.encode()) + 1)]

    def __len__(self):
        return len(self.ids)

    def read(self, start, n):
        return np.array(self.ids[start : start + n])


def offsets(corpus, i):
    """Offset of row `i` in its file."""
    name, row = ("one.jsonl", i) if i < 30 else ("two.jsonl", i - 30)
    lines = (corpus / name).read_bytes().split(b"\n")
    return name, sum(len(line) + 1 for line in lines[:row])


@pytest.mark.parametrize("step", [1, 2, 23, STEPS])
def test_a_step_has_exactly_the_documents_of_its_sequences(run, corpus, step):
    sequence = Sequence()
    starts = ShuffledWindows(sequence, BLOCK, SEED).window_starts((step - 1) * ROWS, ROWS).tolist()
    windows = trace_step(run, step).windows
    assert [window.start for window in windows] == starts
    for start, window in zip(starts, windows, strict=True):
        due = list(dict.fromkeys(sequence.document[start : start + BLOCK + 1]))
        assert [(part.source, part.offset) for part, _ in window.excerpts] == [offsets(corpus, i) for i in due]
        for i, (part, text) in zip(due, window.excerpts, strict=True):
            assert text == TEXTS[i][part.start : part.stop]
            assert part.length == len(TEXTS[i].encode()) + 1
        assert sum(part.stop - part.start for part, _ in window.excerpts) == BLOCK + 1


def test_the_excerpts_of_a_sequence_are_its_text(run):
    for window in trace_step(run, 5).windows:
        ids = Sequence().read(window.start, window.tokens)
        text = bytes(ids[ids != 256].tolist()).decode()
        assert "".join(text for _, text in window.excerpts) == text


def test_the_cursor_is_that_of_the_last_record_in_the_log(run):
    log(
        run,
        {"event": "step", "step": 3, "cursor": 100, "loss": 5.0, "grad_norm": 1.0},
        {"event": "sample", "step": 3, "text": '"event": "step", "step": 3, "cursor": 0'},
        {"event": "step", "step": 30, "cursor": 0, "loss": 0.0, "grad_norm": 0.0},
        {"event": "step", "step": 3, "cursor": 200, "loss": 4.0, "grad_norm": 2.0},
    )
    with (run / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 3, "cur\n')  # cut off by a crash
    found = trace_step(run, 3)
    assert (found.cursor, found.loss, found.grad_norm, found.logged, found.applied) == (200, 4.0, 2.0, 2, True)
    assert "done 2 times" in found.notes[0]
    assert "rolled back" in found.notes[0]
    assert [window.cursor for window in found.windows] == [200, 201, 202, 203]


def test_resumed_and_skipped_steps_are_noted(run):
    log(run, {"event": "step", "step": 3, "cursor": 8, "loss": 5.0}, {"event": "skip", "step": 3, "cursor": 8})
    found = trace_step(run, 3)
    assert "was resumed" in found.notes[0]
    assert found.notes[1].startswith("not applied")
    assert found.applied is False


def test_a_step_not_in_the_log_is_computed_and_noted(run):
    found = trace_step(run, 9)
    assert (found.cursor, found.logged, found.applied, found.loss) == (8 * ROWS, 0, None, None)
    assert "computed" in found.notes[0]


@pytest.mark.parametrize(
    "odd",
    [
        {"loss": "x", "grad_norm": []},
        {"loss": 10**400, "grad_norm": True},
        {"loss": {"a": 1}, "grad_norm": None},
    ],
)
def test_losses_that_are_no_numbers_are_left_out(run, why, odd):
    log(run, {"event": "step", "step": 3, "cursor": 8, **odd})
    assert (trace_step(run, 3).loss, trace_step(run, 3).grad_norm) == (None, None)
    status, out, err = why(run, 3)
    assert (status, err, out.splitlines()[0]) == (0, "", "step 3")


@pytest.mark.parametrize("cursor", ["10" * 13, "-1", '"8"', "1.5", "null", "[" * 100_000])
def test_a_record_with_an_impossible_cursor_is_ignored(run, cursor):
    with (run / "log.jsonl").open("a") as file:
        file.write(f'{{"event": "step", "step": 3, "loss": 1.0, "cursor": {cursor}}}\n')
    found = trace_step(run, 3)
    assert (found.cursor, found.logged) == (2 * ROWS, 0)


@pytest.mark.parametrize("skips", [5, [3], [["a", 1]], [[1, 2, 3]], [[float("inf"), 1]]])
def test_a_checkpoint_with_malformed_skips_is_ignored(run, corpus, skips):
    data = Manifest.load(corpus / "data").fingerprint
    checkpoint(run, 10, skips=[[8, 30]], data=data)
    checkpoint(run, 11, skips=skips, data=data)
    assert trace_step(run, 3).cursor == 30


def test_metadata_that_does_not_match_its_checksum_is_ignored(run, corpus):
    data = Manifest.load(corpus / "data").fingerprint
    checkpoint(run, 10, skips=[[8, 30]], data=data)
    path = checkpoint(run, 11, skips=[[8, 40]], data=data) / "progress.json"
    assert trace_step(run, 3).cursor == 40
    path.write_text(path.read_text().replace("40", "50"))
    assert trace_step(run, 3).cursor == 30


def test_a_computed_step_leaves_out_skipped_sequences(run, corpus):
    checkpoint(run, skips=[[8, 30]], data=Manifest.load(corpus / "data").fingerprint)
    assert [trace_step(run, step).cursor for step in (1, 2, 3, 4)] == [0, 4, 30, 34]
    assert "skipped" in trace_step(run, 3).notes[0]


def test_skips_are_left_out_as_in_training():
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows = int(rng.integers(1, 9))
        skips = [(int(start), int(start + rng.integers(1, 30))) for start in rng.integers(1, 200, rng.integers(0, 5))]
        progress = Progress(skips=skips)
        for step in range(60):
            assert cursor_after(step, rows, skips) == progress.cursor, (rows, skips, step)
            progress.advance(rows)


@pytest.mark.parametrize("step", [0, -3, STEPS + 1, 10**30])
def test_an_impossible_step_is_refused(run, step):
    with pytest.raises(UsageError, match=f"step {step}: "):
        trace_step(run, step)


def test_a_run_limited_by_time_has_no_last_step_but_cursors_are_bounded(run):
    config = (run / "config.yaml").read_text()
    config = re.sub("max_steps: .*", "max_steps: null", config)
    (run / "config.yaml").write_text(re.sub("max_time: .*", "max_time: 1h", config))
    assert trace_step(run, 10**9).cursor == (10**9 - 1) * ROWS
    with pytest.raises(UsageError, match="farther than any run"):
        trace_step(run, 10**30)


def test_missing_runs_and_data_get_a_message(run, corpus, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        trace_step(tmp_path / "nowhere", 1)
    with pytest.raises(DataError, match="no such folder; give the path of the run's data with --data"):
        trace_step(run, 1, tmp_path / "nowhere")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(corpus), str(tmp_path)))
    with pytest.raises(DataError, match="--data DIR"):
        trace_step(run, 1)
    assert trace_step(run, 1, corpus / "data").windows


def test_other_data_is_refused(run, corpus):
    checkpoint(run, data="0" * 64)
    with pytest.raises(DataError, match="not the data that this run was trained on"):
        trace_step(run, 1)
    checkpoint(run, 11, data=Manifest.load(corpus / "data").fingerprint)
    assert len(trace_step(run, 1).notes) == 1  # computed; no note on the data


@pytest.fixture
def why(command):
    """The command `groundup why`."""
    return partial(command, "why")


def test_the_command_prints_loss_documents_and_text_within_the_width(run, why, monkeypatch):
    log(run, {"event": "step", "step": 3, "cursor": 8, "loss": 5.25, "grad_norm": 1.5})
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = why(run, 3)
    assert (status, err) == (0, "")
    assert "step 3   loss 5.2500   gradient norm 1.5" in out
    assert "sequences 8 to 11, of 16 tokens each: " in out
    for window in trace_step(run, 3).windows:
        for part, text in window.excerpts:
            assert f"{part.source} @{part.offset:,}" in out
            assert text in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_one_object_with_all_text(run, why):
    status, out, _ = why(run, 3, "--json")
    found = trace_step(run, 3)
    values = json.loads(out)
    assert status == 0
    assert values["cursor"] == found.cursor
    assert [window["parts"][0]["text"] for window in values["windows"]] == [w.excerpts[0].text for w in found.windows]
    assert [part["source"] for part in values["windows"][0]["parts"]] == [
        p.source for p, _ in found.windows[0].excerpts
    ]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(["nowhere", 1], "holds no run"), (["x", "many"], "'many'"), (["x", 1, "--width", 3], "--width 3: must be 20")],
)
def test_a_mistake_is_one_sentence_and_status_2(argv, sentence, why):
    status, out, err = why(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_text_is_shortened_in_the_middle_and_unprintable_characters_are_escaped():
    assert shortened("a\x1b[2Jb\nc", 40) == "a\\x1b[2Jb⏎c"
    assert shortened("short", 20) == "short"
    long = "".join(chr(ord("a") + i % 26) for i in range(300))
    short = shortened(long, 40)
    assert len(short) == 40
    begin, end = short.split(" … ")
    assert long.startswith(begin)
    assert long.endswith(end)
    assert shortened("世" * 100, 41).count("世") <= 19  # two columns each


def test_tracing_a_step_needs_no_torch(run):
    code = (
        "import sys, pathlib; from groundup.diagnostics.step_documents import trace_step; "
        f"trace_step(pathlib.Path({str(run)!r}), 1); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
