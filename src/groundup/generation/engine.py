"""Generation of several texts at once: requests join and leave between steps (continuous batching).

A step computes one new token for every text under way and reads at most one piece of a new prompt, so that a long
prompt delays nobody for long. A text does not depend on what else is generated at the same time.

Letters: B rows (samples under way), V vocabulary.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NewType

import torch
from torch import Tensor

from groundup.errors import UsageError
from groundup.generation.decoder import Decoder, new_decoder, window_start
from groundup.generation.drafts import Drafter, NewDrafter, NoDrafts
from groundup.generation.logprobs import NO_LOGPROBS, TokenLogprobs, score
from groundup.generation.sampler import RowSampler, choose
from groundup.generation.sampling import Sampling
from groundup.generation.text import TextStream
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer

Ticket = NewType("Ticket", int)
"""Number of a request in an engine."""

Finish = Literal["stop", "length"]
"""Why a text ended: end of text or a stop string; or `max_tokens`."""


class ContextLengthError(UsageError):
    """A prompt is longer than the model's context where all of it is needed."""


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it."""

    prompt: tuple[int, ...]
    """token ids, at least one; of more than the model's context, the last ones are read"""
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
    """end before the first of these texts that is generated; the prompt is not searched"""


class Piece(NamedTuple):
    """A part of one sample: its next token, or its echoed prompt."""

    ticket: Ticket
    sample: int
    text: str  # complete characters; may be empty, and may complete those of earlier tokens
    tokens: list[int]  # the id generated in this step, end of text included; or those of the prompt
    logprobs: TokenLogprobs | None  # of `tokens`
    finish: Finish | None  # not None: the last piece of this sample


