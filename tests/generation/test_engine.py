"""Generation with a cache equals generation without, and a text does not depend on what is generated beside it."""

import random
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from groundup.config.merge import merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.errors import UsageError
from groundup.generation.decoder import new_decoder
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.model.quantized import quantize
from groundup.tokenizers.byte_char import ByteTokenizer

CPU, TOKENIZER, CONTEXT = torch.device("cpu"), ByteTokenizer(), 16
GREEDY = Sampling(temperature=0)
# Greedy decoding may choose another token than a pass without a cache where that token's logit is less than this below
# the highest: 2^-8 of the sums of a layer in bf16, whose logits here are up to 40.
BF16_BOUND = 1.5
# Of the standard deviation of the logits, over the vocabulary: packed weights move a logit by at most half of this, so
# that they choose the token that fp32 does wherever its logit is this far above all others. Stated in docs/serving.md.
PACKED_MARGINS = {"bf16": 0.2, "int8": 0.4}
DIMENSIONS = ("n_layer", "n_head", "n_embd", "n_inner", "block_size", "dropout", "vocab_multiple", "ngram_rows")


def ids(n: int, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(256) for _ in range(n))


def text_of(pieces) -> str:
    return "".join(piece.text for piece in pieces)


def tokens_of(pieces) -> list[int]:
    return [token for piece in pieces for token in piece.tokens]


def distinct_shapes() -> list[str]:
    """The first preset of each combination of parts, dimensions aside."""
    found: dict[str, str] = {}
    for name in PRESETS:
        parts = merge_and_validate([preset(name)]).model.model_dump(exclude={*DIMENSIONS})
        found.setdefault(str(parts), name)
    return list(found.values())


@pytest.mark.parametrize("name", distinct_shapes())
def test_greedy_equals_forward_passes_without_a_cache_past_the_context(name, model_of, generate, follows_greedily):
    model = model_of(name)
    for n in (1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT):
        tokens = generate(model, ids(n), 5 * CONTEXT, prefill_tokens=6)
        assert len(tokens) == 5 * CONTEXT or tokens[-1] == TOKENIZER.end_of_text
        follows_greedily(model, ids(n), tokens)


@pytest.mark.parametrize("name", distinct_shapes())
def test_a_text_is_the_same_alone_and_beside_others(name, model_of, run_engine):
    model, rng = model_of(name), random.Random(name)
    samplings = [GREEDY, Sampling(0.9, seed=5), Sampling(top_p=0.8, seed=6), Sampling(repetition_penalty=1.3, seed=7)]
    requests = [
        Request(ids(rng.randrange(1, 40), seed), rng.randrange(1, 30), rng.choice(samplings), rng.randrange(1, 3))
        for seed in range(8)
    ]
    alone = [run_engine(model, [request])[0] for request in requests]
    joins = [rng.randrange(30) for _ in requests]
    for slots, prefill in ((3, 5), (16, 16)):
        together = run_engine(model, requests, joins=joins, slots=slots, prefill_tokens=prefill)
        assert [[tokens_of(p) for p in samples] for samples in together] == [
            [tokens_of(p) for p in samples] for samples in alone
        ]
        assert [[text_of(p) for p in samples] for samples in together] == [
            [text_of(p) for p in samples] for samples in alone
        ]


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "modern", "fast-small"])
def test_greedy_in_bf16_chooses_a_token_within_the_bound(name, model_of, run_engine, follows_greedily):
    model = deepcopy(model_of(name)).bfloat16()
    requests = [Request(ids(n), 2 * CONTEXT, GREEDY) for n in (1, 9, 16, 20)]
    for request, (pieces,) in zip(requests, run_engine(model, requests, slots=3, prefill_tokens=7), strict=True):
        follows_greedily(model, request.prompt, tokens_of(pieces), BF16_BOUND)


