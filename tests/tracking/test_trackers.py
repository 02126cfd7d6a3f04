"""A tracker that fails, hangs or is slow costs a run one message, and nothing else."""

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
from groundup.tracking.base import PointBuilder, RunInfo, TrackerType
from groundup.tracking.trackers import AsyncTracker, check, open_trackers
from groundup.utils.extras import install_command

STEP = {"step": 1, "tokens": 64, "loss": 2.5, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 1000.0, "cursor": 4}


class Fake:
    """Tracker that keeps its points; `before` is called first."""

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
def messages():
    return []


@pytest.fixture
def run_info(tmp_path):
    return RunInfo("p", "run", "0" * 12, tmp_path, offline=True, facts={})


@pytest.fixture
def make(run_info, messages):
    """Open an AsyncTracker for these trackers, or for functions that open one."""

    def make(*fakes, abandon=lambda: None, **options):
        types = [
            TrackerType(f"fake{i}", fake if callable(fake) else (lambda _, f=fake: f), "fix it", abandon)
            for i, fake in enumerate(fakes)
        ]
        return AsyncTracker(types, run_info, PointBuilder(), messages.append, **options)

    return make


@pytest.fixture
def hang():
    """A call that does not return until the test is over."""
    over = threading.Event()
    yield lambda *_: over.wait(300)
    over.set()


def eventually(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited for 300 s"
        time.sleep(0.005)


def test_every_tracker_gets_every_record_in_order(make, messages):
    one, other = Fake(), Fake()
    shown = make(one, other)
    for step in range(50):
        shown.record("step", {**STEP, "step": step})
    shown.record("eval", {"step": 50, "val_loss": 2.0})
    shown.close(300)
    assert [p.step for p in one.points] == [p.step for p in other.points] == list(range(51))
    assert one.points[3].numbers["train/loss"] == 2.5
    assert one.closed == other.closed == 1
    assert messages == []


def test_records_are_copied(make, hang):
    gate = threading.Event()
    fake = Fake(before=lambda _: gate.wait(300))
    shown, values = make(fake), dict(STEP)
    shown.record("step", values)
    values["loss"] = 99.0
    gate.set()
    shown.close(300)
    assert fake.points[0].numbers["train/loss"] == 2.5


@pytest.mark.parametrize("error", [OSError("no route to host"), ImportError("half installed"), SystemExit(3)])
@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_a_tracker_that_raises_is_switched_off_with_one_message(make, messages, error, when):
    def fail(*_):
        raise error

    bad = Fake(before=fail if when == "log" else lambda _: None, before_close=fail if when == "close" else lambda: None)
    good = Fake()
    shown = make(fail if when == "open" else bad, good)
    for step in range(20):
        shown.record("step", {**STEP, "step": step})
        time.sleep(0.001)
    shown.close(300)
    assert len(good.points) == 20
    assert len(messages) == 1
    assert messages[0].startswith("tracking: fake0 is switched off: ")
    assert str(error) in messages[0]
    assert "fix it" in messages[0]
    assert "log.jsonl has everything" in messages[0]


@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_a_tracker_that_hangs_neither_slows_the_run_nor_its_end(make, messages, hang, when):
    abandoned = []
    stuck = Fake(before=hang if when == "log" else lambda _: None, before_close=hang)
    shown = make(hang if when == "open" else stuck, abandon=lambda: abandoned.append(1))
    began = time.monotonic()
    for step in range(5):
        shown.record("step", {**STEP, "step": step})
        time.sleep(0.01)
    waiting = {"open": 5, "log": 4, "close": 0}[when]
    eventually(lambda: shown.waiting == waiting)
    assert messages == []
    shown.close(0.5)
    assert time.monotonic() - began < 60  # the call hangs for much longer
    assert messages == [
        f"tracking: fake0 is switched off: it did not finish in time, {waiting} records were waiting; fix it; "
        "log.jsonl has everything"
    ]
    assert abandoned == [1]
    shown.record("step", STEP)
    shown.close(5)  # a second time does nothing
    assert len(messages) == 1


def test_records_beyond_the_queue_are_left_out_and_counted(make, messages):
    gate = threading.Event()
    slow = Fake(before=lambda _: gate.wait(300))
    shown = make(slow, max_queue=3)
    shown.record("step", {**STEP, "step": 0})
    eventually(lambda: shown.waiting == 0)  # taken, and held by the tracker
    for step in range(1, 10):
        shown.record("step", {**STEP, "step": step})
    assert messages == [
        "tracking: fake0 is too slow: 3 records are waiting, and further ones are left out; log.jsonl has them all"
    ]
    gate.set()
    shown.close(300)
    assert [p.step for p in slow.points] == [0, 1, 2, 3]
    assert messages[1:] == ["tracking: 6 records were left out; log.jsonl has them all"]


def test_fast_steps_are_thinned_but_no_other_record_and_not_the_last(make, messages):
    fake = Fake()
    shown = make(fake, first_steps=2, step_seconds=1000)
    for step in range(10):
        shown.record("step", {**STEP, "step": step})
        shown.record("sample", {"step": step, "text": "x"}) if step == 5 else None
    shown.close(300)
    assert [(p.step, bool(p.texts)) for p in fake.points] == [(0, False), (1, False), (5, True), (9, False)]
    assert messages == []


def test_the_last_step_is_shown_though_other_records_come_after_it(make):
    fake = Fake()
    shown = make(fake, first_steps=2, step_seconds=1000)
    for step in range(10):
        shown.record("step", {**STEP, "step": step})
    shown.record("eval", {"step": 9, "val_loss": 2.0})
    shown.record("save", {"step": 9})
    shown.close(300)
    assert [p.step for p in fake.points if "train/loss" in p.numbers] == [0, 1, 9]


def overrides(**more):
    return {
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
        "train": {"max_steps": 3, "batch_tokens": 64, "threads": 1, "precision": "fp32", "device": "cpu"},
        "evaluate": {"tokens": 100, "sample_tokens": 0},
        "tracking": {"backends": ["wandb"], "offline": True},
        **more,
    }


@pytest.fixture
def watched(monkeypatch):
    """Replaces wandb in later runs."""
    fake = Fake()
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="somewhere"))
    monkeypatch.setitem(trackers.BACKENDS, "wandb", TrackerType("wandb", lambda run: fake, ""))
    return fake


