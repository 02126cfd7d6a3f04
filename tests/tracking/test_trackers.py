"""A tracker that fails, hangs or dawdles costs a run one line, and nothing else."""

import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import groundup
from groundup.checkpoint.log import Log, read_log
from groundup.config.sections import TrackingConfig
from groundup.errors import ConfigError
from groundup.tracking import trackers
from groundup.tracking.async_tracker import AsyncTracker, Limits, plain
from groundup.tracking.base import RunInfo, TrackerType
from groundup.tracking.points import Points
from groundup.tracking.trackers import Trackers, check, open_trackers

STEP = {"step": 1, "tokens": 64, "loss": 2.5, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 1000.0, "cursor": 4}
PATIENT = Limits()


class Fake:
    """Keeps what it is told; `log` does what the test wants first."""

    def __init__(self, before=lambda point: None, before_close=lambda: None):
        self.points, self.closed = [], 0
        self._before, self._before_close = before, before_close

    def log(self, point):
        self._before(point)
        self.points.append(point)

    def close(self):
        self.closed += 1
        self._before_close()


@pytest.fixture
def said():
    return []


@pytest.fixture
def place(tmp_path):
    return RunInfo("p", "run", "0" * 12, tmp_path, offline=True, facts={})


@pytest.fixture
def make(place, said):
    def make(*fakes, limits=PATIENT, opens=None, abandon=lambda: None, **pace):
        feeders = [
            AsyncTracker(
                TrackerType(f"fake{i}", opens or (lambda _, f=fake: f), "mend it", abandon), place, Points(), limits
            )
            for i, fake in enumerate(fakes)
        ]
        return Trackers(feeders, said.append, **pace)

    return make


@pytest.fixture
def hang():
    """A call that does not return until the test is over."""
    over = threading.Event()
    yield lambda *_: over.wait(30)
    over.set()


