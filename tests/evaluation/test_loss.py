"""The loss of a split does not depend on how it is computed."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from groundup.config.model import ModelConfig
from groundup.evaluation.loss import Loss, split_loss
from groundup.model.gpt import GPT, NextTokenLoss

CPU = torch.device("cpu")


class Split:
    def __init__(self, n: int) -> None:
        self.ids = np.random.default_rng(0).integers(0, 30, n)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, n: int) -> np.ndarray:
        assert start + n <= len(self.ids)
        return self.ids[start : start + n].astype(np.int64)


@pytest.fixture(scope="module")
def model() -> GPT:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=30, dropout=0.5)
    return GPT(config).init_weights(torch.Generator().manual_seed(0))


def loss(model: GPT, n: int, **options) -> Loss:
    return split_loss(NextTokenLoss(model), Split(n), 8, device=CPU, autocast=nullcontext, **options)


@pytest.mark.parametrize("n", [2, 8, 9, 10, 17, 100])
def test_every_token_but_the_first_is_scored_once_the_ragged_end_included(model, n):
    model.eval()
    ids = torch.from_numpy(Split(n).ids)
    expected = 0.0
    with torch.no_grad():
        for start in range(0, n - 1, 8):
            window = ids[start : start + 9]
            logits = model(window[None, :-1])[0]
            expected += F.cross_entropy(logits, window[1:], reduction="sum").item()
    found = loss(model, n)
    assert found.scored == n - 1
    assert found.nats_per_token == pytest.approx(expected / (n - 1), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_the_batch_size_does_not_matter(model, rows):
    assert loss(model, 203, rows=rows).nats_per_token == pytest.approx(loss(model, 203).nats_per_token, rel=1e-5)


@pytest.mark.parametrize("limit", [1, 8, 40, 100, 199])
def test_a_limit_scores_about_that_many_tokens_in_complete_windows(model, limit):
    assert loss(model, 203, limit=limit).scored == max(8, limit // 8 * 8)


def test_a_limit_spreads_over_the_complete_split(model):
    starts = []

    class Spy(Split):
        def read(self, start: int, n: int) -> np.ndarray:
            starts.append(start)
            return super().read(start, n)

    split_loss(NextTokenLoss(model), Spy(805), 8, device=CPU, autocast=nullcontext, limit=80)
    assert len(set(starts)) == 10
    assert max(starts) > 600


def test_dropout_is_off_and_training_mode_and_randomness_come_back(model):
    loss_sum = NextTokenLoss(model).train()
    state = torch.get_rng_state()
    a, b = (split_loss(loss_sum, Split(99), 8, device=CPU, autocast=nullcontext) for _ in range(2))
    assert a == b
    assert loss_sum.training
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_bits_per_byte_by_hand():
    # 1,000 tokens of 2 nats over 4,000 bytes: 2,000 nats = 2,885.4 bits = 0.72135 bits per byte.
    assert Loss(2.0, 999).bits_per_byte(1000, 4000) == pytest.approx(0.72135, abs=1e-5)


def test_perplexity():
    assert Loss(math.log(50), 1).perplexity == pytest.approx(50)


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("n", [2, 8, 9, 10, 30])
def test_with_a_stride_every_token_is_scored_once_with_the_most_before_it(model, stride, n):
    model.eval()
    ids = torch.from_numpy(Split(n).ids)
    nats, scored = 0.0, 0
    with torch.no_grad():
        for start in range(0, n - 1, stride):
            window = ids[start : start + 9]
            losses = F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="none")
            new = losses[scored - start :]
            nats, scored = nats + new.sum().item(), scored + len(new)
            if scored == n - 1:
                break
    found = loss(model, n, stride=stride)
    assert found.scored == scored == n - 1
    assert found.nats_per_token == pytest.approx(nats / scored, rel=1e-5)


def test_a_limit_holds_with_a_stride_too(model):
    assert loss(model, 203, stride=2, limit=40).scored == 40, "the first window, which has little before it, is out"
    assert loss(model, 30, stride=2, limit=28).scored <= 28, "no window is scored twice"


def test_the_standard_error_is_that_of_windows_drawn_at_random(model):
    """Losses of many texts of 40 windows spread as the standard error of one of them predicts."""
    rng = np.random.default_rng(0)
    texts = [rng.choice(30, 321, p=rng.dirichlet(np.ones(30))) for _ in range(60)]
    found = []
    for ids in texts:
        split = Split(1)
        split.ids = ids
        found.append(
            split_loss(NextTokenLoss(model, "per_sequence"), split, 8, device=CPU, autocast=nullcontext, rows=7)
        )
    one = Split(1)
    one.ids = np.concatenate([ids[:320] for ids in texts])
    complete = split_loss(NextTokenLoss(model, "per_sequence"), one, 8, device=CPU, autocast=nullcontext)
    means = np.array([one.nats_per_token for one in found])
    assert complete.nats_per_token == pytest.approx(means.mean(), abs=0.02)
    each = np.mean([one.stderr for one in found])
    assert 0.5 < each / (complete.stderr * math.sqrt(60)) < 1.1
    assert math.isnan(
        split_loss(NextTokenLoss(model, "per_sequence"), Split(5), 8, device=CPU, autocast=nullcontext).stderr
    )


def test_each_window_and_the_sum_of_all_agree(model):
    complete, apart = loss(model, 203, rows=5), split_loss(
        NextTokenLoss(model, "per_sequence"), Split(203), 8, device=CPU, autocast=nullcontext, rows=5
    )  # fmt: skip
    assert apart.nats_per_token == pytest.approx(complete.nats_per_token, rel=1e-6)
    assert apart.scored == complete.scored


def test_of_windows_of_one_length_it_is_the_usual_standard_error(model):
    found = split_loss(NextTokenLoss(model, "per_sequence"), Split(161), 8, device=CPU, autocast=nullcontext)
    model.eval()
    ids = torch.from_numpy(Split(161).ids)
    with torch.no_grad():
        means = [F.cross_entropy(model(ids[None, i : i + 8])[0], ids[i + 1 : i + 9]).item() for i in range(0, 160, 8)]
    assert found.stderr == pytest.approx(np.std(means, ddof=1) / math.sqrt(20), rel=1e-4)
