"""Arithmetic about a model's size; needs no torch."""

from __future__ import annotations

from groundup.config import ModelConfig


def parameters(config: ModelConfig) -> int:
    """Parameters of a GPT, padding left out and a tied head counted once: 124,439,808 for GPT-2 small."""
    C, inner, b = config.n_embd, config.inner, int(config.bias)
    norm = C + b * C
    attention = 3 * C * C + b * 3 * C + C * C + b * C
    feed_forward = 2 * C * inner + b * (inner + C)
    embeddings = config.vocab * C * (1 if config.tied else 2) + config.block_size * C
    return embeddings + config.n_layer * (2 * norm + attention + feed_forward) + norm


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations to train on one token: 6 · N_matmul + 6 · L · C · (T + 1).

    N_matmul counts the weights that multiply activations (the padded head included); a forward pass costs 2 operations
    a weight, a backward pass 4. The second term is causal attention, each token seeing (T + 1) / 2 others on average.
    798 million for GPT-2 small at T = 1024.
    """
    C, T = config.n_embd, config.block_size
    matmul = config.n_layer * (4 * C * C + 2 * C * config.inner) + config.padded_vocab * C
    return 6 * matmul + 6 * config.n_layer * C * (T + 1)