def eventually(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited for 10 s"
        time.sleep(0.005)


def test_every_tracker_gets_every_record_in_order(make, said):
    one, other = Fake(), Fake()
    shown = make(one, other)
    for step in range(50):
        shown.record("step", {**STEP, "step": step})
    shown.record("eval", {"step": 50, "val_loss": 2.0})
    shown.close(10)
    assert [p.step for p in one.points] == [p.step for p in other.points] == list(range(51))
    assert one.points[3].numbers["train/loss"] == 2.5
    assert one.closed == other.closed == 1
    assert said == []


def test_the_record_is_taken_as_it_was(make, hang):
    gate = threading.Event()
    fake = Fake(before=lambda _: gate.wait(10))
    shown, values = make(fake), dict(STEP)
    shown.record("step", values)
    values["loss"] = 99.0
    gate.set()
    shown.close(10)
    assert fake.points[0].numbers["train/loss"] == 2.5


@pytest.mark.parametrize("error", [OSError("no route to host"), ImportError("half installed"), SystemExit(3)])
@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_a_tracker_that_raises_is_switched_off_in_one_line(make, said, error, when):
    def fail(*_):
        raise error

    bad = Fake(before=fail if when == "log" else lambda _: None, before_close=fail if when == "close" else lambda: None)
    good = Fake()
    shown = make(bad, good, opens=None)
    if when == "open":
        shown = make(bad, opens=fail)
        shown._feeders += make(good)._feeders
    for step in range(20):
        shown.record("step", {**STEP, "step": step})
        time.sleep(0.001)
    shown.close(10)
    assert len(good.points) == 20
    assert len(said) == 1
    assert said[0].startswith("tracking: fake0 is switched off: ")
    assert str(error) in said[0]
    assert "mend it" in said[0]
    assert "log.jsonl has everything" in said[0]


@pytest.mark.parametrize("when", ["open", "log"])
def test_a_tracker_that_hangs_is_switched_off_while_the_run_goes_on(make, said, hang, when):
    limits, abandoned = Limits(start_s=0.2, call_s=0.2), []
    stuck = Fake(before=hang)
    shown = make(stuck, opens=hang if when == "open" else None, limits=limits, abandon=lambda: abandoned.append(1))
    slowest, began = 0.0, time.monotonic()
    while not said:
        assert time.monotonic() - began < 10
        before = time.perf_counter()
        shown.record("step", STEP)
        slowest = max(slowest, time.perf_counter() - before)
        time.sleep(0.01)
    assert said == [
        "tracking: fake0 is switched off: a call has not returned in 0.2 s; mend it; log.jsonl has everything"
    ]
    assert abandoned == [1]
    assert slowest < 0.1  # where hanging took 0.2 s
    before = time.monotonic()
    shown.record("step", STEP)
    shown.close(5)
    assert time.monotonic() - before < 1
    assert len(said) == 1


def test_the_end_waits_for_no_tracker_longer_than_it_says(make, said, hang):
    abandoned = []
    good = Fake()
    shown = make(Fake(before=hang), Fake(before_close=hang), good, abandon=lambda: abandoned.append(1))
    for step in range(5):
        shown.record("step", {**STEP, "step": step})
    before = time.monotonic()
    shown.close(0.5)
    assert time.monotonic() - before < 2
    assert len(good.points) == 5
    assert [line.split(":")[1] for line in said] == [" fake0 is switched off", " fake1 is switched off"]
    assert "4 records were waiting" in said[0]
    assert abandoned == [1, 1]
    shown.record("step", STEP)
    shown.close(5)  # a second time does nothing
    assert len(said) == 2


def test_a_slow_tracker_loses_records_which_is_counted_and_said(make, said):
    gate = threading.Event()
    slow = Fake(before=lambda _: gate.wait(10))
    shown = make(slow, limits=Limits(queue=3))
    shown.record("step", {**STEP, "step": 0})
    eventually(lambda: not shown._feeders[0]._records)  # taken, and held by the tracker
    for step in range(1, 10):
        shown.record("step", {**STEP, "step": step})
    assert said == [
        "tracking: fake0: too slow: 3 records are waiting, and further ones are left out; log.jsonl has them all"
    ]
    gate.set()
    shown.close(10)
    assert [p.step for p in slow.points] == [0, 1, 2, 3]
    assert said[1:] == ["tracking: fake0 misses 6 records; log.jsonl has them all"]


def test_steps_that_come_too_fast_are_thinned_but_never_the_rest_nor_the_last(make, said):
    fake = Fake()
    shown = make(fake, steps_per_s=0.001, burst=2)
    for step in range(10):
        shown.record("step", {**STEP, "step": step})
        shown.record("sample", {"step": step, "text": "x"}) if step == 5 else None
    shown.close(10)
    assert [(p.step, bool(p.texts)) for p in fake.points] == [(0, False), (1, False), (5, True), (9, False)]
    assert said == []


def test_the_last_step_is_shown_though_other_records_come_after_it(make):
    fake = Fake()
    shown = make(fake, steps_per_s=0.001, burst=2)
    for step in range(10):
        shown.record("step", {**STEP, "step": step})
    shown.record("eval", {"step": 9, "val_loss": 2.0})
    shown.record("save", {"step": 9})
    shown.close(10)
    assert [p.step for p in fake.points if "train/loss" in p.numbers] == [0, 1, 9]


def overrides(**more):
    return {
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
        "train": {"max_steps": 3, "batch_tokens": 64, "threads": 1, "precision": "fp32", "device": "cpu"},
        "evaluate": {"tokens": 100, "sample_tokens": 0},
        "tracking": {"to": ["wandb"], "offline": True},
        **more,
    }


@pytest.fixture
def watched(monkeypatch):
    """Stands for wandb in runs to come."""
    fake = Fake()
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="somewhere"))
    monkeypatch.setitem(trackers.KINDS, "wandb", TrackerType("wandb", lambda place: fake, ""))
    return fake


def test_a_run_tells_its_trackers_everything_down_to_the_last_save(watched, prepared, tmp_path):
    groundup.train(prepared, tmp_path / "run", overrides=overrides())
    logged = [record["event"] for record in read_log(tmp_path / "run" / "log.jsonl")]
    shown = ["step" if "train/loss" in p.numbers else next(iter(p.numbers)) for p in watched.points]
    assert logged.count("save") == shown.count("event/save") == 1
    assert len(shown) == len(logged)


