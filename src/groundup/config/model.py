"""The shape of a GPT, as a section of the configuration. No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundup.config.types import LARGEST, Section, Size
from groundup.errors import ConfigError

SPOKEN = 1024  # ids, of which n-grams say shares: numbers a token, as many as a wide stream has


class ModelConfig(Section):
    """The shape of a GPT and the parts it is made of."""

    n_layer: Size = 4
    """blocks"""
    n_head: Size = 4
    """attention heads a block; must divide n_embd"""
    n_embd: Size = 128
    """width of the residual stream"""
    n_inner: Size | None = None
    """width of the feed-forward layer; none means 4 x n_embd"""
    block_size: Annotated[int, Field(ge=2, le=LARGEST)] = 256
    """context length in tokens"""
    vocab_size: Size | None = None
    """token ids; none means as many as the data's tokenizer has"""
    vocab_multiple: Size = 64
    """embedding rows are padded to a multiple of this, for speed; padded ids are masked"""
    bias: bool = True
    """biases in linear layers and layer norms, as GPT-2 has them"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout after the embedding, in attention and on both residual branches"""
    block: Literal["pre_norm", "post_norm"] = "pre_norm"
    """where norms stand: before each branch and at the end (GPT-2), or after each sum (GPT-1)"""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """rmsnorm: only scaled to unit mean square, without weights"""
    norm_eps: Annotated[float, Field(ge=1e-12, le=1)] = 1e-5
    """added to the variance or mean square in every norm"""
    positions: Literal["learned", "rotary"] = "learned"
    """a vector for each place, added once, or queries and keys rotated by their place (arXiv:2104.09864)"""
    rotary_base: Annotated[float, Field(gt=1, le=1e12)] = 10_000.0
    """the slowest rotation turns once in about 6.3 times this many tokens"""
    qk_norm: bool = False
    """normalise queries and keys, head by head (arXiv:2302.05442)"""
    embedding_norm: bool = False
    """normalise the embedding before the first block"""
    activation: Literal["gelu_tanh", "gelu", "relu", "relu2"] = "gelu_tanh"
    """nonlinearity of the feed-forward layer; GPT-1 and GPT-2 use the tanh form of GELU, modern models ReLU squared"""
    ngram: Annotated[int, Field(ge=1, le=8)] = 1
    """longest run of tokens that is looked up in what followed it elsewhere in the training text; 1 looks up none"""
    ngram_rows: Size = 65_536
    """rows of each table of runs; the text's runs share them where they are more"""
    ngram_width: Size = 64
    """width of the codes of tokens in these tables; as many as there are ids, or more, keep them all apart"""
    tied: bool = True
    """output head shares the token embedding"""
    softcap: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None
    """logits are squashed into ± this by a tanh; none means they are not"""
    init: Literal["gpt2", "gpt2-released", "gpt1", "modern"] = "gpt2"
    """weights at the start; gpt2 scales residual projections by depth, modern begins them and the head at zero"""

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def vocab(self) -> int:
        """Number of token ids; the data must have set it."""
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size: not set; give the number of ids of the tokenizer")
        return self.vocab_size

    @property
    def padded_vocab(self) -> int:
        """Rows of the token embedding: `vocab` rounded up to a multiple of `vocab_multiple`."""
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    @property
    def ngram_tables(self) -> list[int]:
        """Rows of the table for runs of 2, 3, … tokens; the start of a text counts as a token too."""
        return [min(self.ngram_rows, (self.vocab + 1) ** n) for n in range(2, self.ngram + 1)]

    @property
    def ngram_codes(self) -> int:
        """Numbers of a token's code."""
        return min(self.ngram_width, self.vocab)

    @property
    def ngrams_speak(self) -> bool:
        """Whether codes keep all tokens apart, so that shares can be read off the tables and added to the logits."""
        return self.vocab <= min(self.ngram_width, SPOKEN)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.n_embd % self.n_head:
            near = min(_divisors(self.n_embd), key=lambda h: abs(h - self.n_head))
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; n_head {near} would fit")
        if self.positions == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"rotary positions turn pairs, but a head is {self.n_embd // self.n_head} wide (n_embd / n_head); "
                "make that even, or take learned positions"
            )
        return self


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return [*small, *(n // d for d in reversed(small))]
