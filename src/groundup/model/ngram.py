"""What followed the last few tokens elsewhere in the training text: counted, not learned.

Before training begins, the text is read once. For each run of 2, 3, … tokens a table sums up the codes of the tokens
that came next, so that a lookup tells the model what usually follows; the attention need not learn what counting knows.
That costs memory and hardly any arithmetic. (Language models beside counts: arXiv:2210.14431, arXiv:2401.17377.)

While a model trains, the sequence at hand is left out of what it is told: all of its own occurrences are taken off the
sums again (leaving-one-out: Ney, Essen, Kneser 1995). It is then told what it would be told about a text that it never
saw, in the tenth pass as in the first. One token alone would not do: where a run comes twice, its first place would be
told what follows the second, and attention would find it there.

Letters: B batch, T time, C width (`n_embd`), V vocabulary, W width of a code (`ngram_width`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.config.model import ModelConfig
from groundup.model.context import Context

FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5, 0xB55A4F09)
"""Odd numbers of 32 bits, one for each place in a run: products with ids stay below 2⁶³."""

PRIOR = 0.5  # occurrences of nothing, so that what was seen once says less than what was seen often
SMOOTH = 0.1  # occurrences of each token that did not follow: a share is never nothing
FIRST_TRUST = 0.1
SAID = 2  # numbers beside a code: how often a run was seen, and whether at all
PIECE = 2**18  # tokens counted at a time


class Text(Protocol):
    """A training split."""

    def __len__(self) -> int: ...

    def read(self, start: int, n: int) -> NDArray[np.int64]:
        """`n` ids from `start` on."""
        ...


class NoNGrams(nn.Module):
    """No tables at all."""

    def draw(self, generator: torch.Generator | None) -> None:
        """Nothing is drawn."""

    def count(self, text: Text) -> None:
        """Nothing is counted."""

    def add(self, x: Tensor, ids: Tensor, context: Context, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Nothing is added, and nothing said of any token."""
        return x, None

    def beside(self, x: Tensor, shares: Tensor | None) -> Tensor:
        """What the head reads: the stream alone."""
        return x

    def widened(self, weight: Tensor) -> Tensor:
        """The head's weights for that."""
        return weight

    @contextmanager
    def on_counted_text(self) -> Iterator[None]:
        """No difference."""
        yield