class Engine:
    """Generates up to `slots` samples at a time; further ones wait in the order of `add`.

    Of several owners that wait, the one with the fewest samples under way comes first.

    `model` must be in evaluation mode. Methods must not be called by two threads at once.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        device: torch.device,
        *,
        slots: int = 8,
        per_owner: int | None = None,
        prefill_tokens: int = 256,
        agree: Callable[[Tensor], Tensor] = lambda logits: logits,
        decoder: Decoder | None = None,
        new_drafter: NewDrafter = NoDrafts,
        draft_sampled: bool = True,
    ) -> None:
        """`per_owner`: samples of one owner at a time, so that those of others find a slot; default: no such limit.

        `prefill_tokens`: tokens of prompts that are read in one step. `agree` makes logits equal on all ranks.
        `decoder` with as many slots; default: that of `new_decoder`. `new_drafter`: of guesses at a text's next tokens,
        several of which are checked in one step; without `draft_sampled`, only those of greedy decoding.
        """
        self.tokenizer, self.slots, self.prefill_tokens, self._agree = tokenizer, slots, prefill_tokens, agree
        self._per_owner = slots if per_owner is None else per_owner
        self._decoder = decoder or new_decoder(model, device, slots)
        self._new_drafter = new_drafter if self._decoder.step_overhead else NoDrafts
        self._draft_sampled = draft_sampled
        self._tickets = 0
        self._waiting: dict[Hashable, deque[_Row]] = {}  # of each owner, at least one
        self._rows: list[_Row] = []  # by slot: first those that get a token each step, then those whose prompt is read
        self._decoding = 0  # number of the former

    def describe(self) -> str:
        """How it computes, in a few words for a user, such as "PyTorch"."""
        return self._decoder.describe()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to generate."""
        return not self._waiting and not self._rows

    def add(self, request: Request, owner: Hashable = None) -> Ticket:
        """Enqueue a request of an owner. UsageError, which names the option, where it cannot be fulfilled."""
        check(request, self._decoder.vocab, self._decoder.context)
        self._tickets += 1
        new_drafter = self._new_drafter if self._draft_sampled or request.sampling.greedy else NoDrafts
        row = _Row(Ticket(self._tickets), owner, 0, request, self.tokenizer, self._decoder, new_drafter)
        self._waiting.setdefault(owner, deque()).append(row)
        return Ticket(self._tickets)

    @torch.inference_mode()
    def cancel(self, ticket: Ticket) -> None:
        """Drop a request, of which no further piece is returned; no-op where it is unknown or complete."""
        left = {owner: [row for row in rows if row.ticket != ticket] for owner, rows in self._waiting.items()}
        self._waiting = {owner: deque(rows) for owner, rows in left.items() if rows}
        for row in [row for row in self._rows if row.ticket == ticket]:
            self._remove(row)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """A new token for each sample in a slot, and a part of a prompt read. Empty when idle, or none is complete."""
        self._reread_full_windows()
        self._admit()
        pieces = self._decode()
        pieces += self._prefill()
        for row in [row for row in self._rows if row.ended]:
            self._remove(row)
        return pieces

    def _decode(self) -> list[Piece]:
        rows = self._rows[: self._decoding]
        if not rows:
            return []
        # A step costs as much as `step_overhead` tokens more than its tokens. Of that, a draft that is right saves a
        # row its part.
        least_chance = len(rows) / (len(rows) + self._decoder.step_overhead)
        drafts = [row.draft(least_chance) for row in rows]
        logits = self._decoder.step([[row.ids[-1], *draft] for row, draft in zip(rows, drafts, strict=True)])
        pieces = self._next_tokens(rows, drafts, logits)
        for slot, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            if draft:
                self._decoder.slots.truncate(slot, row.cached)
        return pieces

    def _prefill(self) -> list[Piece]:
        """Read prompts, `prefill_tokens` in all, in order; first tokens of those that are complete."""
        pieces: list[Piece] = []
        budget = self.prefill_tokens
        while self._decoding < len(self._rows):
            row, slot = self._rows[self._decoding], self._decoding
            if unread := row.unread[:budget]:
                budget -= len(unread)
                row.read(len(unread), self._decoder.extend(slot, unread, row.logits_needed(len(unread))))
            if row.unread:
                break
            if row.sample == row.generated == 0 and row.request.samples > 1:
                others = row.fork(self._decoder.slots.save(slot))
                self._waiting.setdefault(row.owner, deque()).extendleft(reversed(others))
                self._admit()
            self._decoding += 1
            pieces += row.echo()
            if row.finish is None:
                assert row.logits is not None, "its prompt was read"
                pieces += self._next_tokens([row], [[]], row.logits)
        return pieces

    def _next_tokens(self, rows: "list[_Row]", drafts: Sequence[Sequence[int]], logits: Tensor) -> list[Piece]:
        """Choose the next token of each row, and those after each token of its draft, as far as that is right.

        `logits`: after each row's last token and each token of its draft, (number of these, V).
        """
        logits = self._agree(logits)
        parts = [row.sampler.positions(draft) for row, draft in zip(rows, drafts, strict=True)]
        tokens = choose(logits, [position for part in parts for position in part])
        kept: list[tuple[_Row, int]] = []  # row, and index of its logits and its token
        first = 0
        for row, draft in zip(rows, drafts, strict=True):
            kept += [(row, first + i) for i in range(_agreeing(draft, tokens[first:]) + 1)]
            first += len(draft) + 1
        wanted = [row.request.logprobs for row, _ in kept]
        scores = [NO_LOGPROBS] * len(kept)
        if any(n is not None for n in wanted):
            chosen = [tokens[i] for _, i in kept]
            scores = score(logits[[i for _, i in kept]], chosen, max(n or 0 for n in wanted)).split(wanted)
        pieces = []
        for (row, i), own in zip(kept, scores, strict=True):
            if row.finish is None:  # what is left of a draft after the end is dropped
                pieces.append(row.append(tokens[i], own))
        return pieces

    def _admit(self) -> None:
        while len(self._rows) < self.slots and (row := self._pop_waiting()):
            slot = len(self._rows)
            self._rows.append(row)
            self._decoder.slots.clear(slot)
            if row.saved:
                self._decoder.slots.load(slot, row.saved)
                row.saved = None

    def _pop_waiting(self) -> "_Row | None":
        """The next row to get a slot, of the owner that has the fewest; None where no owner may take another."""
        taken = Counter(row.owner for row in self._rows)
        owner = min(self._waiting, key=lambda owner: taken[owner], default=None)  # of equal ones, the first
        if not self._waiting or taken[owner] >= self._per_owner:
            return None
        row = self._waiting[owner].popleft()
        if not self._waiting[owner]:
            del self._waiting[owner]
        return row

    def _reread_full_windows(self) -> None:
        """Take the rows whose window is full back to those that are read."""
        for row in self._rows[: self._decoding]:
            if row.slide():
                slot, last = self._rows.index(row), self._decoding - 1
                self._decoder.slots.move(last, slot)
                self._decoder.slots.clear(last)
                self._rows[slot], self._rows[last] = self._rows[last], row
                self._decoding -= 1

    def _remove(self, row: "_Row") -> None:
        """Free a slot: the last sample that is decoded fills its place, and those behind move up."""
        slot = self._rows.index(row)
        if slot < self._decoding:
            self._decoding -= 1
            self._decoder.slots.move(self._decoding, slot)
            self._rows[slot] = self._rows[self._decoding]
            slot = self._decoding
        for behind in range(slot + 1, len(self._rows)):
            self._decoder.slots.move(behind, behind - 1)
        del self._rows[slot]


