"""Estimates of a training step's memory; needs no torch.

What autograd keeps for the backward pass follows from the parts of a model. The tests compare these formulas with the
tensors that torch keeps.

Letters: T time, C width, H heads, I inner width, P padded vocabulary; e bytes of a matrix product's operand, 4 in fp32
and 2 in bf16 and fp16 (where the residual stream stays fp32).
"""

from typing import Literal

from groundup.config.model import ModelConfig
from groundup.config.types import CheckpointingMode
from groundup.kernels.thresholds import UNFUSED_ATTENTION_MAX_TOKENS, chunk_rows, fits_unchunked
from groundup.model.size import QK_NORMS, block_matrices

Precision = Literal["fp32", "bf16", "fp16"]
FP32 = 4  # bytes
OPERAND_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


def activation_bytes(
    config: ModelConfig, precision: Precision, device: str = "cpu", *, recompute: CheckpointingMode = "none"
) -> int:
    """Bytes kept per token of a micro-batch, from the embedding to the head's input, without logits.

    A GPT-2 block: 2·4·C of residual stream, 2·e·C of normalised stream, 3·e·C of q, k, v, e·C of attention's output,
    and 2·e·I around the nonlinearity, which makes 64·C in fp32 and 36·C in bf16 where I = 4·C.
    `device` is cpu, cuda or mps: unfused attention on a CPU also keeps its T x T matrices.
    With `recompute` selective, neither the normalised stream nor the nonlinearity's output is kept, which leaves 40·C
    in fp32. With full, each block keeps its input alone, 4·C, and the backward pass holds one complete block at a time.
    """
    C, e = config.n_embd, OPERAND_BYTES[precision]
    statistics = FP32 * (2 if config.norm == "layernorm" else 1)  # bytes per normalised vector: its scale and its mean
    # The nonlinearity's inputs and output; ReLU's gradient needs its output alone, SwiGLU's the SiLU of its gate too.
    copies = {"relu": 1, "swiglu": 4}.get(config.activation, 2)
    inner = config.inner * e * (1 + config.is_gated if recompute == "selective" else copies)
    gate = e * C if config.is_gated and precision != "fp32" else 0  # each of the two products casts its input
    weighted = FP32 * C if config.norm == "rmsnorm_scaled" else 0  # the gradient of a norm's weights needs its own copy
    # Post-norm's norms give the stream itself, which is kept anyway; a norm that two products read is not recomputed.
    recomputed = 1 + (not config.is_gated) if recompute == "selective" and config.norm_position == "pre_norm" else 0
    norms = (2 - recomputed) * (e * C + statistics + weighted) + gate
    block = 2 * FP32 * C + (3 + 1) * e * C + inner + norms
    block += _position_and_norm_bytes(config, precision, device) + _attention_bytes(config, precision, device)
    block += 2 * _mask_bytes(e, device) * C if config.dropout else 0  # of both branches
    ends = e * C + (FP32 * C + statistics + weighted if config.norm_position == "pre_norm" else 0)
    ends += FP32 * C + statistics + weighted if config.embedding_norm else 0
    ends += _mask_bytes(FP32, device) * C if config.dropout else 0
    tables, V = config.ngram - 1, config.vocab if config.ngrams_add_logits else 0
    if tables:
        ends += e * tables * config.ngram_features
        ends += tables * FP32 * V + e * V  # log frequencies, of each table and their sum
    return (config.n_layer * FP32 * C + block if recompute == "full" else config.n_layer * block) + ends


def loss_bytes(config: ModelConfig, precision: Precision, tokens: int, device: str = "cpu") -> int:
    """Peak bytes of the loss of a micro-batch of `tokens`, in addition to `activation_bytes`.

    The head's gradient, 4·P·C, and that of its input, 4·C per token, wait for the backward pass. In addition, for n
    rows at a time: logits, e·P each, and on a GPU no more; elsewhere log-probabilities, 4·P, with a softcap 4·P more,
    in bf16 and fp16 4·P more, or instead of these a chunk's gradient of the head, e·P·C. Few logits are computed at
    once: 3·4·P per token, in the softmax's backward pass, where a softcap keeps e·P more.
    """
    P, C, e = config.padded_vocab, config.n_embd, OPERAND_BYTES[precision]
    if fits_unchunked(tokens, P):
        return tokens * P * (3 * FP32 + (e if config.logit_softcap else 0))
    n, half = chunk_rows(tokens, P, device), precision != "fp32"
    work = 0 if device == "cuda" else n * P * FP32 * (1 + bool(config.logit_softcap) + half)
    return n * P * e + max(work, e * P * C if half else 0) + FP32 * C * (P + tokens)


def weight_copy_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of the copies of weights in bf16 or fp16 that autocast keeps during a micro-batch."""
    if precision == "fp32":
        return 0
    C = config.n_embd
    return OPERAND_BYTES[precision] * (config.n_layer * block_matrices(config) + config.padded_vocab * C)


def _position_and_norm_bytes(config: ModelConfig, precision: Precision, device: str) -> int:
    C = config.n_embd
    # Unfused attention copies q, k and v anyway, and then keeps the copies alone.
    e = 0 if _unfused_attention(config, precision, device) else OPERAND_BYTES[precision]
    rotary = config.is_rotary
    if not QK_NORMS[config.qk_norm]:
        return 2 * e * C if rotary else 0  # q and k, rotated
    statistics = 2 * config.n_head * FP32 * (2 if config.norm == "layernorm" else 1)
    rotated = rotary and config.qk_norm == "after_rotary"  # else norms read what attention's first product gives
    inputs = 2 * FP32 * C if rotated or precision != "fp32" else 0  # norms compute in fp32
    inputs += 2 * FP32 * C if config.norm == "rmsnorm_scaled" else 0
    return inputs + 3 * e * C + statistics  # q and k, normalised; their layout costs a copy of the output


def _attention_bytes(config: ModelConfig, precision: Precision, device: str) -> int:
    H, T, e = config.n_head, config.block_size, OPERAND_BYTES[precision]
    if _unfused_attention(config, precision, device):
        return (3 if config.dropout else 1) * e * H * T  # probabilities; with dropout also noise, and their product
    return FP32 * H  # a fused kernel keeps the normaliser of each query


def _unfused_attention(config: ModelConfig, precision: Precision, device: str) -> bool:
    short = config.block_size <= UNFUSED_ATTENTION_MAX_TOKENS
    return device == "cpu" and (config.dropout > 0 or (precision == "bf16" and short))


def _mask_bytes(operand: int, device: str) -> int:
    return operand if device == "cpu" else 1  # CPUs draw noise in the type of the tensor it multiplies
