"""Arithmetic about a model's size; needs no torch."""

from __future__ import annotations

from groundup.config.model import ModelConfig
from groundup.model.memory import SAID


def parameters(config: ModelConfig) -> int:
    """Parameters of a GPT, padding left out and a tied head counted once: 124,439,808 for GPT-2 small."""
    return sum(parameters_by_part(config).values())


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """The same, for each kind of part; a tied head is no parameter of its own, a norm without weights has none."""
    C, inner, b = config.n_embd, config.inner, int(config.bias)
    norm = C + b * C if config.norm == "layernorm" else 0
    head_norm = norm // C * (C // config.n_head) if config.qk_norm else 0
    norms = 2 * config.n_layer + config.embedding_norm + (config.norm_position == "pre_norm")
    return {
        "token embedding": config.vocab * C,
        "positions": config.block_size * C if config.position_embedding == "learned" else 0,
        "n-grams": _up(config) + _trust(config),
        "attention": config.n_layer * (4 * C * C + b * 4 * C),
        "feed-forward": config.n_layer * (2 * C * inner + b * (inner + C)),
        "norms": norms * norm + config.n_layer * head_norm,
        "head": 0 if config.tie_embeddings else config.vocab * C,
    }


def counted(config: ModelConfig) -> int:
    """Numbers that are kept with a model and never learn: codes and tables of n-grams."""
    W = config.ngram_codes if config.ngram > 1 else 0
    return W * config.vocab + sum(config.ngram_tables) * (W + 1)


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What `GPT(config).named_parameters()` would name, and each tensor's shape, without building the model."""
    C, inner, b = config.n_embd, config.inner, config.bias
    linear = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (inner, C), "mlp.c_proj": (C, inner)}
    norms = {"ln_1": C, "ln_2": C} | ({"attn.qk_norm": C // config.n_head} if config.qk_norm else {})
    outer = {"ln_e": config.embedding_norm, "ln_f": config.norm_position == "pre_norm"}
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": size for name, size in linear.items()}
    block |= {f"{name}.bias": size[:1] for name, size in linear.items() if b}
    found: dict[str, tuple[int, ...]] = {"wte.weight": (config.padded_vocab, C)}
    if config.position_embedding == "learned":
        found["wpe.weight"] = (config.block_size, C)
    if config.ngram > 1:
        found["ngrams.code"] = (config.vocab, config.ngram_codes)
        found |= {f"ngrams.tables.{n}": (rows, config.ngram_codes + 1) for n, rows in enumerate(config.ngram_tables)}
        found["ngrams.up.weight"] = (C, _up(config) // C)
        found |= {"ngrams.trust": (_trust(config),)} if _trust(config) else {}
    if not config.tie_embeddings:
        found["lm_head.weight"] = (config.padded_vocab, C)
    if config.norm == "layernorm":  # the other kind has no weights
        kinds = ("weight", "bias") if b else ("weight",)
        block |= {f"{name}.{kind}": (width,) for name, width in norms.items() for kind in kinds}
        found |= {f"{name}.{kind}": (C,) for name, present in outer.items() if present for kind in kinds}
    return found | {f"h.{i}.{name}": size for i in range(config.n_layer) for name, size in block.items()}


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations to train on one token: 6 · N_matmul + 6 · L · C · (T + 1).

    N_matmul counts the weights that multiply activations (the padded head included); a forward pass costs 2 operations
    a weight, a backward pass 4. The second term is causal attention, each token seeing (T + 1) / 2 others on average.
    798 million for GPT-2 small at T = 1024.
    """
    C, T = config.n_embd, config.block_size
    matmul = config.n_layer * (4 * C * C + 2 * C * config.inner) + config.padded_vocab * C + _up(config)
    return 6 * matmul + 6 * config.n_layer * C * (T + 1)


def _up(config: ModelConfig) -> int:
    """Weights between what n-grams say and the stream; their tables are counted, not learned."""
    return len(config.ngram_tables) * (config.ngram_codes + SAID) * config.n_embd


def _trust(config: ModelConfig) -> int:
    """Weights of what n-grams say of each next token, where their codes keep all tokens apart."""
    return len(config.ngram_tables) if config.ngrams_add_logits else 0