def check(request: Request, vocab: int, context: int) -> None:
    """UsageError where a model of this vocabulary and context cannot fulfil a request."""
    for name, ids in (("prompt", request.prompt), ("logit_bias", request.sampling.logit_bias)):
        for token in ids:
            if not 0 <= token < vocab:
                raise UsageError(f"{name}: id {token} is not one of the model's, which are 0 to {vocab - 1}")
    if not request.prompt:
        raise UsageError(
            "prompt: has no tokens; give at least one, such as the end of text, after which documents begin"
        )
    if request.sampling.bans_all(vocab):
        raise UsageError("logit_bias: excludes every token; allow one")
    if request.max_tokens < 0:
        raise UsageError(f"max_tokens {request.max_tokens}: must be 0 or more")
    if request.samples < 1:
        raise UsageError(f"samples {request.samples}: must be 1 or more")
    if request.logprobs is not None and request.logprobs < 0:
        raise UsageError(f"logprobs {request.logprobs}: must be 0 or more")
    if "" in request.stop:
        raise UsageError("stop: an empty text would end every sample at once; leave it out")
    if request.echo and request.logprobs is not None and (n := len(request.prompt)) > context:
        raise ContextLengthError(
            f"prompt: its {n:,} tokens exceed the model's context of {context:,}; without echo or logprobs, "
            "the last ones are read"
        )


def _agreeing(draft: Sequence[int], tokens: Sequence[int]) -> int:
    """Number of the first tokens of a draft that were chosen."""
    return next((i for i, token in enumerate(draft) if token != tokens[i]), len(draft))


