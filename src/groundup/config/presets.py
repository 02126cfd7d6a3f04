"""Presets: one row per model of GPT's history, with what differs from the defaults of the config.

GPT-1: "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018), section 4.1, and OpenAI's
released code: Adam with beta2 0.999 and decay 0.01 on matrices, 2.5e-4 after 2,000 steps of warm-up, cosine to 0,
batches of 64 x 512 tokens, 100 epochs of BooksCorpus. With its 40,478 ids it has 116,534,784 parameters.

GPT-2: shapes from "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), table 2, where the
counts of parameters are wrong (117M and 345M in the paper are 124M and 355M by the released weights). That paper gives
no learning rates; the rows take GPT-3's (arXiv:2005.14165), table 2.1, and its batch of 0.5M tokens with 375M tokens of
warm-up, as nanoGPT and llm.c do: 715 steps of 524,288 tokens.

GPT-3: arXiv:2005.14165, table 2.1 and appendix B. Two things differ: attention is dense in every layer (theirs
alternates with sparse ones), and the cosine spans the whole 300B tokens (theirs reaches its minimum at 260B).

Nanochat: what karpathy/nanochat trains, as `transformers` computes it (its `nanochat` architecture), with Muon.
Width 768 and 6 heads is its depth 12; learning rates are its base settings, with Muon's as torch scales it.

Modern: the shape of Qwen3 (arXiv:2505.09388) with as many key heads as query heads, which every program computes that
reads models of `transformers` or llama.cpp; trained as nanochat is.
"""

from typing import Any

from groundup.config.merge import ConfigSource, did_you_mean, diff, get, merge_and_validate
from groundup.config.schema import Config
from groundup.errors import ConfigError

Row = dict[str, dict[str, Any]]


