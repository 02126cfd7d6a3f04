"""Generation with a cache equals generation without, past the context too; text never shows half a character."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.config.model import ModelConfig
from groundup.generation.completion import stream
from groundup.generation.sampling import Sampler
from groundup.generation.text import TextStream
from groundup.model.gpt import GPT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> GPT:
    """Model with large weights and no biases, as one that repeats a single token would prove nothing."""
    gpt = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=40, tie_embeddings=False))
    generator = torch.Generator().manual_seed(1)
    gpt.init_weights(generator)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.5, generator=generator)
    return gpt


def tokens(model: GPT, prompt: list[int], sampler: Sampler, **options) -> list[list[int | None]]:
    return list(stream(model, prompt, sampler, device=CPU, **options))


@pytest.mark.parametrize("prompt", [[1], list(range(10)), list(range(16)), list(range(40))])
def test_greedy_cached_equals_uncached_past_the_context(model, prompt):
    cached, plain = (tokens(model, prompt, Sampler(t=0), max_tokens=60, cached=c) for c in (True, False))
    assert cached == plain
    assert len(cached) == 60
    assert len({row[0] for row in cached}) > 5


def test_greedy_equals_the_plain_loop_of_forward_passes(model):
    ids = torch.tensor([[3, 1, 4]])
    model.eval()
    with torch.no_grad():
        for _ in range(13):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert [row[0] for row in tokens(model, [3, 1, 4], Sampler(t=0), max_tokens=13)] == ids[0, 3:].tolist()


def test_only_the_last_tokens_of_a_long_prompt_are_read(model):
    prompt = list(range(40))
    complete, end = (tokens(model, ids, Sampler(t=0), max_tokens=20) for ids in (prompt, prompt[-16:]))
    assert complete == end != tokens(model, prompt[:16], Sampler(t=0), max_tokens=20)


def test_sampled_cached_equals_uncached(model):
    both = [tokens(model, [5], Sampler(seed=3), rows=3, max_tokens=40, cached=c) for c in (True, False)]
    assert both[0] == both[1]


def test_a_row_ends_at_the_end_of_text_and_the_others_continue(model):
    free = tokens(model, [5], Sampler(seed=3), rows=2, max_tokens=30)
    first = [row[0] for row in free]
    second = [row[1] for row in free]
    stop = next(token for token in first if token not in second)
    ended = tokens(model, [5], Sampler(seed=3), rows=2, max_tokens=30, end_of_text=stop)
    n = first.index(stop)
    assert [row[0] for row in ended[:n]] == first[:n]
    assert all(row[0] is None for row in ended[n:])
    assert ended[n][1] == free[n][1]


def test_generation_leaves_training_mode_and_global_randomness_alone(model):
    model.train()
    state = torch.get_rng_state()
    tokens(model, [5], Sampler(seed=3), max_tokens=20)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()


@given(st.text(), st.integers(0, 3))
def test_streamed_bytes_are_the_text_and_no_piece_has_half_a_character(text, cut):
    data = text.encode()
    stream_ = TextStream(bytes)
    pieces = [stream_.feed(byte) for byte in data[: len(data) - cut]]
    complete = data[: len(data) - cut].decode(errors="ignore") if cut else text
    assert "".join(pieces) == complete


def test_invalid_utf8_becomes_replacement_characters():
    stream_ = TextStream(bytes)
    assert "".join(stream_.feed(byte) for byte in b"a\xff\xc3(b") == "a��(b"
