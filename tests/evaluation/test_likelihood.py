"""Endings that share a context are scored as if each were alone."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS
from groundup.distributed.process_group import ProcessGroup
from groundup.errors import DataError
from groundup.evaluation.likelihood import log_likelihoods, pack_rows
from groundup.evaluation.loss import Interrupted
from groundup.model import build_model
from groundup.model.gpt import GPT

CPU = torch.device("cpu")
PARTS = {"gpt2": {}, "gpt1": GPT1_PARTS, "modern": {**MODERN_PARTS, "init": "gpt2"}}


class OneOf(ProcessGroup):
    """Process group of rank `rank` of `size` whose sums are not reduced."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def model(parts: dict, **shape) -> GPT:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": 29, "dropout": 0.2, **shape}
    return build_model(ModelConfig(**{**parts, **shape})).init_weights(torch.Generator().manual_seed(0))


def scored(gpt: GPT, pairs, **options):
    return log_likelihoods(gpt, pairs, device=CPU, autocast=nullcontext, **options)


def pairs(questions: int, longest: int = 9, seed: int = 0) -> list:
    """Several endings per question, of random number and length; some contexts come twice in a row."""
    rng, found, context = np.random.default_rng(seed), [], np.array([1])
    for _ in range(questions):
        if rng.random() < 0.8:
            context = rng.integers(0, 29, rng.integers(1, longest))
        found += [(context, rng.integers(0, 29, rng.integers(1, longest))) for _ in range(rng.integers(1, 5))]
    return found


@torch.no_grad()
def alone(gpt: GPT, context, ending) -> tuple[float, bool]:
    """Reference: one pass for one pair, no padding, all logits."""
    ids = torch.from_numpy(np.concatenate([context, ending]))[-gpt.config.block_size - 1 :]
    gpt.eval()
    logits = gpt(ids[None, :-1])[0, -len(ending) :].log_softmax(-1)
    wanted = ids[-len(ending) :]
    return logits.gather(1, wanted[:, None]).sum().item(), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("tokens", [1, 60, 4096])
def test_each_ending_is_scored_as_if_it_stood_alone(kind, tokens):
    gpt, asked_pairs = model(PARTS[kind]), pairs(20)
    found = scored(gpt, asked_pairs, tokens=tokens)
    expected = [alone(gpt, *pair) for pair in asked_pairs]
    np.testing.assert_allclose(found.nats, [nats for nats, _ in expected], rtol=0, atol=2e-5)
    assert found.greedy.tolist() == [greedy for _, greedy in expected]
    assert found.truncated == 0


def test_the_models_own_continuation_counts_as_greedy():
    gpt = model({}).eval()
    ids = [3, 7]
    for _ in range(5):
        ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    context, ending = np.array(ids[:2]), np.array(ids[2:])
    other = ending.copy()
    other[-1] = (other[-1] + 1) % 29
    assert scored(gpt, [(context, ending), (context, other)]).greedy.tolist() == [True, False]


def test_a_context_is_computed_once():
    context = np.arange(10)
    rows, _ = pack_rows([(context, np.arange(4)), (context.copy(), np.arange(5)), (context[1:], np.arange(3))], 64)
    assert [row.length for row in rows] == [10 + 3 + 4, 9 + 2]


@pytest.mark.parametrize("kind", PARTS)
def test_a_context_that_does_not_fit_loses_its_beginning(kind):
    gpt, rng = model(PARTS[kind], block_size=16), np.random.default_rng(1)
    context = rng.integers(0, 29, 15)
    asked_pairs = [(context, rng.integers(0, 29, n)) for n in (1, 2, 3, 9, 16)]
    found = scored(gpt, asked_pairs)
    assert found.truncated == 3
    np.testing.assert_allclose(found.nats, [alone(gpt, *pair)[0] for pair in asked_pairs], rtol=0, atol=2e-5)


def test_rows_do_not_grow_past_the_context():
    context = np.arange(6)
    rows, truncated = pack_rows([(context, np.arange(4))] * 7, 16)
    assert ([len(row.endings) for row in rows], truncated) == ([3, 3, 1], 0)


def test_an_ending_longer_than_the_context_is_refused():
    with pytest.raises(DataError, match="an ending of 17 tokens does not fit the model's context of 16"):
        scored(model({}, block_size=16), [(np.array([1]), np.zeros(17, np.int64))])


@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_divide_the_batches_and_their_sums_are_complete(size):
    gpt, asked_pairs = model({}), pairs(6)
    passes, parts = [], []
    gpt.ln_f.register_forward_hook(lambda *_: passes.append(1))
    for rank in range(size):
        passes.clear()
        parts.append((scored(gpt, asked_pairs, tokens=40, process_group=OneOf(rank, size)), len(passes)))
    assert len({n for _, n in parts}) == 1, "all make equally many passes: under FSDP2 each is a meeting"
    nats = sum(part.nats for part, _ in parts)
    np.testing.assert_allclose(nats, scored(gpt, asked_pairs).nats, rtol=0, atol=2e-5)


def test_it_leaves_the_model_unchanged_and_stops_when_requested():
    gpt = model({}).train()
    state = torch.get_rng_state()
    scored(gpt, pairs(3))
    assert gpt.training
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(Interrupted):
        scored(gpt, pairs(3), stop=lambda: True)
    assert gpt.training


def test_progress_ends_with_the_number_of_endings():
    reported, asked_pairs = [], pairs(10)
    scored(model({}), asked_pairs, tokens=30, progress=lambda done, total: reported.append(done))
    assert reported == sorted(reported)
    assert reported[-1] == len(asked_pairs)


def test_of_equally_likely_tokens_only_one_is_greedy_and_nan_is_not():
    gpt = model({})
    with torch.no_grad():
        gpt.wte.weight[:29] = 1.0  # all ids alike, so all logits are equal
    asked_pairs = [(np.array([1]), np.array([i])) for i in range(29)]
    assert scored(gpt, asked_pairs).greedy.sum() == 1
    with torch.no_grad():
        gpt.ln_f.weight.fill_(torch.nan)
    found = scored(gpt, asked_pairs)
    assert np.isnan(found.nats).all()
