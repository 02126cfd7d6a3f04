"""Model section of the config: dimensions of a GPT and which parts it is made of. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from groundup.config.renamed import rename_keys
from groundup.config.types import MAX_DIMENSION, Section, Size, Whole
from groundup.errors import ConfigError

NGRAM_LOGITS_MAX_VOCAB = 1024  # ids; up to here n-gram frequencies are added to the logits as well


class ModelConfig(Section):
    """Dimensions of a GPT and the parts it is made of."""

    n_layer: Size = 4
    """number of transformer blocks"""
    n_head: Size = 4
    """attention heads per block; must divide n_embd"""
    n_embd: Size = 128
    """width of the residual stream"""
    n_inner: Size | None = None
    """width of the feed-forward layer; default: 4 x n_embd; with swiglu 8/3 of it, for as many weights"""
    block_size: Annotated[Whole, Field(ge=2, le=MAX_DIMENSION)] = 256
    """context length in tokens"""
    vocab_size: Size | None = None
    """number of token ids; default: that of the data's tokenizer"""
    vocab_multiple: Size = 64
    """pad the embedding to a multiple of this many rows, for speed; padded ids are masked"""
    bias: bool = True
    """biases in linear layers and layer norms, as in GPT-2"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout after the embedding, in attention and on both residual branches"""
    norm_position: Literal["pre_norm", "post_norm"] = "pre_norm"
    """norms before each branch and at the end (GPT-2), or after each sum (GPT-1)"""
    norm: Literal["layernorm", "rmsnorm", "rmsnorm_scaled"] = "layernorm"
    """normalisation; rmsnorm scales to unit mean square, rmsnorm_scaled also by a learned weight per number"""
    norm_eps: Annotated[float, Field(ge=1e-12, le=1)] = 1e-5
    """added to the variance or mean square in every norm"""
    position_embedding: Literal["learned", "rotary", "rotary_ccw"] = "learned"
    """a learned vector per position, or queries and keys rotated by position (RoPE, arXiv:2104.09864): clockwise as in
    nanochat, or counterclockwise (ccw) as in the paper and in Qwen3"""
    rotary_base: Annotated[float, Field(gt=1, le=1e12)] = 10_000.0
    """RoPE base (theta); the slowest rotation takes about 6.3 times this many tokens"""
    qk_norm: Literal["none", "after_rotary", "before_rotary"] = "none"
    """normalise queries and keys in each head (arXiv:2302.05442): after_rotary with one norm for both, as in nanochat,
    before_rotary with a norm for each, as in Qwen3"""
    embedding_norm: bool = False
    """normalise the embedding before the first block"""
    activation: Literal["gelu_tanh", "gelu", "relu", "relu2", "swiglu"] = "gelu_tanh"
    """nonlinearity of the feed-forward layer: gelu_tanh in GPT-1 and GPT-2, relu2 (ReLU squared) in nanochat, swiglu
    (SiLU of a gate, times a second projection; arXiv:2002.05202) in modern"""
    ngram: Annotated[Whole, Field(ge=1, le=8)] = 1
    """longest n-gram whose continuations in the training text are looked up as extra input; 1: no n-gram tables"""
    ngram_rows: Size = 65_536
    """rows of each n-gram table; more n-grams than rows share rows by hashing"""
    ngram_width: Size = 64
    """width of the token codes in n-gram tables; from vocab_size on, codes are one-hot"""
    tie_embeddings: bool = True
    """share the token embedding with the output head"""
    logit_softcap: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None
    """limit logits to +- this value by a tanh; default: off"""
    init: Literal["gpt2", "gpt2-released", "gpt1", "modern"] = "gpt2"
    """weight initialisation; gpt2 scales residual projections by depth, modern starts them and the head at zero"""

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return self.n_inner or self.default_inner

    @property
    def default_inner(self) -> int:
        """Width where `n_inner` is not set: 4·C; with a gate, a third matrix, 8/3·C up to the next multiple of 32."""
        return -(-self.n_embd // 12) * 32 if self.is_gated else 4 * self.n_embd

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layer has a gate: a second projection from C to the inner width."""
        return self.activation == "swiglu"

    @property
    def is_rotary(self) -> bool:
        """Whether positions rotate queries and keys, instead of adding to the embedding."""
        return self.position_embedding != "learned"

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
    def model_class(self) -> Literal["GPT", "NGramGPT"]:
        """Name of the class in `groundup.model` that this config describes."""
        return "NGramGPT" if self.ngram > 1 else "GPT"

    @property
    def ngram_tables(self) -> list[int]:
        """Rows of the table of 2-grams, 3-grams, …; the start of a text counts as a token of its own."""
        return [min(self.ngram_rows, (self.vocab + 1) ** n) for n in range(2, self.ngram + 1)]

    @property
    def ngram_codes(self) -> int:
        """Width of a token's code."""
        return min(self.ngram_width, self.vocab)

    @property
    def ngram_features(self) -> int:
        """Numbers that a table tells of an n-gram: the mean code of what followed, and two functions of its count."""
        return self.ngram_codes + 2

    @property
    def ngrams_add_logits(self) -> bool:
        """Whether token codes are one-hot, so that n-gram frequencies can be added to the logits."""
        return self.vocab <= min(self.ngram_width, NGRAM_LOGITS_MAX_VOCAB)

    @model_validator(mode="before")
    @classmethod
    def _previous_names(cls, values: Any) -> Any:
        return rename_keys({"model": values})[0]["model"] if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.n_embd % self.n_head:
            near = min(_divisors(self.n_embd), key=lambda h: abs(h - self.n_head))
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; n_head {near} would fit")
        if self.is_rotary and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"rotary positions rotate pairs, but a head is {self.n_embd // self.n_head} wide (n_embd / n_head); "
                "make that even, or take learned positions"
            )
        return self


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return [*small, *(n // d for d in reversed(small))]