def test_the_log_is_flushed_even_where_the_trackers_cannot_be_closed(watched, prepared, tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("close")

    closed = []
    close = Log.close
    monkeypatch.setattr(Trackers, "close", fail)
    monkeypatch.setattr(Log, "close", lambda self: (close(self), closed.append(self)))
    with pytest.raises(RuntimeError, match="close"):
        groundup.train(prepared, tmp_path / "run", overrides=overrides())
    assert len(closed) == 1


def test_steps_return_as_time_passes(make):
    fake = Fake()
    shown = make(fake, steps_per_s=50, burst=1)
    for step in range(2):
        shown.record("step", {**STEP, "step": step})
        time.sleep(0.1)
    shown.record("step", {**STEP, "step": 2})
    shown.close(10)
    assert [p.step for p in fake.points] == [0, 1, 2]


def test_without_trackers_nothing_is_written(tmp_path, said):
    shown = open_trackers(TrackingConfig(), tmp_path, {}, said.append)
    shown.record("step", STEP)
    shown.close()
    assert list(tmp_path.iterdir()) == []
    assert said == []


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_an_error_before_training(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        check(TrackingConfig(to=(name,)))
    assert str(caught.value) == f"tracking.backends: {name} is not installed; pip install 'groundup[track]'"


@pytest.mark.parametrize(("have", "good"), [("0.31.0", True), ("0.30.9", False), ("1.0", False)])
def test_a_version_that_was_never_tried_is_an_error_before_training(monkeypatch, have, good):
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="somewhere"))
    monkeypatch.setattr(trackers.metadata, "version", lambda _: have)
    monkeypatch.setattr(trackers.metadata, "requires", lambda _: ["wandb>=0", "wandb<1,>=0.31; extra == 'track'"])
    if good:
        check(TrackingConfig(to=("wandb",)))
        return
    with pytest.raises(ConfigError, match=rf"wandb is {have}, but groundup needs <1,>=0\.31; pip install"):
        check(TrackingConfig(to=("wandb",)))


def test_a_folder_of_that_name_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="not installed"):
        check(TrackingConfig(to=("wandb",)))


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_offline_is_offline(monkeypatch, variable):
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="somewhere"))
    monkeypatch.setenv(variable, "https://example.org?write_token=abc")
    check(TrackingConfig(to=("trackio",)))
    with pytest.raises(ConfigError, match=variable) as caught:
        check(TrackingConfig(to=("trackio",), offline=True))
    assert "abc" not in str(caught.value)


def test_a_resumed_run_keeps_its_id(monkeypatch, tmp_path, said):
    seen = []
    monkeypatch.setitem(trackers.KINDS, "wandb", TrackerType("wandb", lambda place: seen.append(place) or Fake(), ""))
    run = tmp_path / "my run ü"
    run.mkdir()
    for _ in range(2):
        open_trackers(TrackingConfig(to=("wandb",), project="mine"), run, {}, said.append).close(10)
    assert seen[0].id == seen[1].id
    assert seen[0].name == seen[1].name == f"my-run-{seen[0].id[:6]}"
    assert seen[0].project == "mine"
    assert said == []
    assert [path.name for path in run.iterdir()] == ["tracking.json"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", json.dumps({"id": "../../x", "name": "a"}), json.dumps({"id": "0" * 12, "name": "../a"})]
)
def test_a_damaged_identity_is_replaced_and_never_a_path(monkeypatch, tmp_path, said, text):
    seen = []
    monkeypatch.setitem(trackers.KINDS, "wandb", TrackerType("wandb", lambda place: seen.append(place) or Fake(), ""))
    (tmp_path / "tracking.json").write_text(text)
    open_trackers(TrackingConfig(to=("wandb",)), tmp_path, {}, said.append).close(10)
    assert ".." not in seen[0].id + seen[0].name
    assert len(said) == 1
    assert "damaged" in said[0]
    assert json.loads((tmp_path / "tracking.json").read_text())["id"] == seen[0].id


def test_a_folder_that_cannot_be_written_stops_nothing(monkeypatch, tmp_path, said):
    monkeypatch.setitem(trackers.KINDS, "wandb", TrackerType("wandb", lambda place: Fake(), ""))
    open_trackers(TrackingConfig(to=("wandb",)), tmp_path / "gone", {}, said.append).close(10)
    assert "cannot be written" in said[0]


def test_a_reason_shows_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-value")
    reason = plain(OSError("https://me:pw@host/?write_token=abc&x=1 refused s3cr3t-value\nand more " + "x" * 500))
    assert not any(secret in reason for secret in ("s3cr3t", "abc", "pw@"))
    assert "\n" not in reason
    assert len(reason) == 200
