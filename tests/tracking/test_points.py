"""PointBuilder: records of log.jsonl as points for trackers."""

import subprocess
import sys

import pytest

from groundup.tracking import base
from groundup.tracking.base import PointBuilder, fenced, flatten

STEP = {"step": 3, "tokens": 64, "loss": 2.5, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 1000.0, "cursor": [1, 2]}


def test_step():
    point = PointBuilder().build("step", STEP)
    drawn = {name: value for name, value in point.numbers.items() if name.startswith("train/")}
    assert point.step == 3
    assert drawn == {
        "train/loss": 2.5,
        "train/lr": 1e-3,
        "train/grad_norm": 0.5,
        "train/tokens_per_s": 1000.0,
        "train/tokens": 64.0,
    }


def test_memory_is_drawn_in_gb(monkeypatch):
    monkeypatch.setattr(base, "process_memory", lambda: 2_500_000_000)
    monkeypatch.setattr(base, "peak_gpu_memory", lambda: None)
    numbers = PointBuilder().build("step", STEP).numbers
    assert numbers["memory/process_gb"] == 2.5
    assert "memory/gpu_gb" not in numbers


def test_mfu_equals_the_published_value_of_palm():
    """PaLM 540B (arXiv:2204.02311): 238,300 tokens/s on 6,144 chips of 275 TFLOP/s are stated as 46.2 %."""
    N, L, H, Q, T = 540.35e9, 118, 48, 256, 2048
    points = PointBuilder(6 * N + 12 * L * H * Q * T, 6144 * 275e12)
    assert points.build("step", {**STEP, "tokens_per_s": 238.3e3}).numbers["train/mfu"] == pytest.approx(
        0.462, abs=0.001
    )


@pytest.mark.parametrize("known", [(None, 1e12), (1e9, None), (None, None), (1e9, 0)])
def test_no_mfu_without_flops(known):
    assert "train/mfu" not in PointBuilder(*known).build("step", STEP).numbers


def test_evaluation():
    point = PointBuilder().build("eval", {"step": 9, "train_loss": 1.0, "val_loss": 2.0, "bits_per_byte": 1.5})
    assert (point.step, point.numbers) == (
        9,
        {"train/eval_loss": 1.0, "val/loss": 2.0, "val/bits_per_byte": 1.5},
    )


def test_missing_and_infinite_values_are_left_out():
    point = PointBuilder().build("eval", {"step": 9, "train_loss": None, "val_loss": float("nan")})
    assert point.numbers == {}
    assert "train/loss" not in PointBuilder().build("step", {**STEP, "loss": None}).numbers


def test_samples_and_other_events():
    points = PointBuilder()
    assert points.build("sample", {"step": 4, "text": "Once"}).texts == {"sample": "Once"}
    assert points.build("rollback", {"step": 2, "to": "x"}).numbers == {"event/rollback": 1.0}
    assert points.build("resume", {}).step == 2  # the last one known


def test_text_is_fenced_in_markdown():
    assert fenced("a ``` b").splitlines() == ["````text", "a ``` b", "````"]


def test_nested_config_becomes_dotted_keys():
    assert flatten({"a": {"b": 1, "c": None}, "d": (1, 2), "e": True}) == {"a.b": 1, "d": "(1, 2)", "e": True}


def test_neither_torch_nor_a_tracker_is_imported_early():
    code = (
        "import sys, groundup.tracking.trackers; from groundup.tracking.base import PointBuilder;"
        "PointBuilder().build('step', {'step': 1});"
        "print(sorted({'torch', 'wandb', 'trackio', 'tensorboard'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_task_metrics_without_errors_and_counts():
    found = {"n": 500, "acc": 0.25, "acc_stderr": 0.02, "acc_norm": 0.3, "acc_norm_stderr": 0.02}
    point = PointBuilder().build("eval", {"step": 7, "val_loss": 2.0, "tasks": {"hellaswag": found}})
    assert point.numbers == {"val/loss": 2.0, "tasks/hellaswag/acc": 0.25, "tasks/hellaswag/acc_norm": 0.3}
