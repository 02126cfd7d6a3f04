"""NGramGPT: a GPT that also looks up what followed the last few tokens elsewhere in the training text.

Before training, the text is read once. For n = 2, 3, … a table sums, for each n-gram, the codes of the tokens that came
next, so that a lookup says what usually follows; attention need not learn what counting knows. That costs memory and
hardly any arithmetic. (Language models with n-gram counts: arXiv:2210.14431, arXiv:2401.17377.)

While the model trains, the sequence at hand is left out of its own features: all its occurrences are subtracted from
the sums (leaving-one-out: Ney, Essen, Kneser 1995). The features are then those of a text that was never counted, in
the tenth epoch as in the first. Subtracting the current token alone would not do: where an n-gram comes twice, its
first occurrence would reveal what follows the second, and attention would find it there.

Letters: B batch, T time, C width (`n_embd`), V vocabulary, P padded vocabulary, W width of a code (`ngram_codes`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from groundup.config.model import ModelConfig
from groundup.model.context import Context, SlotCache
from groundup.model.gpt import GPT, Reduction

NO_TOKEN = -1  # in place of the ids before a sequence's first
HASH_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5, 0xB55A4F09)
"""Odd numbers of 32 bits, one per position in an n-gram: products with ids stay below 2⁶³."""

PRIOR_COUNT = 0.5  # occurrences without a successor, so that what was seen once weighs less than what was seen often
SMOOTHING_COUNT = 0.1  # occurrences added to each token, so that no frequency is zero
INITIAL_LOGIT_WEIGHT = 0.1
CHUNK_TOKENS = 2**18  # tokens counted at a time


class Text(Protocol):
    """A training split."""

    def __len__(self) -> int: ...

    def read(self, start: int, n: int) -> NDArray[np.int64]:
        """`n` ids from `start` on."""


class NGramGPT(GPT):
    """GPT with n-gram features added to its embeddings and, for small vocabularies, frequencies to its logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # The tables come after the embeddings: the order of parameters is that of random draws and of saved files.
        layers = [(name, layer) for name, layer in self.named_children() if name not in ("wte", "wpe")]
        for name, _ in layers:
            delattr(self, name)
        self.ngrams = NGrams(config)
        for name, layer in layers:
            setattr(self, name, layer)

    @override
    def features(self, ids: Tensor, context: Context | None = None, targets: Tensor | None = None) -> Tensor:
        """Input of the head: (B, T) -> (B, T, C), or (B, T, C + V) with n-gram frequencies.

        `targets`, (B, T), are subtracted from the counts while training and within `leave_one_out`.
        """
        context = context or self.causal
        positions = context.positions(ids.size(1), ids.device)
        ngrams = [ids, *_previous(context, ids, positions, len(self.ngrams.sizes))]
        found, log_frequencies = self.ngrams.look_up(ngrams, targets)
        x = self.transform(self.embed(ids, positions) + self.ngrams.up(found), positions, context)
        return x if log_frequencies is None else torch.cat([x, log_frequencies], dim=-1)

    @property
    @override
    def head_weight(self) -> Tensor:
        """Weight of the head, (P, C), or (P, C + V), which adds each token's log frequency to its logit."""
        weight = self.lm_head.weight
        if not self.ngrams.adds_logits:
            return weight
        ones = torch.eye(len(weight), self.ngrams.vocab, dtype=weight.dtype, device=weight.device)
        return torch.cat([weight, ones], dim=1)

    @override
    def loss(self, ids: Tensor, targets: Tensor, reduction: Reduction = "sum") -> Tensor:
        return self.head_loss(self.features(ids, targets=targets), targets, reduction)

    @override
    def new_cache(self, slots: int = 1) -> SlotCache:
        return NGramCache(self.config.n_layer, self.config.block_size, slots)

    @override
    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Self:
        super().init_weights(generator)
        self.ngrams.init_codes(generator)
        return self


@contextmanager
def leave_one_out(model: GPT) -> Iterator[None]:
    """While entered, an n-gram model leaves a sequence out of its counts also in evaluation; no-op for other models.

    For evaluation on the text that was counted.
    """
    if not isinstance(model, NGramGPT):
        yield
        return
    model.ngrams.leaves_one_out = True
    try:
        yield
    finally:
        model.ngrams.leaves_one_out = False


