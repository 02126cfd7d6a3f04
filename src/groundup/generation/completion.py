"""Continuations of one prompt, as ids and as text.

Letters: B rows (samples), T tokens so far.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from groundup.errors import TokenizerError, UsageError
from groundup.generation.sampling import Sampler
from groundup.generation.text import TextStream
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer

MAX_SAMPLES = 1000  # of one prompt


@torch.inference_mode()
def stream(
    model: GPT,
    prompt: Sequence[int],
    choose: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    rows: int = 1,
    max_tokens: int = 100,
    end_of_text: int | None = None,
    cached: bool = True,
) -> Iterator[list[int | None]]:
    """Generate `rows` continuations of `prompt` (at least one id), up to `max_tokens` tokens each.

    Yields, per step, one id for each row; None for rows that have reached `end_of_text`. Ends when all have. `choose`
    maps logits (B, V) to ids (B,).

    A model sees at most `block_size` tokens. When the context is full, its last half is kept and read again, with and
    without the cache (`cached`), so that both give the same text.
    """
    vocab, block_size = model.config.vocab, model.config.block_size
    ids = torch.tensor([list(prompt[-block_size:])] * rows, device=device)  # (B, T)
    alive = [True] * rows
    start, cache = 0, model.new_cache()
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_tokens):
            if ids.size(1) - start > block_size:
                start, cache = ids.size(1) - max(1, block_size // 2), model.new_cache()
            unseen = ids[:, start + cache.length :] if cached else ids[:, start:]
            features = model.features(unseen, cache if cached else None)  # (B, T, C)
            chosen = choose(model.head(features[:, -1]).float()[:, :vocab])  # (B,)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            tokens = chosen.tolist()
            alive = [was and token != end_of_text for was, token in zip(alive, tokens, strict=True)]
            if not any(alive):
                return
            yield [token if here else None for here, token in zip(alive, tokens, strict=True)]
    finally:
        model.train(was_training)


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
    loaded: TextModel, prompt: str, sampler: Sampler, *, num_samples: int = 1, max_tokens: int = 100
) -> Iterator[list[str]]:
    """Generate `num_samples` continuations of a text `prompt`, as a stream of complete characters.

    Yields, per token, the new text of each sample, which may be empty. An empty prompt starts a document, or a
    paragraph if the model was trained on few documents. Raises TokenizerError, UsageError.
    """
    if not 1 <= num_samples <= MAX_SAMPLES:  # at once, before the caller makes room for them
        raise UsageError(
            f"num_samples {num_samples}: must be from 1 to {MAX_SAMPLES:,}, as all are generated at once; "
            "for more, generate again with another seed"
        )
    if max_tokens < 0:
        raise UsageError(f"max_tokens {max_tokens}: must be 0 or more")
    return _stream_text(loaded, prompt, sampler, num_samples, max_tokens)


def _stream_text(
    loaded: TextModel, prompt: str, sampler: Sampler, num_samples: int, max_tokens: int
) -> Iterator[list[str]]:
    tokenizer, device = loaded.tokenizer, loaded.device
    texts = [TextStream(tokenizer.decode_bytes) for _ in range(num_samples)]
    ids = prompt_ids(tokenizer, prompt, begins_documents=loaded.begins_documents)
    end = tokenizer.end_of_text
    rows = stream(loaded.model, ids, sampler, device=device, rows=num_samples, max_tokens=max_tokens, end_of_text=end)
    for row in rows:
        yield ["" if i is None else text.feed(i) for i, text in zip(row, texts, strict=True)]


def complete(
    loaded: TextModel, prompt: str, sampler: Sampler, *, num_samples: int = 1, max_tokens: int = 100
) -> list[str]:
    """Generate `num_samples` continuations of `prompt`; returns texts that include it. See `generate_stream`."""
    growth = generate_stream(loaded, prompt, sampler, num_samples=num_samples, max_tokens=max_tokens)
    texts = [prompt_text(loaded.tokenizer, prompt)] * num_samples
    for pieces in growth:
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    return texts


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
