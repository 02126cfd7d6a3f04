"""A run's folder from others contacts no tracker; one that this account tracks goes on without asking."""

import json

import pytest

import groundup
from groundup.config.sections import TrackingConfig
from groundup.errors import ConfigError
from groundup.run import logger
from groundup.run.start import reconfigure, start_or_resume
from groundup.tracking import permission
from groundup.tracking.trackers import NullTracker
from groundup.ui.display import NullDisplay, PlainDisplay

OVERRIDES = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 2, "batch_tokens": 64, "threads": 1, "device": "cpu", "precision": "fp32"},
    "evaluate": {"sample_tokens": 0, "tokens": 64},
}
WANDB = {"tracking": {"backends": ["wandb", "tensorboard"]}}
LONGER = {"train": {"max_steps": 3}}


@pytest.fixture
def opened(monkeypatch):
    """The trackers that are opened, run by run; none is contacted."""
    found = []

    def open_trackers(config, run, settings, say):
        found.append(config.backends)
        return NullTracker()

    monkeypatch.setattr(logger, "open_trackers", open_trackers)
    monkeypatch.setattr("groundup.run.resolve.check_trackers", lambda config: None)
    return found


@pytest.fixture
def new_process(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(permission, "_asked_here", set())
    return lambda: monkeypatch.setattr(permission, "_asked_here", set())


@pytest.fixture
def foreign(prepared, tmp_path, opened, new_process):
    """A run of another account that was tracked."""
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES | WANDB)
    (note,) = (tmp_path / "state/groundup/tracked").iterdir()
    assert note.name == json.loads((tmp_path / "run/tracking.json").read_text())["id"]
    note.unlink()
    opened.clear()
    new_process()
    return tmp_path / "run"


def test_a_run_of_others_contacts_no_tracker_and_says_how_to(foreign, opened):
    lines = []
    groundup.resume(foreign, overrides=LONGER, display=PlainDisplay(lines.append))
    assert opened == [("tensorboard",)]
    (line,) = [line for line in lines if line.startswith("tracking")]
    assert f"`groundup resume {foreign} --track wandb,tensorboard`" in line
    assert "wandb" in (foreign / "config.yaml").read_text(), "the config stays what it was"


def test_trackers_that_nobody_asked_for_need_not_be_installed(foreign, opened, monkeypatch):
    def check(config):
        if "wandb" in config.backends:
            raise ConfigError("wandb is not installed")

    monkeypatch.setattr("groundup.run.resolve.check_trackers", check)
    (foreign / "tracking.json").unlink()
    groundup.resume(foreign, overrides=LONGER)
    assert opened == [("tensorboard",)]
    assert not (foreign / "tracking.json").exists()
    with pytest.raises(ConfigError, match="not installed"):
        groundup.resume(foreign, overrides=WANDB)


@pytest.mark.parametrize("named", ["relative", ""])
def test_notes_lie_where_the_current_folder_does_not_decide(named, foreign, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", named)
    monkeypatch.chdir(tmp_path)
    permission.permit(foreign, lambda _: None)
    (note,) = (tmp_path / "home/.local/state/groundup/tracked").iterdir()
    assert note.name == json.loads((foreign / "tracking.json").read_text())["id"]
    assert not (tmp_path / "relative").exists()


def test_an_option_permits_it_from_then_on(foreign, opened, new_process):
    groundup.resume(foreign, overrides=LONGER | WANDB)
    new_process()
    groundup.resume(foreign, overrides={"train": {"max_steps": 4}})
    assert opened == [("wandb", "tensorboard")] * 2


def test_a_damaged_id_is_said_when_an_option_asks_for_trackers_again(foreign, opened):
    (foreign / "tracking.json").write_text("{")
    lines = []
    groundup.resume(foreign, overrides=LONGER | WANDB, display=PlainDisplay(lines.append))
    assert f"{foreign / 'tracking.json'}: damaged, so trackers show this run as a new one" in lines
    assert opened == [("wandb", "tensorboard")]


def test_other_options_permit_nothing(foreign):
    config, _ = reconfigure(groundup.checkpoint.run_folder.RunFolder(foreign), LONGER)
    assert permission.permitted(config.tracking, foreign, lambda _: None) == TrackingConfig(backends=("tensorboard",))


def test_the_account_that_started_a_run_goes_on_tracking_it(prepared, tmp_path, opened, new_process):
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES | WANDB)
    new_process()  # on another machine with the same home folder
    (tmp_path / "run").rename(tmp_path / "moved")
    groundup.resume(tmp_path / "moved", overrides=LONGER)
    assert opened == [("wandb", "tensorboard")] * 2


def test_a_repeated_command_asks_itself(foreign, prepared, opened):
    config = groundup.api.configure(
        prepared, overrides=OVERRIDES | WANDB | {"train": OVERRIDES["train"] | LONGER["train"]}
    )
    start_or_resume(config, foreign, NullDisplay())
    assert opened == [("wandb", "tensorboard")]


def test_without_a_home_that_can_be_written_the_run_itself_is_tracked(prepared, tmp_path, opened, new_process):
    (tmp_path / "state").touch()
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES | WANDB)
    assert opened == [("wandb", "tensorboard")]
