"""What is drawn for each record of log.jsonl."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from groundup.tracking.base import flat
from groundup.tracking.points import Points, _memory, fenced
from groundup.utils.system import process_memory

STEP = {"step": 3, "tokens": 64, "loss": 2.5, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 1000.0, "cursor": [1, 2]}


def test_a_step():
    point = Points().of("step", STEP)
    drawn = {name: value for name, value in point.numbers.items() if name.startswith("train/")}
    assert point.step == 3
    assert drawn == {
        "train/loss": 2.5,
        "train/lr": 1e-3,
        "train/grad_norm": 0.5,
        "train/tokens_per_s": 1000.0,
        "train/tokens": 64.0,
    }


def test_mfu_is_palms():
    """PaLM 540B (arXiv:2204.02311): 238,300 tokens/s on 6,144 chips of 275 TFLOP/s are said to be 46.2 %."""
    N, L, H, Q, T = 540.35e9, 118, 48, 256, 2048
    points = Points(6 * N + 12 * L * H * Q * T, 6144 * 275e12)
    assert points.of("step", {**STEP, "tokens_per_s": 238.3e3}).numbers["train/mfu"] == pytest.approx(0.462, abs=0.001)


@pytest.mark.parametrize("known", [(None, 1e12), (1e9, None), (None, None), (1e9, 0)])
def test_no_mfu_where_it_is_unknown(known):
    assert "train/mfu" not in Points(*known).of("step", STEP).numbers


def test_an_evaluation():
    point = Points().of("eval", {"step": 9, "train_loss": 1.0, "val_loss": 2.0, "bits_per_byte": 1.5})
    assert (point.step, point.numbers) == (
        9,
        {"train/eval_loss": 1.0, "val/loss": 2.0, "val/bits_per_byte": 1.5},
    )


def test_what_is_missing_or_not_finite_is_left_out():
    point = Points().of("eval", {"step": 9, "train_loss": None, "val_loss": float("nan")})
    assert point.numbers == {}
    assert "train/loss" not in Points().of("step", {**STEP, "loss": None}).numbers


def test_samples_and_other_events():
    points = Points()
    assert points.of("sample", {"step": 4, "text": "Once"}).texts == {"sample": "Once"}
    assert points.of("rollback", {"step": 2, "to": "x"}).numbers == {"event/rollback": 1.0}
    assert points.of("resume", {}).step == 2  # the last one known


def test_text_stays_text_in_markdown():
    assert fenced("a ``` b").splitlines() == ["````text", "a ``` b", "````"]


def test_nested_config_becomes_dotted_keys():
    assert flat({"a": {"b": 1, "c": None}, "d": (1, 2), "e": True}) == {"a.b": 1, "d": "(1, 2)", "e": True}


def test_memory_of_this_process():
    before = process_memory()
    ballast = bytearray(64_000_000)
    assert process_memory() - before > 50_000_000
    assert ballast[0] == 0
    assert 0.001 < _memory()["memory/process_gb"] < 1000


def test_memory_of_gpus(monkeypatch):
    cuda = SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 2, max_memory_allocated=lambda i: [3_000_000_000, 0][i]
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert _memory()["memory/gpu_gb"] == 3.0
    cuda.is_initialized = lambda: False
    assert "memory/gpu_gb" not in _memory()


def test_neither_torch_nor_a_tracker_is_imported_for_nothing():
    code = (
        "import sys, groundup.tracking.trackers; from groundup.tracking.points import Points;"
        "Points().of('step', {'step': 1});"
        "print(sorted({'torch', 'wandb', 'trackio', 'tensorboard'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_tasks_are_drawn_without_their_errors_and_counts():
    found = {"n": 500, "acc": 0.25, "acc_stderr": 0.02, "acc_norm": 0.3, "acc_norm_stderr": 0.02}
    point = Points().of("eval", {"step": 7, "val_loss": 2.0, "tasks": {"hellaswag": found}})
    assert point.numbers == {"val/loss": 2.0, "tasks/hellaswag/acc": 0.25, "tasks/hellaswag/acc_norm": 0.3}