def test_trackers_get_every_record_of_a_run_including_the_last_save(watched, prepared, tmp_path):
    groundup.train(prepared, tmp_path / "run", overrides=overrides())
    logged = [record["event"] for record in read_log(tmp_path / "run" / "log.jsonl")]
    shown = ["step" if "train/loss" in p.numbers else next(iter(p.numbers)) for p in watched.points]
    assert logged.count("save") == shown.count("event/save") == 1
    assert len(shown) == len(logged)


def test_the_log_is_flushed_when_trackers_cannot_be_closed(watched, prepared, tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("close")

    closed = []
    close = Log.close
    monkeypatch.setattr(AsyncTracker, "close", fail)
    monkeypatch.setattr(Log, "close", lambda self: (close(self), closed.append(self)))
    with pytest.raises(RuntimeError, match="close"):
        groundup.train(prepared, tmp_path / "run", overrides=overrides())
    assert len(closed) == 1


def test_thinning_depends_on_time(make):
    fake = Fake()
    shown = make(fake, first_steps=1, step_seconds=0.02)
    for step in range(2):
        shown.record("step", {**STEP, "step": step})
        time.sleep(0.1)
    shown.record("step", {**STEP, "step": 2})
    shown.close(300)
    assert [p.step for p in fake.points] == [0, 1, 2]


def test_without_trackers_nothing_is_written(tmp_path, messages):
    shown = open_trackers(TrackingConfig(), tmp_path, {}, messages.append)
    shown.record("step", STEP)
    shown.close()
    assert list(tmp_path.iterdir()) == []
    assert messages == []


@pytest.mark.parametrize("names", [("wandb",), ("wandb", "tensorboard")])
def test_a_tracker_whose_folder_in_the_run_is_a_link_is_switched_off(monkeypatch, tmp_path, messages, names):
    opened = []
    for name in names:
        kind = TrackerType(name, lambda run, name=name: opened.append(name) or Fake(), "")
        monkeypatch.setitem(trackers.BACKENDS, name, kind)
    (tmp_path / "wandb").symlink_to(tmp_path / "elsewhere")
    shown = open_trackers(TrackingConfig(backends=names), tmp_path, {}, messages.append)
    shown.record("step", STEP)
    shown.close(300)
    assert opened == [*names[1:]]
    assert messages == [f"{tmp_path / 'wandb'}: is a link, which is not followed, so wandb is switched off; remove it"]


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_an_error_before_training(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        check(TrackingConfig(backends=(name,)))
    assert str(caught.value) == f"tracking.backends: {name} is not installed; {install_command('track')}"


@pytest.mark.parametrize(("have", "good"), [("0.31.0", True), ("0.30.9", False), ("1.0", False)])
def test_an_untested_version_is_an_error_before_training(monkeypatch, have, good):
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="somewhere"))
    monkeypatch.setattr("importlib.metadata.version", lambda _: have)
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["wandb>=0", "wandb<1,>=0.31; extra == 'track'"])
    if good:
        check(TrackingConfig(backends=("wandb",)))
        return
    with pytest.raises(ConfigError, match=rf"wandb is {have}, but groundup needs <1,>=0\.31; pip install"):
        check(TrackingConfig(backends=("wandb",)))