def _gpt2(n_layer: int, n_head: int, n_embd: int, learning_rate: float) -> Row:
    return {
        "model": {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": 1024},
        "optimizer": {"learning_rate": learning_rate, "weight_decay": 0.1, "beta2": 0.95, "grad_clip": 1.0},
        "schedule": {"name": "cosine", "warmup_steps": 715, "min_lr_ratio": 0.1},
        "train": {"batch_tokens": 524_288, "max_steps": 19_073, "log_every": 1},  # 10 billion tokens
        "evaluate": {"tokens": 2_097_152},
    }


def _laptop(n_layer: int, n_head: int, n_embd: int, block_size: int, dropout: float, max_steps: int) -> Row:
    return {
        "model": {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": block_size, "dropout": dropout},
        "optimizer": {"learning_rate": 1e-3, "beta2": 0.99},  # small batches average the second moment for longer
        "schedule": {"warmup_steps": 100},
        "train": {"batch_tokens": 32 * block_size, "max_steps": max_steps},
    }  # fmt: skip


GPT1_PARTS: dict[str, Any] = {"norm_position": "post_norm", "init": "gpt1"}

MODERN_PARTS: dict[str, Any] = {
    "norm": "rmsnorm_scaled", "norm_eps": 1e-6, "position_embedding": "rotary_ccw", "qk_norm": "before_rotary",
    "activation": "swiglu", "bias": False, "tie_embeddings": False, "init": "modern",
}  # fmt: skip
NANOCHAT_PARTS: dict[str, Any] = {
    "norm": "rmsnorm", "norm_eps": 1e-6, "position_embedding": "rotary", "qk_norm": "after_rotary",
    "embedding_norm": True, "activation": "relu2", "bias": False, "tie_embeddings": False, "logit_softcap": 15.0,
    "init": "modern",
}  # fmt: skip
MODERN_OPTIMIZER: dict[str, Any] = {
    "name": "muon", "matrix_learning_rate": 0.02, "learning_rate": 0.004, "embedding_learning_rate": 0.2,
    "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10,
}  # fmt: skip

# Small batches and small text: a little decay, larger steps for all but the embeddings (docs/lab-notes.md).
MODERN_SMALL_OPTIMIZER: dict[str, Any] = {
    "name": "muon", "matrix_learning_rate": 0.03, "learning_rate": 0.006, "embedding_learning_rate": 0.1,
    "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95,
}  # fmt: skip
MODERN_SMALL_SCHEDULE: dict[str, Any] = {
    "name": "wsd", "warmup_fraction": 0.02, "cooldown_fraction": 0.6, "min_lr_ratio": 0.0,
}  # fmt: skip


def _modern(parts: dict[str, Any]) -> Row:
    return {
        "model": {"n_layer": 12, "n_head": 6, "n_embd": 768, "block_size": 1024, **parts},
        "optimizer": MODERN_OPTIMIZER,
        "schedule": {"name": "wsd", "cooldown_fraction": 0.4, "min_lr_ratio": 0.0},
        "train": {"batch_tokens": 524_288, "max_steps": 5_000},
        "evaluate": {"tokens": 2_097_152},
    }


def _modern_laptop(
    n_layer: int, n_head: int, n_embd: int, block_size: int, rows: int, max_steps: int, parts: dict[str, Any]
) -> Row:
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": block_size, "vocab_multiple": 8}
    return {
        "model": {**shape, **parts},
        "optimizer": MODERN_SMALL_OPTIMIZER,
        "schedule": MODERN_SMALL_SCHEDULE,
        "train": {"batch_tokens": rows * block_size, "max_steps": max_steps},
    }


FAST_PARTS: dict[str, Any] = {**NANOCHAT_PARTS, "ngram": 6, "ngram_rows": 131_072, "ngram_width": 80}


def _fast_laptop(n_layer: int, n_head: int, n_embd: int, block_size: int, rows: int, max_steps: int) -> Row:
    row = _modern_laptop(n_layer, n_head, n_embd, block_size, rows, max_steps, FAST_PARTS)
    return row | {
        "train": row["train"] | {"seq_len_warmup_from": 64, "seq_len_warmup_until": 0.75},
        "optimizer": MODERN_SMALL_OPTIMIZER | {"orthogonalize": "polar_express"},
        "evaluate": {"every_steps": 500},
    }


PRESETS: dict[str, Row] = {
    "gpt1": {
        "model": {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 512, "dropout": 0.1, **GPT1_PARTS},
        "optimizer": {"learning_rate": 2.5e-4, "weight_decay": 0.01, "beta2": 0.999, "grad_clip": 1.0},
        "schedule": {"name": "cosine", "warmup_steps": 2_000, "min_lr_ratio": 0.0},
        "train": {"batch_tokens": 64 * 512, "epochs": 100},
    },
    "gpt2": _gpt2(12, 12, 768, 6e-4),  # 124,439,808 parameters with GPT-2's 50,257 ids
    "gpt2-medium": _gpt2(24, 16, 1024, 3e-4),  # 354,823,168
    "gpt2-large": _gpt2(36, 20, 1280, 2.5e-4),  # 774,030,080
    "gpt2-xl": _gpt2(48, 25, 1600, 2e-4),  # 1,557,611,200
    "gpt3-small": {
        "model": {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 2048},  # 125,226,240
        "optimizer": {"learning_rate": 6e-4, "weight_decay": 0.1, "beta2": 0.95, "grad_clip": 1.0},
        "schedule": {"name": "cosine", "warmup_steps": 715, "min_lr_ratio": 0.1},
        "train": {"batch_tokens": 524_288, "max_tokens": 300_000_000_000},
        "evaluate": {"tokens": 2_097_152},
    },
    "modern": _modern(MODERN_PARTS),
    "nanochat": _modern(NANOCHAT_PARTS),
    "fast-small": {
        "model": {"n_layer": 12, "n_head": 6, "n_embd": 768, "block_size": 1024, **NANOCHAT_PARTS}
        | {"ngram": 3, "ngram_rows": 262_144, "ngram_width": 128},
        "optimizer": MODERN_OPTIMIZER,
        "schedule": {"name": "wsd", "cooldown_fraction": 0.6, "min_lr_ratio": 0.0},
        "train": {"batch_tokens": 131_072, "max_steps": 5_000, "compile": "on"}
        | {"seq_len_warmup_from": 256, "seq_len_warmup_until": 0.4},
        "evaluate": {"tokens": 2_097_152},
    },
    # Laptop sizes: minutes on two cores, the `mini` ones longer.
    "gpt2-nano": _laptop(3, 3, 48, 64, 0.0, 2_000),
    "gpt2-micro": _laptop(4, 4, 128, 128, 0.0, 2_000),
    "gpt2-mini": _laptop(6, 6, 384, 256, 0.2, 5_000),
    "modern-micro": _modern_laptop(3, 4, 192, 128, 16, 2_000, MODERN_PARTS),
    "modern-mini": _modern_laptop(6, 6, 384, 256, 32, 5_000, MODERN_PARTS),
    "fast": _fast_laptop(4, 2, 96, 256, 8, 2_000),
}

DEFAULT = "gpt2-micro"

PURPOSES = {
    "gpt2-nano": "a first try, on a CPU",
    "gpt2-micro": "GPT-2's parts, on a CPU",
    "fast": "lowest loss in minutes, on a CPU",
    "modern-micro": "modern's parts, on a CPU",
    "gpt2-mini": "GPT-2's parts, on a GPU",
    "modern-mini": "modern's parts, on a GPU",
    "gpt1": "OpenAI's GPT-1",
    "gpt2": "OpenAI's GPT-2 small",
    "gpt3-small": "the smallest of the GPT-3 paper",
    "modern": "Qwen3's parts, with Muon",
    "nanochat": "nanochat's parts, with Muon",
    "fast-small": "nanochat with n-grams, on a GPU",
    "gpt2-medium": "OpenAI's GPT-2 medium",
    "gpt2-large": "OpenAI's GPT-2 large",
    "gpt2-xl": "OpenAI's GPT-2 XL",
}
"""One-line description of each preset, ordered by size."""

LAPTOP = ("gpt2-nano", "gpt2-micro", "fast", "modern-micro", "gpt2-mini", "modern-mini")
"""Presets for own, small vocabularies."""

PREVIOUS: dict[str, Row] = {
    "modern": PRESETS["nanochat"],
    "modern-micro": _modern_laptop(3, 4, 192, 128, 16, 2_000, NANOCHAT_PARTS),
    "modern-mini": _modern_laptop(6, 6, 384, 256, 32, 5_000, NANOCHAT_PARTS),
}
"""Former rows of presets: a run that was started with one goes on with it when its command is given again."""


def preset(name: str) -> ConfigSource:
    """The row called `name`; ConfigError with the nearest name when there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r}: there is none; {did_you_mean(name, PRESETS)}")
    return ConfigSource(f"preset {name}", PRESETS[name])


def keys_of_previous(name: str, run: Config, config: Config) -> list[str]:
    """Dotted keys in which `config` differs from a run's only as the preset differs from its former row."""
    if name not in PREVIOUS:
        return []
    before, now = merge_and_validate([ConfigSource(name, PREVIOUS[name])]), merge_and_validate([preset(name)])
    return [key for key in diff(before, now) if (get(run, key), get(config, key)) == (get(before, key), get(now, key))]
