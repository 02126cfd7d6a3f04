"""The training loop, on models small enough to check by hand."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from groundup.config.model import ModelConfig
from groundup.config.sections import OptimizerConfig, ScheduleConfig
from groundup.data.windows import ShuffledWindows
from groundup.distributed.parallelize import NoParallel
from groundup.errors import TrainingError
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.ema import NoEMA
from groundup.optim.optimizer import build_optimizer
from groundup.optim.run_length import Progress, StepLength, TimeLength
from groundup.optim.schedule import build_schedule
from groundup.training.guard import LossGuard
from groundup.training.loop import fit
from groundup.training.micro_batches import BatchLoader
from groundup.training.train_state import TrainState


class Text:
    def __init__(self, n: int = 2000) -> None:
        self.ids = (np.arange(n) // 3 + np.random.default_rng(0).integers(0, 2, n)) % 20  # half noise, half pattern

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, n: int) -> np.ndarray:
        return self.ids[start : start + n].astype(np.int64)


def train(
    steps=5,
    *,
    micro_batch_size=8,
    dropout=0.0,
    run_length=None,
    should_stop=lambda: False,
    hooks=(),
    grad_clip=1.0,
    prepare=lambda model: None,
    optimizer=lambda model: build_optimizer(model.named_parameters(), OptimizerConfig(learning_rate=0.01)),
):
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=20, dropout=dropout))
    model.init_weights(torch.Generator().manual_seed(0))
    prepare(model)
    infos = []
    state = TrainState(
        model,
        optimizer(model),
        NoEMA(),
        torch.amp.GradScaler("cpu", enabled=False),
        LossGuard(max_bad_steps=3),
        micro_batch_size,
    )
    fit(
        NextTokenLoss(model),
        state,
        BatchLoader(ShuffledWindows(Text(), 8, seed=1), batch_size=8, device=torch.device("cpu")),
        build_schedule(ScheduleConfig(warmup_steps=2), 0.01, steps),
        run_length or StepLength(steps),
        grad_clip=grad_clip,
        parallel=NoParallel(),
        autocast=nullcontext,
        hooks=[infos.append, *hooks],
        should_stop=should_stop,
    )
    return model, infos, state.progress


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("size", [1, 3, 4])
def test_accumulation_equals_the_full_batch_even_with_a_ragged_last_micro_batch(size):
    full, infos, _ = train(micro_batch_size=8)
    accumulated, other, _ = train(micro_batch_size=size)
    assert [i.loss for i in other] == pytest.approx([i.loss for i in infos], abs=1e-5)
    torch.testing.assert_close(weights(accumulated), weights(full), atol=1e-5, rtol=1e-4)


def test_the_loss_falls_and_progress_is_counted():
    _, infos, progress = train(steps=60)
    assert infos[-1].loss < 0.8 * infos[0].loss
    assert (progress.step, progress.tokens, progress.cursor) == (60, 60 * 64, 60 * 8)
    assert [i.step for i in infos] == list(range(1, 61))
    assert [i.finished for i in infos] == [False] * 59 + [True]
    assert infos[0].loss == pytest.approx(np.log(20), abs=0.1)


def test_clipping_bounds_the_gradient_and_the_step_info_has_the_norm_before_it():
    class Recorded(torch.optim.SGD):
        norms = ()

        def step(self):
            grads = [p.grad.norm() for group in self.param_groups for p in group["params"]]
            Recorded.norms = (*Recorded.norms, torch.stack(grads).norm().item())

    _, infos, _ = train(steps=2, grad_clip=0.01, optimizer=lambda model: Recorded(model.parameters()))
    assert Recorded.norms == pytest.approx([0.01, 0.01], rel=1e-3)
    assert infos[0].grad_norm > 0.1


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_non_finite_gradient_never_reaches_the_weights(poison):
    before = {}

    def prepare(model):
        before["w"] = weights(model)

    def poisoned(model):
        prepare(model)
        model.h[0].mlp.c_fc.weight.register_hook(lambda grad: grad * poison)

    with pytest.raises(TrainingError, match="3 steps in a row"):
        train(prepare=poisoned, hooks=[lambda info: before.setdefault("applied", []).append(info.applied)])
    assert before["applied"] == [False, False]


def test_a_single_bad_step_is_skipped_and_training_continues():
    calls = iter([False, True, False, False, False])

    def once(model):
        model.h[0].mlp.c_fc.weight.register_hook(lambda grad: grad * float("nan") if next(calls) else grad)

    model, infos, _ = train(prepare=once)
    assert [i.applied for i in infos] == [True, False, True, True, True]
    assert weights(model).isfinite().all()


def test_hooks_cannot_disturb_training():
    def meddle(info):
        torch.manual_seed(99)
        torch.randn(1000)

    def switch_to_eval(info):
        meddle.model.eval()

    plain, infos, _ = train(dropout=0.2)
    disturbed, other, _ = train(
        dropout=0.2, hooks=[meddle, switch_to_eval], prepare=lambda m: setattr(meddle, "model", m)
    )
    assert [i.loss for i in infos] == [i.loss for i in other]
    assert torch.equal(weights(plain), weights(disturbed))


def test_a_stop_requested_during_a_hook_ends_training():
    requested = []
    _, infos, _ = train(
        steps=50,
        should_stop=lambda: bool(requested),
        hooks=[lambda info: requested.append(1) if info.step == 3 else None],
    )
    assert [i.stopping for i in infos] == [False, False, False]


@pytest.fixture
def clock(monkeypatch):
    """A clock that ticks a hundredth of a second at each reading: no test depends on the machine."""

    class Ticking:
        now = 100.0

        def perf_counter(self) -> float:
            self.now += 0.01
            return self.now

    ticking = Ticking()
    monkeypatch.setattr("groundup.training.loop.time", ticking)
    return ticking


def test_a_run_length_in_time_ends_the_run_and_the_last_step_is_finished(clock):
    _, infos, progress = train(steps=None, run_length=TimeLength(1.0))
    assert [i.finished for i in infos] == [False] * (len(infos) - 1) + [True]
    assert len(infos) > 20
    assert 0.95 < progress.elapsed < 1.04  # as long as requested, and not longer
    assert infos[-1].fraction > 0.95
    assert infos[-1].lr < 0.11 * 0.01 + 1e-4  # the learning rate ended when the time did


def test_one_stalled_step_neither_ends_a_run_of_given_time_nor_its_schedule(clock):
    """A stall of 0.4 s at 0.5 of 1 s leaves 0.1 s, in which steps go on and the learning rate ends."""

    def stall(model):
        steps = iter(range(1000))

        def hook(grad):
            clock.now += 0.4 * (next(steps) == 10)
            return grad

        model.h[0].mlp.c_fc.weight.register_hook(hook)

    _, infos, progress = train(steps=None, run_length=TimeLength(1.0), prepare=stall)
    assert max(info.dt for info in infos) > 0.4
    assert 0.95 < progress.elapsed < 1.04
    assert infos[-1].lr < 0.11 * 0.01 + 1e-4


def test_a_stall_before_a_checkpoint_does_not_end_the_resumed_run():
    progress = Progress()
    for seconds in (0.1, 0.1, 5.0):
        progress.time_step(seconds)
    assert (progress.dt, progress.usual_dt) == (5.0, 0.1)
    for seconds in range(7):
        progress.time_step(seconds)
    assert progress.usual_dt == 4, "of the last five"
    resumed = Progress(step=3, elapsed=5.2, dt=0.1)  # as a checkpoint has it
    resumed.time_step(5.0)
    assert not TimeLength(10.4).reached(resumed)
    assert TimeLength(5.25).reached(resumed)
    assert not TimeLength(5.0).reached(Progress(step=1, elapsed=4.0, dt=1.0)), "there is time for a last step"


def test_time_spent_in_hooks_counts_and_the_last_step_is_still_finished(clock):
    def slow(info):
        if info.step == 3:
            clock.now += 5.0

    _, infos, _ = train(steps=None, run_length=TimeLength(1.0), hooks=[slow])
    assert [i.finished for i in infos] == [False, False, False, True]
