"""Training in fp16: overflows cost a step, never the weights."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.sections import OptimizerConfig, ScheduleConfig
from groundup.data.windows import ShuffledWindows
from groundup.distributed.parallelize import NoParallel
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.ema import NoEMA
from groundup.optim.optimizer import build_optimizer
from groundup.optim.run_length import StepLength
from groundup.optim.schedule import build_schedule
from groundup.training.guard import LossGuard
from groundup.training.loop import fit
from groundup.training.micro_batches import BatchLoader
from groundup.training.train_state import TrainState
from groundup.utils.device import autocast, loss_scaler

CPU = torch.device("cpu")
TOO_LARGE = {"scale": 2.0**24, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}


class Text:
    ids = np.arange(400) // 3 % 10

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, n: int) -> np.ndarray:
        return self.ids[start : start + n].astype(np.int64)


class CountedEMA(NoEMA):
    calls = 0

    def update(self):
        self.calls += 1


def train(precision, steps, *, scaler=None, prepare=lambda model: None, name="adamw"):
    """Train; returns weights before and after each step, step infos and the scale after each step."""
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=10, vocab_multiple=2))
    model.init_weights(torch.Generator().manual_seed(0))
    prepare(model)
    scaler = scaler or loss_scaler(precision, CPU)
    seen, infos, scales = [weights(model)], [], []
    ema = CountedEMA()

    def record(info):
        infos.append(info)
        seen.append(weights(model))
        scales.append(scaler.get_scale())

    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(name=name, learning_rate=0.01), precision)
    guard = LossGuard(max_bad_steps=2, overflows=lambda: scaler.is_enabled() and scaler.get_scale() >= 1)
    fit(
        NextTokenLoss(model),
        TrainState(model, optimizer, ema, scaler, guard, micro_batch_size=3),
        BatchLoader(ShuffledWindows(Text(), 8, seed=1), batch_size=4, device=CPU),
        build_schedule(ScheduleConfig(warmup_steps=0), 0.01, steps),
        StepLength(steps),
        grad_clip=1.0,
        parallel=NoParallel(),
        autocast=autocast(precision, CPU),
        hooks=[record],
        should_stop=lambda: False,
    )
    assert ema.calls == sum(info.applied for info in infos)
    return seen, infos, scales


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_overflow_skips_the_step_halves_the_scale_and_training_continues(name):
    scaler = loss_scaler("fp16", CPU)
    scaler.load_state_dict({**TOO_LARGE, "_growth_tracker": 0})
    seen, infos, scales = train("fp16", 16, scaler=scaler, name=name)
    applied = [info.applied for info in infos]
    assert 2 < applied.index(True) < 12  # more skipped in a row than the guard allows
    assert applied.count(False) < 12  # the final scale does not overflow
    moved = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert moved == applied
    halved = [after == before / 2 for before, after in pairwise([2.0**24, *scales])]
    assert halved == [not a for a in applied]
    assert all(np.isfinite(info.grad_norm) == info.applied for info in infos)
    assert infos[-1].loss < infos[0].loss - 0.05
    assert torch.isfinite(seen[-1]).all()


def test_one_overflow_among_good_steps():
    calls = iter([False, False, False, False, True, False, False, False, False, False])  # two micro-batches per step

    def once(model):
        model.h[0].mlp.c_fc.weight.register_hook(lambda grad: grad * torch.inf if next(calls) else grad)

    seen, infos, scales = train("fp16", 5, prepare=once)
    assert [info.applied for info in infos] == [True, True, False, True, True]
    assert [scale / 2**16 for scale in scales] == [1, 1, 0.5, 0.5, 0.5]
    assert [torch.equal(a, b) for a, b in pairwise(seen)] == [False, False, True, False, False]


def test_fp16_learns_as_fp32_does_and_logs_the_norm_of_unscaled_gradients():
    _, half, _ = train("fp16", 8)
    _, full, _ = train("fp32", 8)
    assert [i.loss for i in half] == pytest.approx([i.loss for i in full], rel=5e-3)
    assert half[0].grad_norm == pytest.approx(full[0].grad_norm, rel=2e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_the_scaler_does_nothing(precision):
    scaler = loss_scaler(precision, CPU)
    assert not scaler.is_enabled()
    assert scaler.state_dict() == {}
    loss = torch.ones(())
    assert scaler.scale(loss) is loss


def test_the_scale_survives_a_checkpoint():
    scaler, other = loss_scaler("fp16", CPU), loss_scaler("fp16", CPU)
    assert scaler.get_scale() == 2**16
    train("fp16", 2, scaler=scaler, prepare=lambda m: m.wte.weight.register_hook(lambda grad: grad * torch.inf))
    other.load_state_dict(copy.deepcopy(scaler.state_dict()))
    assert other.get_scale() == scaler.get_scale() == 2**14
    assert other.state_dict() == scaler.state_dict()
