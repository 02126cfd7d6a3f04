"""Embeddings of the last few tokens together: what is often said needs no attention to be recalled.

Pairs, triples, … of tokens have vectors of their own in tables, beside the token's. That costs memory and hardly any
arithmetic. Large tables of n-grams at the input are from "Over-Tokenized Transformer" (arXiv:2501.16975); runs that are
too many for a table share its rows by a hash (arXiv:1606.01781).

Letters: B batch, T time, C width (`n_embd`), W width of an n-gram (`ngram_width`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.model.context import Context
from groundup.shape import ModelConfig

FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5, 0xB55A4F09)
"""Odd numbers of 32 bits, one for each place in a run: products with ids stay below 2⁶³."""


class Silent(nn.Module):
    """No tables at all."""

    def add(self, x: Tensor, ids: Tensor, context: Context) -> Tensor:
        """Nothing is added."""
        return x


class NGrams(nn.Module):
    """One table for each length from 2 to `config.ngram`, and a matrix that brings what they say to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vocab, self.sizes = config.vocab, config.ngram_tables
        self.tables = nn.ModuleList(nn.Embedding(rows, config.ngram_width) for rows in self.sizes)
        self.up = nn.Linear(len(self.tables) * config.ngram_width, config.n_embd, bias=False)
        self.dropout = config.ngram_dropout

    def add(self, x: Tensor, ids: Tensor, context: Context) -> Tensor:
        """To each token's embedding, what the runs say that end in it: (B, T, C) and (B, T) -> (B, T, C)."""
        places = [ids, *context.earlier(ids, len(self.tables))]  # the token, the one before it, …; each (B, T)
        found = [table(self.rows(places[: n + 2])) for n, table in enumerate(self.tables)]  # (B, T, W) each
        said = torch.stack(found, dim=-2)  # (B, T, n, W)
        if self.dropout and self.training:  # whole runs, so that none is relied on: what was seen once is often chance
            said = said * F.dropout(torch.ones_like(said[..., :1]), self.dropout)
        return x + self.up(said.flatten(-2))

    def rows(self, run: list[Tensor]) -> Tensor:
        """The row of a run of tokens, the last first, `NOTHING` before the text's first: n times (B, T) -> (B, T).

        Runs have rows of their own where the table holds them all; else several share one.
        """
        size = self.sizes[len(run) - 2]
        if (self.vocab + 1) ** len(run) == size:
            factors = [(self.vocab + 1) ** place for place in range(len(run))]
            return torch.stack([(ids + 1) * factor for ids, factor in zip(run, factors, strict=True)]).sum(0)
        mixed = torch.stack([(ids + 1) * factor for ids, factor in zip(run, FACTORS, strict=False)]).sum(0)
        return (mixed ^ (mixed >> 15)) % size