@pytest.mark.parametrize("kind", PACKED_MARGINS)
@pytest.mark.parametrize("name", distinct_shapes())
def test_greedy_text_of_packed_weights_is_that_of_fp32_where_the_margin_exceeds_the_bound(
    name, kind, model_of, run_engine, windowed_logits
):
    exact, packed = model_of(name), quantize(deepcopy(model_of(name)), kind)
    requests = [Request(ids(n, n), 3 * CONTEXT, GREEDY) for n in (1, 9, CONTEXT, 20)]
    clear = []
    for options in ({"slots": 1}, {"slots": 3, "prefill_tokens": 7}):
        for request, (pieces,) in zip(requests, run_engine(packed, requests, **options), strict=True):
            tokens = tokens_of(pieces)
            logits = windowed_logits(exact, request.prompt, tokens)
            spread, (best, second) = logits.std(1), logits.topk(2).values.T
            is_clear = best - second > PACKED_MARGINS[kind] * spread
            assert torch.equal(logits.argmax(1)[is_clear], torch.tensor(tokens)[is_clear])
            moved = (windowed_logits(packed, request.prompt, tokens) - logits).abs().amax(1)
            assert (moved <= PACKED_MARGINS[kind] / 2 * spread).all()
            clear += is_clear.tolist()
    assert sum(clear) > 0.1 * len(clear)


def test_samples_of_one_request_share_its_prefill_and_are_those_of_fewer_samples(model_of, run_engine, monkeypatch):
    model, read = model_of(), []

    def spied(*arguments):
        decoder = new_decoder(*arguments)
        extend = decoder.extend
        decoder.extend = lambda slot, ids, logits: read.append(len(ids)) or extend(slot, ids, logits)
        return decoder

    monkeypatch.setattr("groundup.generation.engine.new_decoder", spied)
    request = Request(ids(12), 4, Sampling(seed=3), samples=20)
    (samples,) = run_engine(model, [request], slots=4)
    assert read == [12]
    for n in (1, 7):
        (fewer,) = run_engine(model, [replace(request, samples=n)])
        assert [tokens_of(pieces) for pieces in fewer] == [tokens_of(pieces) for pieces in samples[:n]]
    assert len({text_of(pieces) for pieces in samples}) == 20


def test_the_owner_with_the_fewest_samples_gets_the_next_slot(model_of):
    engine, found = Engine(model_of(), TOKENIZER, CPU, slots=4, per_owner=3), []
    sampling = Sampling(seed=1, logit_bias={TOKENIZER.end_of_text: -100})
    owner_of = {engine.add(Request(ids(2), 10, sampling, samples=9), owner): owner for owner in "ab"}
    found += [engine.step() for _ in range(3)]
    owner_of[engine.add(Request(ids(2), 1, sampling), "c")] = "c"
    found += [engine.step() for _ in range(10)]
    owners = ["".join(sorted(owner_of[piece.ticket] for piece in pieces)) for pieces in found]
    assert owners == ["aaab"] * 10 + ["aabc"] + ["aabb"] * 2  # samples that a and b still wait for came before c


def test_alone_an_owner_leaves_slots_free_for_others(model_of):
    engine = Engine(model_of(), TOKENIZER, CPU, slots=4, per_owner=3)
    engine.add(Request(ids(2), 10, samples=9), "a")
    engine.step()
    assert len(engine._rows) == 3
    engine.add(Request(ids(2), 10), "b")
    engine.step()
    assert len(engine._rows) == 4


def test_logits_of_a_scored_prompt_are_not_kept(model_of):
    engine = Engine(model_of(block_size=128), TOKENIZER, CPU)
    engine.add(Request(ids(100), 5, GREEDY, echo=True, logprobs=1))
    engine.step()
    assert engine._rows[0].logits.untyped_storage().nbytes() == 4 * TOKENIZER.n_vocab


def test_an_empty_prompt_of_an_n_gram_model_that_was_saved_can_be_loaded_later(model_of, run_engine):
    requests = [Request(ids(2), 0, samples=2), Request(ids(3), 5, GREEDY)]
    (first, second), ((pieces,)) = run_engine(model_of("fast-small"), requests, slots=2)
    assert [tokens_of(first), tokens_of(second)] == [[], []]
    assert len(tokens_of(pieces)) == 5


def test_a_long_prompt_is_read_in_pieces_while_others_get_a_token_each_step(model_of):
    engine = Engine(model_of(block_size=128), TOKENIZER, CPU, prefill_tokens=8)
    first = engine.add(Request(ids(4), 100, GREEDY))
    engine.step()
    second = engine.add(Request(ids(100), 5, GREEDY))
    steps = [[piece.ticket for piece in engine.step()] for _ in range(15)]
    assert steps == [[first]] * 12 + [[first, second]] * 3