class _Row:
    """One sample: its tokens, the window of them that the model reads, and its text."""

    def __init__(
        self,
        ticket: Ticket,
        owner: Hashable,
        sample: int,
        request: Request,
        tokenizer: Tokenizer,
        decoder: Decoder,
        new_drafter: NewDrafter,
    ) -> None:
        self.ticket, self.owner, self.sample, self.request = ticket, owner, sample, request
        self._tokenizer, self._decoder = tokenizer, decoder
        self._new_drafter = new_drafter
        self._drafter: Drafter | None = None  # from the first draft on
        self.sampler = RowSampler(request.sampling, sample, request.prompt, decoder.vocab)
        self.ids = list(request.prompt[-decoder.context :])
        self.generated = 0
        self.finish: Finish | None = None if request.max_tokens else "length"
        self.ended = False  # whether its last piece was returned
        self.saved: list[Tensor] | None = None  # the prompt's keys and values, where another sample has read it
        self.logits: Tensor | None = None  # (1, V), after the prompt
        shown = [token for token in request.prompt if token != tokenizer.end_of_text]
        self._text = TextStream(tokenizer.decode_bytes, request.stop, shown)
        self._scores = request.echo and request.logprobs is not None  # of the prompt
        self._prompt_logprobs = TokenLogprobs([None], [[]])
        self._start = 0  # of the window that the model reads, in `ids`
        self._read = 0 if self._scores or request.max_tokens else len(self.ids)  # tokens of it that were read

    @property
    def unread(self) -> list[int]:
        """Tokens of the window that are still to be read before the next one is chosen."""
        return self.ids[self._start + self._read :]

    def logits_needed(self, n: int) -> int:
        """After how many of the next `n` tokens logits are needed: all where the prompt is scored, else the last."""
        return n if self._scores else int(n == len(self.unread))

    def read(self, n: int, logits: Tensor) -> None:
        """Take note of `n` tokens that were read, and of the logits after them."""
        self._read += n
        if self._scores and (targets := self.ids[self._read - n + 1 : self._read + 1]):
            scores = score(logits[: len(targets)], targets, self.request.logprobs or 0)
            self._prompt_logprobs = self._prompt_logprobs.join(scores)
        if not self.unread:
            # A copy: a view would keep the logits of all `n` tokens in memory.
            self.logits, self._scores = logits[-1:].clone(), False

    def fork(self, saved: list[Tensor]) -> list["_Row"]:
        """The other samples of the request, for which this one has read the prompt."""
        rows = []
        for sample in range(1, self.request.samples):
            row = _Row(self.ticket, self.owner, sample, self.request, self._tokenizer, self._decoder, self._new_drafter)
            row._read, row._scores, row.saved = self._read, False, saved
            row.logits, row._prompt_logprobs = self.logits, self._prompt_logprobs
            rows.append(row)
        return rows

    def echo(self) -> list[Piece]:
        """The prompt, if it is to be returned; and the end of a sample of no tokens."""
        if self.generated or not (self.request.echo or self.finish):
            return []
        if not self.request.echo:
            return [self._piece("", [], NO_LOGPROBS)]
        return [self._piece(self._text.prompt, list(self.request.prompt), self._prompt_logprobs)]

    def append(self, token: int, logprobs: TokenLogprobs) -> Piece:
        """Add a chosen token."""
        self.ids.append(token)
        self.generated += 1
        self.sampler.add(token)
        if self._drafter:
            self._drafter.add(token)
        ended = token == self._tokenizer.end_of_text
        text = "" if ended else self._text.feed(token)
        if ended or self._text.stopped:
            self.finish = "stop"
        elif self.generated == self.request.max_tokens:
            self.finish = "length"
        return self._piece(text + (self._text.finish() if self.finish else ""), [token], logprobs)

    def draft(self, least_chance: float) -> list[int]:
        """Guesses at its next tokens, for which there is room in the window and need; see `Drafter.propose`."""
        room = self._decoder.context - (len(self.ids) - self._start)
        self._drafter = self._drafter or self._new_drafter(self.ids)
        return self._drafter.propose(min(room, self.request.max_tokens - self.generated - 1), least_chance)

    @property
    def cached(self) -> int:
        """Tokens of the window that are in its slot: all but the last."""
        return len(self.ids) - self._start - 1

    def slide(self) -> bool:
        """Whether the window is full; then it begins at its last half, which is still to be read."""
        start = window_start(self._start, len(self.ids), self._decoder.context)
        if start == self._start:
            return False
        self._start, self._read = start, 0
        return True

    def _piece(self, text: str, tokens: list[int], logprobs: TokenLogprobs) -> Piece:
        self.ended, wanted = self.finish is not None, self.request.logprobs is not None
        return Piece(self.ticket, self.sample, text, tokens, logprobs if wanted else None, self.finish)