class NGrams(NoNGrams):
    """One table for each length from 2 to `config.ngram`, and a matrix that brings what they say to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vocab, self.sizes, W = config.vocab, config.ngram_tables, config.ngram_codes
        self.code = _fixed(self.vocab, W)
        self.tables = nn.ParameterList(_fixed(rows, W + 1) for rows in self.sizes)  # sums of codes, and how many
        self.up = nn.Linear(len(self.sizes) * (W + SAID), config.n_embd, bias=False)
        self.speaks = config.ngrams_add_logits  # codes keep all tokens apart, so that shares can be read off
        if self.speaks:  # how much each length's shares count
            self.trust = nn.Parameter(torch.full((len(self.sizes),), FIRST_TRUST))
        self.leaves_out = False  # also where it does not train

    def draw(self, generator: torch.Generator | None) -> None:
        """Codes of unit length that are nearly at right angles, or wholly where there is room for all; empty tables."""
        W = self.code.size(1)
        if self.speaks:
            self.code.copy_(torch.eye(W))
            self.trust.data.fill_(FIRST_TRUST)
        else:
            self.code.normal_(0.0, W**-0.5, generator=generator)
        for table in self.tables:
            table.zero_()

    @torch.no_grad()
    def count(self, text: Text) -> None:
        """Fill the tables from a text, anew."""
        for table in self.tables:
            table.zero_()
        longest = len(self.sizes) + 1
        for start in range(0, len(text) - 1, PIECE):
            begin, stop = max(0, start - longest + 1), min(start + PIECE, len(text) - 1)
            ids = torch.from_numpy(text.read(begin, stop + 1 - begin)).to(self.code.device)
            for n, table in enumerate(self.tables, start=2):
                first = max(n - 1, start - begin)  # the last token of the first run that is new
                if first > len(ids) - 2:
                    continue
                run = [ids[first - place : len(ids) - 1 - place] for place in range(n)]
                rows, following, W = self.rows(run), ids[first + 1 :], self.code.size(1)
                table[:, W] += torch.bincount(rows, minlength=len(table))
                if self.speaks:
                    table[:, :W] += torch.bincount(rows * W + following, minlength=len(table) * W).view(-1, W)
                else:
                    table[:, :W].index_add_(0, rows, self.code[following])

    def add(self, x: Tensor, ids: Tensor, context: Context, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """To each token's embedding, what the runs say that end in it: (B, T, C) and (B, T) -> (B, T, C).

        Besides, where codes keep all tokens apart, what they say of each next token, in logarithms: (B, T, V).
        `targets` (B, T) are what comes next, to be left out where the text is the one that was counted.
        """
        places = [ids, *context.previous_ids(ids, len(self.sizes))]  # the token, the one before it, …; each (B, T)
        own = self._one_each(targets) if targets is not None and (self.training or self.leaves_out) else None
        said, shares = [], None
        for n, table in enumerate(self.tables, start=2):
            rows = self.rows(places[:n])
            counted = (places[n - 1] >= 0).unsqueeze(-1)  # what began before the context never was
            found = F.embedding(rows, table)  # (B, T, W + 1)
            if own is not None:
                same = (rows.unsqueeze(2) == rows.unsqueeze(1)).to(own.dtype)  # (B, T, T)
                found = found - same @ (own * counted)
            found = found * counted
            seen = found[..., -1:].clamp(min=0)
            sums = found[..., :-1]
            said += [sums / (seen + PRIOR), seen.log1p() / 3, 1 / (1 + seen)]
            if self.speaks:
                mine = self._shares(n - 2, sums, seen)
                shares = mine if shares is None else shares + mine
        return x + self.up(torch.cat(said, dim=-1)), shares

    def beside(self, x: Tensor, shares: Tensor | None) -> Tensor:
        """What the head reads: the stream and the shares, (B, T, C) and (B, T, V) -> (B, T, C + V)."""
        return x if shares is None else torch.cat([x, shares], dim=-1)

    def widened(self, weight: Tensor) -> Tensor:
        """The head's weights for that, (P, C) -> (P, C + V): a token's share goes to its own logit as it is."""
        if not self.speaks:
            return weight
        return torch.cat([weight, torch.eye(len(weight), self.vocab, dtype=weight.dtype, device=weight.device)], dim=1)

    def _shares(self, table: int, sums: Tensor, seen: Tensor) -> Tensor:
        """Smoothed logarithms of what followed a run, weighed by trust; zeros where it was never seen: (B, T, V)."""
        shares = (sums.clamp(min=0) + SMOOTH) / (seen + SMOOTH * self.vocab)
        return self.trust[table] * shares.log() * (seen > 0)

    @contextmanager
    def on_counted_text(self) -> Iterator[None]:
        """While entered, tokens are left out of what they are told though the model does not train."""
        self.leaves_out = True
        try:
            yield
        finally:
            self.leaves_out = False

    def rows(self, run: list[Tensor]) -> Tensor:
        """The row of a run of tokens, the last first, `NOTHING` before the text's first: n times (…) -> (…).

        Runs have rows of their own where the table holds them all; else several share one by a hash.
        """
        size = self.sizes[len(run) - 2]
        whole = (self.vocab + 1) ** len(run) == size
        factors = [(self.vocab + 1) ** place for place in range(len(run))] if whole else FACTORS
        mixed = torch.stack([(ids + 1) * factor for ids, factor in zip(run, factors, strict=False)]).sum(0)
        return mixed if whole else (mixed ^ (mixed >> 15)) % size

    def _one_each(self, ids: Tensor) -> Tensor:
        """Each token's code and a one, zeros where a target is not scored: (…) -> (…, W + 1)."""
        found = F.pad(F.embedding(ids.clamp(min=0), self.code), (0, 1), value=1.0)
        return found * (ids >= 0).unsqueeze(-1)


def _fixed(rows: int, width: int) -> nn.Parameter:
    """Weights that are kept with a model and never learn."""
    return nn.Parameter(torch.zeros(rows, width), requires_grad=False)