def test_a_folder_with_a_trackers_name_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="not installed"):
        check(TrackingConfig(backends=("wandb",)))


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_offline_refuses_a_remote_trackio(monkeypatch, variable):
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="somewhere"))
    monkeypatch.setenv(variable, "https://example.org?write_token=abc")
    check(TrackingConfig(backends=("trackio",)))
    with pytest.raises(ConfigError, match=variable) as caught:
        check(TrackingConfig(backends=("trackio",), offline=True))
    assert "abc" not in str(caught.value)


def test_a_resumed_run_keeps_its_id(monkeypatch, tmp_path, messages):
    seen = []
    monkeypatch.setitem(trackers.BACKENDS, "wandb", TrackerType("wandb", lambda run: seen.append(run) or Fake(), ""))
    run = tmp_path / "my run ü"
    run.mkdir()
    for _ in range(2):
        open_trackers(TrackingConfig(backends=("wandb",), project="mine"), run, {}, messages.append).close(300)
    assert seen[0].id == seen[1].id
    assert seen[0].name == seen[1].name == f"my-run-{seen[0].id[:6]}"
    assert seen[0].project == "mine"
    assert messages == []
    assert [path.name for path in run.iterdir()] == ["tracking.json"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", json.dumps({"id": "../../x", "name": "a"}), json.dumps({"id": "0" * 12, "name": "../a"})]
)
def test_a_damaged_identity_is_replaced_and_never_a_path(monkeypatch, tmp_path, messages, text):
    seen = []
    monkeypatch.setitem(trackers.BACKENDS, "wandb", TrackerType("wandb", lambda run: seen.append(run) or Fake(), ""))
    (tmp_path / "tracking.json").write_text(text)
    open_trackers(TrackingConfig(backends=("wandb",)), tmp_path, {}, messages.append).close(300)
    assert ".." not in seen[0].id + seen[0].name
    assert len(messages) == 1
    assert "damaged" in messages[0]
    assert json.loads((tmp_path / "tracking.json").read_text())["id"] == seen[0].id


def test_a_folder_that_cannot_be_written_is_reported(monkeypatch, tmp_path, messages):
    monkeypatch.setitem(trackers.BACKENDS, "wandb", TrackerType("wandb", lambda run: Fake(), ""))
    open_trackers(TrackingConfig(backends=("wandb",)), tmp_path / "gone", {}, messages.append).close(300)
    assert "cannot be written" in messages[0]


def test_a_reason_is_one_short_line(make, messages):
    def fail(_):
        raise OSError("refused\nand more " + "x" * 500)

    make(fail).close(300)
    (line,) = messages
    assert "\n" not in line
    assert "refused and more xxx" in line
    assert len(line) < 300