class NGramCache(SlotCache):
    """A cache that also keeps the ids of the tokens seen so far."""

    def __init__(self, n_layer: int, block_size: int, slots: int = 1) -> None:
        super().__init__(n_layer, block_size, slots)
        self._ids: list[Tensor | None] = [None]  # (slots, 1, block_size, 1), a store as those of keys and values

    def previous(self, ids: Tensor, positions: Tensor, n: int) -> Tensor:
        """Keep the ids of a forward pass, after `positions`; the ids 1 … n before each: (B, T) -> (n, B, T)."""
        seen = self._extend(self._ids, 0, ids[:, None, :, None])[:, 0, :, 0]  # (B, S)
        at = positions - torch.arange(1, n + 1, device=ids.device).view(-1, 1, 1)  # (n, 1 or B, T)
        at = at.expand(n, *ids.shape)
        found = seen.expand(n, *seen.shape).gather(2, at.clamp(min=0))
        return found.masked_fill(at < 0, NO_TOKEN)

    def previous_in_slots(self, ids: Tensor, slots: Tensor, positions: Tensor, n: int) -> Tensor:
        """The same for one token in each row, of any slots: three (N,) -> (n, N)."""
        store = self._ids[0]
        assert store is not None, "made by `buffers`"
        kept = store[:, 0, :, 0]  # (slots, block_size)
        kept[slots, positions] = ids
        at = positions - torch.arange(1, n + 1).view(-1, 1)  # (n, N)
        return kept[slots, at.clamp(min=0)].masked_fill(at < 0, NO_TOKEN)

    @override
    def buffers(self, heads: int, width: int) -> list[tuple[Tensor, Tensor]]:
        # With those of keys and values: a slot that was saved before the first token can be loaded after it.
        self._ids[0] = torch.zeros(self.slots, 1, self.block_size, 1, dtype=torch.long)
        return super().buffers(heads, width)

    @override
    def _buffers(self) -> list[Tensor]:
        return [*super()._buffers(), *(buffer for buffer in self._ids if buffer is not None)]


def _previous(context: Context, ids: Tensor, positions: Tensor, n: int) -> Tensor:
    """The ids 1 … n positions before each of a forward pass, those that its context has cached included."""
    if isinstance(context, NGramCache):
        return context.previous(ids, positions, n)
    if isinstance(context, SlotCache):
        raise TypeError("this cache does not keep ids, which n-gram models need; use model.new_cache()")
    return previous_ids(ids, positions, n)


def previous_ids(ids: Tensor, positions: Tensor, n: int) -> Tensor:
    """The ids 1 … n positions before each token, `NO_TOKEN` where there is none: (B, S) -> (n, B, T).

    `positions` are (T,) for the last T of S consecutive tokens, or (B, S), where a token's predecessor is the last one
    before it whose position is one less.
    """
    if positions.dim() == 1:
        windows = F.pad(ids, (n, 0), value=NO_TOKEN).unfold(1, ids.size(1), 1)  # (B, n + 1, S); row j is n - j back
        return windows[:, :n, -len(positions) :].flip(1).transpose(0, 1)
    precedes = (positions[:, None, :] == positions[:, :, None] - 1).tril(-1)  # (B, S, S)
    numbers = torch.arange(1, ids.size(1) + 1, device=ids.device)
    predecessor = (precedes * numbers).amax(-1)  # (B, S), counted from 1; 0 where there is none
    found = [ids]
    for _ in range(n):
        found.append(F.pad(found[-1], (1, 0), value=NO_TOKEN).gather(1, predecessor))
    return torch.stack(found[1:])


