"""Parameters, tensor shapes and floating-point operations of a model, computed from its config; needs no torch."""

from groundup.config.merge import merge_and_validate
from groundup.config.model import ModelConfig
from groundup.config.presets import LAPTOP, preset

GPT1_IDS, GPT2_IDS = 40_478, 50_257
# Norms of queries and keys in a block's attention, by `qk_norm`.
QK_NORMS: dict[str, tuple[str, ...]] = {"none": (), "after_rotary": ("qk_norm",), "before_rotary": ("q_norm", "k_norm")}

# Tokens, in models from files: tables of rotary positions have so many rows, and no weight's shape confirms them.
MAX_READ_CONTEXT = 2**20


def parameters(config: ModelConfig) -> int:
    """Parameters of a GPT, without padding, a tied head counted once: 124,439,808 for GPT-2 small."""
    return sum(parameters_by_part(config).values())


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """The same by kind of part; a tied head and norms without weights have none."""
    C, inner, b = config.n_embd, config.inner, int(config.bias)
    norm = C * _norm_vectors(config)
    head_norms = norm // config.n_head * len(QK_NORMS[config.qk_norm])
    norms = 2 * config.n_layer + config.embedding_norm + (config.norm_position == "pre_norm")
    return {
        "token embedding": config.vocab * C,
        "positions": config.block_size * C if not config.is_rotary else 0,
        "n-grams": _ngram_weights(config) + _ngram_logit_weights(config),
        "attention": config.n_layer * (4 * C * C + b * 4 * C),
        "feed-forward": config.n_layer * (block_matrices(config) - 4 * C * C + b * (inner * (1 + config.is_gated) + C)),
        "norms": norms * norm + config.n_layer * head_norms,
        "head": 0 if config.tie_embeddings else config.vocab * C,
    }


def preset_parameters(name: str) -> int:
    """Parameters of a preset: with GPT-1's or GPT-2's ids, or for a laptop without token embedding and head."""
    ids = GPT1_IDS if name == "gpt1" else GPT2_IDS
    config = merge_and_validate([preset(name)]).model.model_copy(update={"vocab_size": ids})
    parts = parameters_by_part(config)
    return sum(n for part, n in parts.items() if name not in LAPTOP or part not in ("token embedding", "head"))


def counted(config: ModelConfig) -> int:
    """Numbers that are saved with a model and not learned: codes and tables of n-grams."""
    W = config.ngram_codes if config.ngram > 1 else 0
    return W * config.vocab + sum(config.ngram_tables) * (W + 1)


def block_matrices(config: ModelConfig) -> int:
    """Weights of a block's matrices: 4·C² of attention and 2·C·I of the feed-forward layer, 3·C·I with a gate."""
    return 4 * config.n_embd * config.n_embd + (2 + config.is_gated) * config.n_embd * config.inner


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of `build_model(config)`, without building it."""
    C, inner, b = config.n_embd, config.inner, config.bias
    linear = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (inner, C), "mlp.c_proj": (C, inner)}
    linear |= {"mlp.c_gate": (inner, C)} if config.is_gated else {}
    norms = {"ln_1": C, "ln_2": C} | {f"attn.{name}": C // config.n_head for name in QK_NORMS[config.qk_norm]}
    outer = {"ln_e": config.embedding_norm, "ln_f": config.norm_position == "pre_norm"}
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": size for name, size in linear.items()}
    block |= {f"{name}.bias": size[:1] for name, size in linear.items() if b}
    found: dict[str, tuple[int, ...]] = {"wte.weight": (config.padded_vocab, C)}
    if not config.is_rotary:
        found["wpe.weight"] = (config.block_size, C)
    if config.ngram > 1:
        found["ngrams.code"] = (config.vocab, config.ngram_codes)
        found |= {f"ngrams.tables.{n}": (rows, config.ngram_codes + 1) for n, rows in enumerate(config.ngram_tables)}
        found["ngrams.up.weight"] = (C, _ngram_weights(config) // C)
        found |= {"ngrams.trust": (_ngram_logit_weights(config),)} if config.ngrams_add_logits else {}
    if not config.tie_embeddings:
        found["lm_head.weight"] = (config.padded_vocab, C)
    kinds = ("weight", "bias")[: _norm_vectors(config)]
    block |= {f"{name}.{kind}": (width,) for name, width in norms.items() for kind in kinds}
    found |= {f"{name}.{kind}": (C,) for name, present in outer.items() if present for kind in kinds}
    return found | {f"h.{i}.{name}": size for i in range(config.n_layer) for name, size in block.items()}


def is_learned(name: str) -> bool:
    """Whether a parameter named as in `shapes` is trained: codes and tables of n-grams are not."""
    return name != "ngrams.code" and not name.startswith("ngrams.tables.")


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations to train on one token: 6 · N_matmul + 6 · L · C · (T + 1).

    N_matmul counts the weights that multiply activations (the padded head included); a forward pass costs 2 operations
    per weight, a backward pass 4. The second term is causal attention, each token seeing (T + 1) / 2 others on average.
    798 million for GPT-2 small at T = 1024.
    """
    C, T = config.n_embd, config.block_size
    matmul = config.n_layer * block_matrices(config) + config.padded_vocab * C + _ngram_weights(config)
    return 6 * matmul + 6 * config.n_layer * C * (T + 1)


def _norm_vectors(config: ModelConfig) -> int:
    """Learned vectors of a norm: a weight and a bias of LayerNorm, a weight of a scaled RMSNorm."""
    return {"layernorm": 1 + config.bias, "rmsnorm": 0, "rmsnorm_scaled": 1}[config.norm]


def _ngram_weights(config: ModelConfig) -> int:
    """Learned weights from n-gram features to the embedding."""
    return len(config.ngram_tables) * config.ngram_features * config.n_embd


def _ngram_logit_weights(config: ModelConfig) -> int:
    """Learned weights of the n-gram frequencies that are added to the logits."""
    return len(config.ngram_tables) if config.ngrams_add_logits else 0
