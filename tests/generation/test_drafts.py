"""Drafts change no text, token, log-probability or end, whatever they are; and what n-grams guess."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.generation.test_engine import CONTEXT, distinct_shapes, ids

from groundup.generation.drafts import LENGTHS, MAX_DRAFT_TOKENS, NGramDrafter, NGramTable, NoDrafts, suffix_keys
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.tokenizers.byte_char import ByteTokenizer

GREEDY, TOKENIZER = Sampling(temperature=0), ByteTokenizer()
SAMPLINGS = [
    GREEDY,
    Sampling(0.9, seed=5),
    Sampling(top_p=0.8, top_k=40, seed=6),
    Sampling(0, repetition_penalty=1.3),
    Sampling(1.1, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3, seed=7),
    Sampling(0.8, logit_bias={65: 3, 66: -100}, min_p=0.05, seed=8),
]


class Scripted:
    """Drafter of tokens that are known: of all samples, by their prompts; `wrong` of them, in turn, changed."""

    def __init__(self, texts: dict[tuple[int, ...], list[int]], wrong: float, ids) -> None:
        self.ids, self._wrong, self._rng = list(ids), wrong, random.Random(3)
        self._texts = texts

    def add(self, token: int) -> None:
        self.ids.append(token)

    def propose(self, most: int, least_chance: float) -> list[int]:
        if most < 1:
            return []
        for prompt, text in self._texts.items():
            complete = [*prompt[-CONTEXT:], *text]
            if complete[: len(self.ids)] == self.ids:
                draft = complete[len(self.ids) :][: self._rng.randrange(most + 1)]
                return [token if self._rng.random() >= self._wrong else (token + 1) % 257 for token in draft]
        return [self._rng.randrange(257)] * self._rng.randrange(most + 1)


def scripted(wrong: float, requests, expected):
    pairs = zip(requests, expected, strict=True)
    texts = {request.prompt: [token for piece in last for token in piece.tokens] for request, (*_, last) in pairs}
    return lambda ids: Scripted(texts, wrong, ids)


def assert_same(found, expected) -> None:
    """The same pieces; log-probabilities but for rounding, as a model computes several tokens in another order."""
    for samples, others in zip(found, expected, strict=True):
        for pieces, wanted in zip(samples, others, strict=True):
            assert [(p.text, p.tokens, p.finish, p.sample) for p in pieces] == [
                (p.text, p.tokens, p.finish, p.sample) for p in wanted
            ]
            for piece, other in zip(pieces, wanted, strict=True):
                if other.logprobs is None:
                    assert piece.logprobs is None
                    continue
                for value, correct in zip(piece.logprobs.chosen, other.logprobs.chosen, strict=True):
                    assert value == correct or value == pytest.approx(correct, abs=1e-3)
                assert [len(top) for top in piece.logprobs.top] == [len(top) for top in other.logprobs.top]


@pytest.mark.parametrize("name", distinct_shapes())
def test_texts_are_the_same_with_drafts_of_any_kind(name, model_of, run_engine):
    """Rows that join and leave, several samples, past the context, with every filter."""
    model, rng = model_of(name), random.Random(name)
    requests = [
        Request(
            ids(rng.randrange(1, 40), seed), rng.randrange(1, 3 * CONTEXT), SAMPLINGS[seed % 6], 1 + seed % 2, seed % 3
        )
        for seed in range(8)
    ]
    expected = run_engine(model, requests, slots=4)
    for new_drafter in (scripted(0.3, requests, expected), NGramDrafter):
        joins = [rng.randrange(20) for _ in requests]
        assert_same(
            run_engine(model, requests, slots=4, joins=joins, prefill_tokens=9, new_drafter=new_drafter), expected
        )


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("wrong", [0, 0.5])
def test_a_text_ends_at_the_same_place_within_a_draft(sampling, wrong, model_of, run_engine):
    model = model_of(block_size=64)
    ((whole,),) = run_engine(model, [Request(ids(5), 40, sampling)])
    text = "".join(piece.text for piece in whole)
    requests = [Request(ids(5), n, sampling, logprobs=1) for n in (1, 2, 5)]
    requests += [
        Request(ids(5), 40, sampling, stop=(text[at : at + n],)) for at in (2, 9, 16) for n in (1, 3) if text[at:]
    ]
    end = TOKENIZER.end_of_text
    requests += [Request(ids(5), 20, replace(sampling, logit_bias={end: bias})) for bias in (20, 100)]
    for request in requests:
        expected = run_engine(model, [request])
        assert_same(run_engine(model, [request], new_drafter=scripted(wrong, [request], expected)), expected)


def test_right_drafts_save_steps_and_never_exceed_the_context_or_max_tokens(model_of, run_engine, monkeypatch):
    model, lengths = model_of(), []
    request = Request(ids(4), 60, GREEDY)
    expected = run_engine(model, [request])
    engine = Engine(model, TOKENIZER, torch.device("cpu"), new_drafter=scripted(0, [request], expected))
    step = engine._decoder.step

    def counted(rows):
        lengths.append((engine._decoder.slots.lengths[0], len(rows[0])))
        return step(rows)

    monkeypatch.setattr(engine._decoder, "step", counted)
    engine.add(request)
    pieces = []
    while not engine.idle:
        pieces += engine.step()
    assert_same([[pieces]], expected)
    assert len(lengths) < 30
    assert max(cached + new for cached, new in lengths) <= CONTEXT


def test_a_decoder_for_which_drafts_do_not_pay_gets_none(model_of, monkeypatch):
    monkeypatch.setattr("groundup.generation.model_decoder.STEP_OVERHEAD", 0)
    engine = Engine(model_of(), TOKENIZER, torch.device("cpu"), new_drafter=NGramDrafter)
    assert engine._new_drafter is NoDrafts


def test_the_table_knows_the_most_frequent_token_after_each_n_gram():
    rng = np.random.default_rng(0)
    text = rng.integers(5, size=4000)
    table = NGramTable(text)
    seen: dict[tuple[int, ...], list[int]] = {}
    for length in LENGTHS:
        for i in range(len(text) - length):
            seen.setdefault(tuple(text[i : i + length].tolist()), []).append(int(text[i + length]))
    known = 0
    for ngram, after in seen.items():
        found = table.look_up(suffix_keys(ngram)[-1])
        if found is None:
            continue  # another one has its place
        known += 1
        best = max(after.count(token) for token in after)
        assert after.count(found[0]) == best
        assert found[1] == pytest.approx((best - 0.5) / len(after), abs=1e-4)
    assert known > 0.7 * len(seen)
    assert sum(table.look_up(suffix_keys(rng.integers(5, 99, size=6).tolist())[-1]) is not None for _ in range(999)) < 3


@pytest.mark.parametrize("n", range(8))
def test_short_texts_have_tables_too(n):
    drafter = NGramDrafter([7, 7], NGramTable(np.full(n, 7)))
    assert set(drafter.propose(3, 0.2)) == ({7} if n > 2 else set())


def test_large_ids_are_kept():
    text = np.array([2**32 - 1, 5, 2**31, 9] * 4)
    assert NGramDrafter([2**32 - 1, 5], NGramTable(text)).propose(3, 0.1) == [2**31, 9, 2**32 - 1]


def test_repeated_text_is_guessed_and_the_longest_match_decides():
    drafter = NGramDrafter([1, 2, 3, 4, 5, 9, 3, 4, 6, 1, 2, 3, 4])
    assert drafter.propose(1, 0.1) == [5]
    assert drafter.propose(0, 0.1) == []
    assert NGramDrafter([1, 2, 3, 4]).propose(5, 0.0) == []


def test_drafts_grow_where_they_are_right_and_end_where_they_are_wrong():
    drafter = NGramDrafter([1, 2, 3, 4, 5, 6, 7, 8] * 2)
    assert 1 <= len(drafter.propose(99, 0.2)) <= 3
    for token in [1, 2, 3, 4, 5, 6, 7, 8] * 12:
        drafter.propose(99, 0.2)
        drafter.add(token)
    assert len(drafter.propose(99, 0.2)) == MAX_DRAFT_TOKENS
    rng = random.Random(0)
    for _ in range(300):
        drafter.propose(99, 0.2)
        drafter.add(rng.randrange(4))
    drafted = 0
    for _ in range(300):
        drafted += len(drafter.propose(99, 0.4))
        drafter.add(rng.randrange(4))
    assert drafted < 100


def test_sampled_texts_may_be_left_without_drafts(model_of):
    engine = Engine(model_of(), TOKENIZER, torch.device("cpu"), new_drafter=NGramDrafter, draft_sampled=False)
    for sampling in (GREEDY, Sampling(0.8)):
        engine.add(Request(ids(3), 2, sampling))
    assert [row._new_drafter for row in engine._waiting[None]] == [NGramDrafter, NoDrafts]
