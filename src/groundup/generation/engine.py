"""Generation of several texts at once: requests join and leave between steps (continuous batching).

Each call of `step` computes one new token for every text under way and reads at most one piece of a new prompt. A text
does not depend on what else is generated at the same time.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NewType

import torch
from torch import Tensor

from groundup.errors import UsageError
from groundup.generation.sampling import RowSampler, Sampling, choose
from groundup.generation.text import TextStream
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer

Ticket = NewType("Ticket", int)
"""Number of a request in an engine."""

Finish = Literal["stop", "length"]
"""Why a text ended: end of text or a stop string; or `max_tokens`."""


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it."""

    prompt: tuple[int, ...]
    """token ids, at least one"""
    max_tokens: int
    """tokens to generate for each sample; 0: none"""
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    """continuations of the same prompt; sample i is the same for any number of them"""
    logprobs: int | None = None
    """return the log-probability of each token, and those of this many most likely tokens"""
    echo: bool = False
    """return the prompt first"""
    stop: tuple[str, ...] = ()
    """end before the first of these texts that is generated"""


class TokenLogprobs(NamedTuple):
    """Log-probabilities (nats) by the model's own distribution, before temperature, penalties and other filters."""

    chosen: list[float | None]  # of each token of a piece; None: the first token of a prompt
    top: list[list[tuple[int, float]]]  # most likely ids and their values, the first one first; as many as requested


class Piece(NamedTuple):
    """What one step added to one sample."""

    ticket: Ticket
    sample: int
    text: str  # complete characters; may be empty, and may complete those of earlier tokens
    tokens: list[int]  # ids generated in this step, or those of an echoed prompt
    logprobs: TokenLogprobs | None  # of `tokens`
    finish: Finish | None  # not None: the last piece of this sample


class Engine:
    """Generates texts for up to `slots` samples at a time; further ones wait.

    `step` must be called by one thread at a time, as must `add` and `cancel`.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, device: torch.device, *, slots: int = 8, prefill_tokens: int = 256
    ) -> None:
        """`prefill_tokens`: tokens of a prompt that are read in one step."""
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.slots, self.prefill_tokens = slots, prefill_tokens
        self._tickets = 0
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is left to generate."""
        return not self._waiting and not self._rows

    def add(self, request: Request) -> Ticket:
        """Enqueue a request. UsageError, which names the option, where the model or the tokenizer cannot fulfil it."""
        check(request, self.model, self.tokenizer)
        self._tickets += 1
        ticket = Ticket(self._tickets)
        self._waiting += [
            _Row(ticket, sample, request, self.tokenizer, self.model) for sample in range(request.samples)
        ]
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop a request; no-op when it is unknown or complete. Takes effect at once: no further piece is returned."""
        self._waiting = deque(row for row in self._waiting if row.ticket != ticket)
        self._rows = [row for row in self._rows if row.ticket != ticket]

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One new token for each sample in a slot; at most one piece for each. Empty when idle."""
        while self._waiting and len(self._rows) < self.slots:
            self._rows.append(self._waiting.popleft())
        pieces = [row.step(self.model, self.device) for row in self._rows]
        self._rows = [row for row, piece in zip(self._rows, pieces, strict=True) if piece.finish is None]
        return pieces


def check(request: Request, model: GPT, tokenizer: Tokenizer) -> None:
    """UsageError where `request` cannot be fulfilled by this model."""
    vocab = min(model.config.vocab, tokenizer.n_vocab)
    for name, ids in (("prompt", request.prompt), ("logit_bias", request.sampling.logit_bias)):
        for token in ids:
            if not 0 <= token < vocab:
                raise UsageError(f"{name}: id {token} is not among the model's ids, 0 to {vocab - 1}")
    if not request.prompt:
        raise UsageError(
            "prompt: has no tokens; give at least one, such as the end of text, after which documents begin"
        )
    if request.max_tokens < 0:
        raise UsageError(f"max_tokens {request.max_tokens}: must be 0 or more")
    if request.samples < 1:
        raise UsageError(f"samples {request.samples}: must be 1 or more")
    if request.logprobs is not None and request.logprobs < 0:
        raise UsageError(f"logprobs {request.logprobs}: must be 0 or more")
    if "" in request.stop:
        raise UsageError("stop: an empty text would end every sample at once; leave it out")


class _Row:
    """One sample."""

    def __init__(self, ticket: Ticket, sample: int, request: Request, tokenizer: Tokenizer, model: GPT) -> None:
        self.ticket, self.sample, self.request = ticket, sample, request
        self.vocab = min(model.config.vocab, tokenizer.n_vocab)
        self.sampler = RowSampler(request.sampling, sample, request.prompt, self.vocab)
        self.text = TextStream(tokenizer.decode_bytes, request.stop)
        self.tokenizer = tokenizer
        self.ids = list(request.prompt)
        self.echoed = not request.echo

    def step(self, model: GPT, device: torch.device) -> Piece:
        """Simplest case: no cache."""
        made = len(self.ids) - len(self.request.prompt)
        if not self.echoed:
            self.echoed = True
            text = self.tokenizer.decode(self.request.prompt)
            scores = self.logprobs(model(torch.tensor([self.ids], device=device))[0, :-1], self.ids[1:])
            first = TokenLogprobs([None, *scores.chosen], [[], *scores.top]) if scores else None
            finish: Finish | None = None if self.request.max_tokens else "length"
            return Piece(self.ticket, self.sample, text, list(self.request.prompt), first, finish)
        if not self.request.max_tokens:
            return Piece(self.ticket, self.sample, "", [], self.logprobs(torch.zeros(0, self.vocab), []), "length")
        ids = torch.tensor([self.ids[-model.config.block_size :]], device=device)
        logits = model(ids)[0, -1:, : self.vocab].float()
        (token,) = choose(logits, [self.sampler])
        self.sampler.add(token)
        self.ids.append(token)
        text = "" if token == self.tokenizer.end_of_text else self.text.feed(token)
        ended: Finish | None = "stop" if self.text.stopped or token == self.tokenizer.end_of_text else None
        ended = ended or ("length" if made + 1 == self.request.max_tokens else None)
        text += self.text.finish() if ended else ""
        return Piece(self.ticket, self.sample, text, [token], self.logprobs(logits, [token]), ended)

    def logprobs(self, logits: Tensor, tokens: Sequence[int]) -> TokenLogprobs | None:
        """Of `tokens`, one for each row of logits."""
        if self.request.logprobs is None:
            return None
        scores = logits.float()[:, : self.vocab].log_softmax(-1)
        chosen = [scores[i, token].item() for i, token in enumerate(tokens)]
        top = scores.topk(min(self.request.logprobs, self.vocab), dim=-1)
        pairs = [list(zip(*row, strict=True)) for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
        return TokenLogprobs(list(chosen), pairs)
