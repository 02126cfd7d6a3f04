"""Small models of every preset's shape, and a plain loop of forward passes that generation must equal."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from groundup.config.merge import merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.generation.engine import Engine, Piece, Request
from groundup.generation.sampling import Sampling
from groundup.model import build_model
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer
from groundup.tokenizers.byte_char import ByteTokenizer

CPU = torch.device("cpu")
CONTEXT = 16
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_inner": 48, "block_size": CONTEXT, "dropout": 0.1}


class RandomText:
    """A split for n-gram tables to count."""

    def __init__(self, vocab: int) -> None:
        self.ids = np.random.default_rng(0).integers(vocab, size=3000)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, n: int) -> Any:
        return self.ids[start : start + n]


def random_model(name: str, vocab: int = 257, **shape: Any) -> GPT:
    """A preset's parts at toy size with large random weights, as a model that repeats itself would prove nothing."""
    tables = {"ngram_rows": 500, "ngram_width": 16} if PRESETS[name]["model"].get("ngram") else {}
    config = merge_and_validate([preset(name)]).model.model_copy(
        update={**SMALL, **tables, "vocab_size": vocab, **shape}
    )
    model, generator = (
        build_model(config).init_weights(torch.Generator().manual_seed(1)),
        torch.Generator().manual_seed(2),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.normal_(0.0, 0.35, generator=generator)
    if tables:
        model.ngrams.count(RandomText(vocab))
    return use_fused_cpu_kernels(model).eval()


@pytest.fixture(scope="session")
def model_of() -> Callable[..., GPT]:
    """(preset, vocab=257, **dimensions) -> model; the same object each time."""
    made: dict[Any, GPT] = {}

    def get(name: str = "gpt2", vocab: int = 257, **shape: Any) -> GPT:
        key = (name, vocab, *sorted(shape.items()))
        return made.setdefault(key, made.get(key) or random_model(name, vocab, **shape))

    return get


@torch.no_grad()
def windowed_logits(model: GPT, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """Logits that predict `tokens` after `prompt`, by forward passes without a cache: (T, V).

    The documented window: at most the context is read; where it is full, its last half is kept.
    """
    context, ids = model.config.block_size, [*prompt[-model.config.block_size :], *tokens]
    first, start, found = len(ids) - len(tokens), 0, []
    while first < len(ids):
        stop = min(start + context, len(ids) - 1)  # this window predicts the tokens up to here
        found.append(model(torch.tensor([ids[start:stop]]))[0, first - 1 - start :].float())
        first, start = stop + 1, stop + 1 - context // 2
    return torch.cat(found)


@pytest.fixture(scope="session", name="windowed_logits")
def _windowed_logits() -> Callable[..., torch.Tensor]:
    return windowed_logits


@pytest.fixture(scope="session")
def follows_greedily() -> Callable[..., None]:
    """Check that each token is the most likely one, or its logit within `bound` of it."""

    def check(model: GPT, prompt: Sequence[int], tokens: Sequence[int], bound: float = 1e-4) -> None:
        logits = windowed_logits(model, prompt, tokens)
        assert len(logits) == len(tokens)
        assert (logits.amax(1) - logits[range(len(tokens)), list(tokens)]).max() <= bound

    return check


@pytest.fixture(scope="session")
def run_engine() -> Callable[..., list[list[list[Piece]]]]:
    """Fulfil requests, all added at once, or request i before step `joins[i]`: pieces by request and sample."""

    def run(
        model: GPT,
        requests: Sequence[Request],
        *,
        tokenizer: Tokenizer | None = None,
        joins: Sequence[int] | None = None,
        **options: Any,
    ) -> list[list[list[Piece]]]:
        engine = Engine(model, tokenizer or ByteTokenizer(), CPU, **options)
        order = sorted(range(len(requests)), key=lambda i: joins[i] if joins else 0)
        numbers, found, step = {}, [[[] for _ in range(request.samples)] for request in requests], 0
        while order or not engine.idle:
            while order and (not joins or joins[order[0]] <= step):
                i = order.pop(0)
                numbers[engine.add(requests[i])] = i
            for piece in engine.step():
                found[numbers[piece.ticket]][piece.sample].append(piece)
            step += 1
        return found

    return run


@pytest.fixture(scope="session")
def generate(run_engine) -> Callable[..., list[int]]:
    """Tokens of one request alone, greedy unless it says otherwise."""

    def tokens(
        model: GPT, prompt: Sequence[int], n: int, sampling: Sampling | None = None, **options: Any
    ) -> list[int]:
        request = Request(tuple(prompt), n, sampling or Sampling(temperature=0))
        ((pieces,),) = run_engine(model, [request], **options)
        return [token for piece in pieces for token in piece.tokens]

    return tokens
