"""History of a run by its log, after kills, resumes and rollbacks."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.checkpoint import log as log_module
from groundup.checkpoint.log import Task, iter_log, last_saved, read_history, read_log, task_metrics
from groundup.errors import CheckpointError


def step(n, event="step"):
    return {"event": event, "step": n, "tokens": 100 * n, "elapsed": n / 2, "lr": 1e-3, "loss": 5 - n / 10}


def evaluation(n):
    return {"event": "eval", "step": n, "train_loss": 5 - n / 10, "val_loss": 5.1 - n / 10, "bits_per_byte": 2 - n / 20}


def records(first, last):
    """Steps from `first` to `last`, evaluated at every third."""
    found = []
    for n in range(first, last + 1):
        found += [step(n)] + ([evaluation(n)] if n % 3 == 0 else [])
    return found


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The history of these records, or of literal text."""
    log = tmp_path_factory.mktemp("log") / "log.jsonl"

    def history(found):
        text = found if isinstance(found, str) else "".join(json.dumps(record) + "\n" for record in found)
        log.write_text(text, encoding="utf-8")
        return read_history(log)

    return history


def test_an_evaluation_has_the_tokens_and_time_of_its_step(read):
    found = read(records(1, 7))
    assert (found.step, found.tokens, found.seconds) == (7, 700, 3.5)
    assert [(e.step, e.tokens, e.seconds, e.lr) for e in found.evaluations] == [(3, 300, 1.5, 1e-3), (6, 600, 3, 1e-3)]
    assert found.evaluations[0].val_loss == pytest.approx(4.8)


@settings(max_examples=50)
@given(ends=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), st.booleans()), max_size=5))
def test_kills_and_resumes_leave_no_trace(read, ends):
    uninterrupted = records(1, 14)
    log, checkpoint = [], 0
    for killed, back, resumed in ends:  # killed at this step, resumed from a checkpoint before it
        killed = max(killed, checkpoint)
        lost = [r | dict.fromkeys(r.keys() & {"elapsed", "val_loss"}, 99.0) for r in records(checkpoint + 1, killed)]
        kept = max(checkpoint, killed - back)
        log += records(checkpoint + 1, kept) + [r for r in lost if r["step"] > kept]
        checkpoint = kept
        log += [{"event": "resume", "step": checkpoint}] if resumed and checkpoint else []
    assert read(log + records(checkpoint + 1, 14)) == read(uninterrupted)


def test_records_after_a_rollback_are_dropped(read):
    back = {"event": "rollback", "step": 4, "bad_step": 9}
    late = {"event": "evaluate", "step": 9, "results": {"cloze": {"acc": 0.9}}}
    assert read([*records(1, 9), late, back]) == read(records(1, 4))


UNUSABLE_LINES = {
    "torn": '{"event": "eval", "st',
    "blank": "",
    "a list": "[1, 2]",
    "null": "null",
    "a separator": "\u2028",
    "no event": '{"step": 3}',
    "a listed event": '{"event": ["step"], "step": 3}',
    "a step in words": '{"event": "eval", "step": "three"}',
    "a step below": '{"event": "eval", "step": -1}',
    "a step beyond": '{"event": "eval", "step": 10000000000000000000000}',
    "listed results": '{"event": "evaluate", "step": 3, "results": [1]}',
    "a result that is no mapping": '{"event": "evaluate", "step": 3, "results": {"cloze": 1}}',
    "an abyss": "[" * 100_000,
}


@pytest.mark.parametrize("line", UNUSABLE_LINES.values(), ids=UNUSABLE_LINES)
def test_unusable_lines_are_left_out(read, line):
    lines = [json.dumps(record) for record in records(1, 7)]
    assert read("\n".join([*lines[:4], line, *lines[4:], line])) == read("\n".join(lines))


def test_a_skipped_step_is_a_step_too(read):
    assert read([step(1), step(2), step(3, "skip"), evaluation(3)]).evaluations[0].tokens == 300


def test_an_evaluation_whose_step_is_lost_is_left_out(read):
    assert read([step(1), step(2), evaluation(3), step(4)]).evaluations == ()
    assert read([evaluation(0), step(1)]).evaluations[0].tokens == 0


def test_a_loss_that_is_not_a_number_is_none(read):
    (found,) = read(
        [step(1), {**evaluation(1), "val_loss": None, "bits_per_byte": True, "train_loss": "x"}]
    ).evaluations
    assert (found.val_loss, found.bits_per_byte, found.train_loss) == (None, None, None)


@pytest.mark.parametrize("event", ["eval_checkpoint", "evaluate"])  # the second by previous versions
def test_the_newest_result_of_each_task_counts_in_training_or_after(read, event):
    logged = [
        *records(1, 2),
        step(3),
        {**evaluation(3), "tasks": {"a": {"acc": 0.1, "n": 5}, "b": {"acc": 0.2}}},
        *records(4, 9),
    ]
    late = {"event": event, "step": 6, "results": {"a": {"acc": 0.3, "n": 7, "note": "text"}}}
    assert read([*logged, late]).tasks == {"a": Task(6, {"acc": 0.3, "n": 7.0}), "b": Task(3, {"acc": 0.2})}


def test_no_log_is_an_empty_history(tmp_path):
    assert read_history(tmp_path / "log.jsonl").evaluations == ()


def test_of_a_line_longer_than_any_record_only_the_first_part_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("groundup.checkpoint.log.MAX_BYTES", 200)
    log, lines = tmp_path / "log.jsonl", [json.dumps(evaluation(n)) for n in (1, 2)]
    inner = "x" * 199 + lines[0]  # a record within the long line is none
    log.write_text("\n".join([lines[0], "y" * 1000, inner, lines[1]]) + "\n")
    unreadable = []
    found = [record["step"] for record in iter_log(log, on_unreadable=unreadable.append)]
    assert found == [1, 2]
    assert unreadable == [b"y" * 200, inner[:200].encode()]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_log_that_is_no_file_is_one_sentence(kind, tmp_path):
    log = tmp_path / "log.jsonl"
    os.mkfifo(log) if kind == "pipe" else log.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"log\.jsonl: not a regular file; "):
        read_log(log)


@pytest.mark.parametrize("results", [None, [], "a", {"a": 1}, {"a": ["b"]}, {"a": {"b": "c"}, "loss": {"e": 1}}])
def test_results_of_another_type_have_no_metrics(results):
    assert not any(task_metrics(results).values())


class CountedInt(int):
    """A step of a record, which counts how often it is compared."""

    compared = 0

    def __gt__(self, other):
        CountedInt.compared += 1
        return int(self) > other

    def __le__(self, other):
        CountedInt.compared += 1
        return int(self) <= other


@pytest.mark.parametrize("read", [read_history, last_saved])
def test_a_log_of_many_evaluations_and_many_returns_is_read_in_proportion_to_its_length(read, tmp_path, monkeypatch):
    n = 500
    kept = [{"event": event, "step": CountedInt(i)} for i in range(n) for event in ("eval", "save")]
    returns = [{"event": "resume", "step": CountedInt(n)} for _ in range(n)]
    monkeypatch.setattr(log_module, "iter_log", lambda *_, **__: iter([*kept, *returns]))
    CountedInt.compared = 0
    assert read(tmp_path)
    assert CountedInt.compared < 20 * len(kept + returns)