class NGrams(nn.Module):
    """One table for each length from 2 to `config.ngram`, and the weights that bring their contents to the model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vocab, self.sizes, W = config.vocab, config.ngram_tables, config.ngram_codes
        self.code = _constant(self.vocab, W)
        self.tables = nn.ParameterList(_constant(rows, W + 1) for rows in self.sizes)  # sums of codes, and counts
        self.up = nn.Linear(len(self.sizes) * config.ngram_features, config.n_embd, bias=False)
        self.adds_logits = config.ngrams_add_logits
        if self.adds_logits:  # weight of each length's frequencies
            self.trust = nn.Parameter(torch.full((len(self.sizes),), INITIAL_LOGIT_WEIGHT))
        self.leaves_one_out = False  # also in evaluation

    def init_codes(self, generator: torch.Generator | None) -> None:
        """Draw codes of about unit length (one-hot where there is room for all tokens) and empty the tables."""
        W = self.code.size(1)
        if self.adds_logits:
            self.code.copy_(torch.eye(W))
            self.trust.data.fill_(INITIAL_LOGIT_WEIGHT)
        else:
            self.code.normal_(0.0, W**-0.5, generator=generator)
        for table in self.tables:
            table.zero_()

    @torch.no_grad()
    def count(self, text: Text) -> None:
        """Fill the tables from a text; previous contents are dropped."""
        for table in self.tables:
            table.zero_()
        longest = len(self.sizes) + 1
        for start in range(0, len(text) - 1, CHUNK_TOKENS):
            begin, stop = max(0, start - longest + 1), min(start + CHUNK_TOKENS, len(text) - 1)
            ids = torch.from_numpy(text.read(begin, stop + 1 - begin)).to(self.code.device)
            for n, table in enumerate(self.tables, start=2):
                first = max(n - 1, start - begin)  # the last token of the chunk's first n-gram
                if first > len(ids) - 2:
                    continue
                ngram = [ids[first - back : len(ids) - 1 - back] for back in range(n)]
                rows, following, W = self.rows(ngram), ids[first + 1 :], self.code.size(1)
                table[:, W] += torch.bincount(rows, minlength=len(table))
                if self.adds_logits:
                    table[:, :W] += torch.bincount(rows * W + following, minlength=len(table) * W).view(-1, W)
                else:
                    table[:, :W].index_add_(0, rows, self.code[following])

    def look_up(self, ngram: Sequence[Tensor], targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features of the n-grams that end in each token, (B, T, F), and weighted log frequencies, (B, T, V).

        `ngram` holds each token, the one before it, and so on, (B, T) each. `targets`, (B, T), are the tokens that
        follow, to be left out of the counts. Frequencies are None unless codes are one-hot.
        """
        own = self._occurrences(targets) if targets is not None and (self.training or self.leaves_one_out) else None
        features, log_frequencies = [], None
        for n, table in enumerate(self.tables, start=2):
            rows = self.rows(ngram[:n])
            counted = (ngram[n - 1] >= 0).unsqueeze(-1)  # n-grams that begin before the context were not
            found = F.embedding(rows, table)  # (B, T, W + 1)
            if own is not None:
                same = (rows.unsqueeze(2) == rows.unsqueeze(1)).to(own.dtype)  # (B, T, T)
                found = found - same @ (own * counted)
            found = found * counted
            count = found[..., -1:].clamp(min=0)
            sums = found[..., :-1]
            features += [sums / (count + PRIOR_COUNT), count.log1p() / 3, 1 / (1 + count)]
            if self.adds_logits:
                more = self._log_frequencies(n - 2, sums, count)
                log_frequencies = more if log_frequencies is None else log_frequencies + more
        return torch.cat(features, dim=-1), log_frequencies

    def _log_frequencies(self, table: int, sums: Tensor, count: Tensor) -> Tensor:
        """Smoothed, weighted log frequencies of the tokens that follow; zeros for n-grams never seen: (B, T, V)."""
        frequencies = (sums.clamp(min=0) + SMOOTHING_COUNT) / (count + SMOOTHING_COUNT * self.vocab)
        return self.trust[table] * frequencies.log() * (count > 0)

    def rows(self, ngram: Sequence[Tensor]) -> Tensor:
        """Table rows of n-grams, the last token first, `NO_TOKEN` before the text's first: n times (…) -> (…).

        Each n-gram has a row of its own where the table holds them all; else several share one by hashing.
        """
        size = self.sizes[len(ngram) - 2]
        exact = (self.vocab + 1) ** len(ngram) == size
        factors = [(self.vocab + 1) ** back for back in range(len(ngram))] if exact else HASH_FACTORS
        mixed = torch.stack([(ids + 1) * factor for ids, factor in zip(ngram, factors, strict=False)]).sum(0)
        return mixed if exact else (mixed ^ (mixed >> 15)) % size

    def _occurrences(self, ids: Tensor) -> Tensor:
        """(…) -> (…, W + 1): each target's code and a count of 1; zeros for targets that are not scored."""
        found = F.pad(F.embedding(ids.clamp(min=0), self.code), (0, 1), value=1.0)
        return found * (ids >= 0).unsqueeze(-1)


def _constant(rows: int, width: int) -> nn.Parameter:
    """Numbers that are saved with a model and not learned."""
    return nn.Parameter(torch.zeros(rows, width), requires_grad=False)
