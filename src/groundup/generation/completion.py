"""Continuations of a text prompt: all at the end, or as a stream."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import torch

from groundup.errors import TokenizerError, UsageError
from groundup.generation.drafts import NewDrafter, NGramDrafter
from groundup.generation.engine import Engine, Piece, Request
from groundup.generation.sampling import Sampling
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer

MAX_SAMPLES = 1000  # of one prompt
MAX_SLOTS = 64  # samples that are generated at a time; each needs a cache of its own


class TextModel(Protocol):
    """A model with its tokenizer and its device, such as a loaded checkpoint."""

    @property
    def model(self) -> GPT: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def begins_documents(self) -> bool: ...


def generate_stream(
    loaded: TextModel,
    prompt: str,
    sampling: Sampling,
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
) -> Iterator[list[str]]:
    """Generate `num_samples` continuations of a text `prompt`, as a stream of complete characters.

    Yields, per step, the new text of each sample, which may be empty. An empty prompt starts a document, or a
    paragraph if the model was trained on few documents. A sample ends before the first of the texts `stop`.
    Raises TokenizerError, UsageError.
    """
    request = text_request(loaded, prompt, sampling, num_samples=num_samples, max_tokens=max_tokens, stop=stop)
    return stream_request(engine_for(loaded, request.samples), loaded.model, request)


def stream_request(engine: Engine, model: GPT, request: Request) -> Iterator[list[str]]:
    """The texts of a request's samples, as by `generate_stream`, from an idle engine of `model`."""
    engine.add(request)  # at once: mistakes are found before the first text is asked for
    return _stream(engine, model, request.samples)


def _stream(engine: Engine, model: GPT, num_samples: int) -> Iterator[list[str]]:
    with evaluating(model):
        while not engine.idle:
            texts = [""] * num_samples
            for piece in engine.step():
                texts[piece.sample] += piece.text
            yield texts


def text_request(
    loaded: TextModel,
    prompt: str,
    sampling: Sampling,
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
    logprobs: int | None = None,
) -> Request:
    """A request with the ids of a text prompt; see `generate_stream`. Raises TokenizerError, UsageError."""
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise UsageError(
            f"num_samples {num_samples}: must be from 1 to {MAX_SAMPLES:,}; for more, generate again with another seed"
        )
    ids = prompt_ids(loaded.tokenizer, prompt, begins_documents=loaded.begins_documents)
    return Request(tuple(ids), max_tokens, sampling, num_samples, logprobs, stop=tuple(stop))


def long_prompt(loaded: TextModel, request: Request) -> str | None:
    """A note for a prompt with more tokens than the context, of which only the last are read; None for others."""
    tokens, context = len(request.prompt), loaded.model.config.block_size
    if tokens <= context:
        return None
    return f"the prompt has {tokens:,} tokens: the model reads the last {context:,}, its context"


def engine_for(
    loaded: TextModel, num_samples: int, new_drafter: NewDrafter = NGramDrafter, *, draft_sampled: bool = False
) -> Engine:
    """An engine with a slot for each of so many samples, up to `MAX_SLOTS`."""
    return Engine(
        loaded.model, loaded.tokenizer, loaded.device, slots=min(num_samples, MAX_SLOTS), new_drafter=new_drafter,
        draft_sampled=draft_sampled,
    )  # fmt: skip


def complete(
    loaded: TextModel,
    prompt: str,
    sampling: Sampling,
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
) -> list[str]:
    """Generate `num_samples` continuations of `prompt`; returns texts that include it. See `generate_stream`."""
    growth = generate_stream(loaded, prompt, sampling, num_samples=num_samples, max_tokens=max_tokens, stop=stop)
    texts = [prompt_text(loaded.tokenizer, prompt)] * num_samples
    for pieces in growth:
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    return texts


def run_requests(engine: Engine, requests: Sequence[Request]) -> list[list[list[Piece]]]:
    """Fulfil all requests: for each request, for each of its samples, its pieces. UsageError."""
    tickets = {engine.add(request): number for number, request in enumerate(requests)}
    found: list[list[list[Piece]]] = [[[] for _ in range(request.samples)] for request in requests]
    while not engine.idle:
        for piece in engine.step():
            found[tickets[piece.ticket]][piece.sample].append(piece)
    return found


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """While entered, the model is in evaluation mode: dropout is off."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def prompt_ids(tokenizer: Tokenizer, prompt: str, *, begins_documents: bool = True) -> list[int]:
    """Ids of a prompt, at least one. TokenizerError if it cannot be encoded.

    Of an empty one, the end-of-text token; or, as a model of few documents has hardly seen one begin, the end of a
    sentence and an empty line, as far as the tokenizer knows them.
    """
    if not prompt and not begins_documents:
        for end in (".\n\n", "\n", ". "):
            with suppress(TokenizerError):
                if ids := tokenizer.encode(end).tolist():
                    return ids
    return tokenizer.encode(prompt).tolist() or [tokenizer.end_of_text]


def prompt_text(tokenizer: Tokenizer, prompt: str) -> str:
    """The prompt as the model reads it: after a round trip through a lossy tokenizer, otherwise unchanged."""
    return prompt if tokenizer.lossy is None else tokenizer.decode(tokenizer.encode(prompt).tolist())