def test_cancelled_requests_free_their_slots_and_leave_others_as_they_are(model_of, generate):
    model = model_of()
    engine = Engine(model, TOKENIZER, CPU, slots=3, prefill_tokens=4)
    tickets = [engine.add(Request(ids(6, seed), 30, GREEDY, samples=1 + seed % 2)) for seed in range(6)]
    found: dict[int, list[int]] = {}
    for step in range(400):
        if step in (3, 11, 12):
            engine.cancel(tickets[{3: 0, 11: 3, 12: 4}[step]])
        for piece in engine.step():
            assert (piece.ticket, step) not in {(tickets[0], 3), (tickets[3], 11), (tickets[4], 12)}
            if piece.sample == 0:
                found.setdefault(piece.ticket, []).extend(piece.tokens)
    assert engine.idle
    engine.cancel(tickets[1])  # complete: no-op
    for seed in (1, 2, 5):
        assert found[tickets[seed]] == generate(model, ids(6, seed), 30)
    assert len(found[tickets[0]]) < 30 > len(found.get(tickets[3], []))


def test_global_randomness_stays_as_it_was(model_of, generate):
    state = torch.get_rng_state()
    generate(model_of(), [5], 20, Sampling(seed=3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1)])
def test_max_tokens_are_made_and_the_text_ends_by_length(n, sampling, model_of, run_engine):
    ((pieces,),) = run_engine(model_of(), [Request(ids(3), n, sampling, logprobs=0)])
    assert len(tokens_of(pieces)) == n == sum(len(piece.logprobs.chosen) for piece in pieces)
    assert [piece.finish for piece in pieces] == [None] * (n - 1) + ["length"]


def test_end_of_text_ends_a_sample_also_at_the_last_token_and_counts_as_one(model_of, run_engine):
    forced = Sampling(logit_bias={TOKENIZER.end_of_text: 100})
    for n in (1, 5):
        ((pieces,),) = run_engine(model_of(), [Request(ids(3), n, forced)])
        assert [(piece.text, piece.tokens, piece.finish) for piece in pieces] == [("", [TOKENIZER.end_of_text], "stop")]


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_no_tokens_are_made_where_none_are_asked_for(echo, logprobs, model_of, run_engine):
    (samples,) = run_engine(
        model_of(), [Request((65, 66, 67), 0, GREEDY, samples=2, echo=echo, logprobs=logprobs)], slots=1
    )
    for (piece,) in samples:
        assert (piece.text, piece.tokens, piece.finish) == (
            ("ABC", [65, 66, 67], "length") if echo else ("", [], "length")
        )
        assert (piece.logprobs is None) == (logprobs is None)
        if logprobs:
            assert len(piece.logprobs.chosen) == len(piece.logprobs.top) == (3 if echo else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": (-1,)}, r"prompt: id -1 is not one of the model's, which are 0 to 256"),
        ({"prompt": (5, 257)}, r"prompt: id 257 .* 0 to 256"),
        ({"prompt": (2**63,)}, r"prompt: id 9223372036854775808 "),
        ({"prompt": ()}, "prompt: has no tokens"),
        ({"sampling": Sampling(logit_bias={257: 1})}, r"logit_bias: id 257 .* 0 to 256"),
        ({"sampling": Sampling(logit_bias={-1: 1})}, "logit_bias: id -1 "),
        ({"sampling": Sampling(logit_bias=dict.fromkeys(range(257), -100))}, "logit_bias: excludes every token"),
        ({"max_tokens": -1}, "max_tokens -1: must be 0 or more"),
        ({"samples": 0}, "samples 0: must be 1 or more"),
        ({"logprobs": -1}, "logprobs -1: must be 0 or more"),
        ({"stop": ("", "x")}, "stop: an empty text"),
        ({"prompt": (65,) * 17, "echo": True, "logprobs": 1}, "prompt: its 17 tokens exceed the model's context of 16"),
    ],
)
def test_what_cannot_be_fulfilled_is_refused_by_name_and_harms_nobody(change, message, model_of, generate):
    model = model_of()
    engine = Engine(model, TOKENIZER, CPU)
    engine.add(Request(ids(5), 20, GREEDY))
    pieces = engine.step()
    with pytest.raises(UsageError, match=message):
        engine.add(replace(Request((65,), 5, GREEDY), **change))
    while not engine.idle:
        pieces += engine.step()
    assert tokens_of(pieces) == generate(model, ids(5), 20)
