"""Decoder for CPUs that computes a step in one C++ call (`kernels/decode.cpp`).

The model's own modules do what comes before and after: embeddings, n-gram tables, the softcap of logits. They also read
long prompts, for torch's matrix products are faster from some tokens on.

Letters: B sequences, N tokens in a step, C width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from groundup.generation.model_decoder import ModelDecoder
from groundup.kernels import decode
from groundup.kernels.cross_entropy import softcap_and_mask
from groundup.model.blocks import GatedFeedForward, PostNorm, PreNorm, Qwen3Attention
from groundup.model.gpt import GPT
from groundup.model.ngram import NGramCache, NGramGPT
from groundup.model.norms import RMSNorm
from groundup.model.positions import RotaryPositions
from groundup.model.quantized import PackedLinear

MAX_TOKENS = 16  # of a prompt in one call
WEIGHT_BYTES_PER_THREAD = 4 * 2**20  # read in about 0.3 ms; threads that share less spend their time on waiting
NO_NORM = decode.Norm(decode.NormKind.NONE, None, None, 0.0)
NO_MATRIX = decode.Matrix()
OWN_MODULES = ("groundup.model.", "torch.nn.modules.")  # whose classes are known here
PACKED = {torch.bfloat16: "bf16", torch.int8: "int8"}


def unsupported(model: GPT) -> str:
    """Why a model cannot be computed in C++, in a few words; empty where it can."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        plain = type(tensor) in (nn.Parameter, Tensor) and tensor.device.type == "cpu" and tensor.is_contiguous()
        if not plain or tensor.dtype not in (torch.float32, *(PACKED if name.endswith("packed") else ())):
            return f"{name} is not in fp32 in main memory"
    for name, module in model.named_modules():
        kind, where = type(module), name or "the model"
        if not kind.__module__.startswith(OWN_MODULES) or (isinstance(module, nn.Linear) and kind is not nn.Linear):
            return f"{where} is a {kind.__name__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{where} has hooks"
    return decode.decode_kernels().reason


class CompiledDecoder(ModelDecoder):
    """Decoder of a model in evaluation mode that is not `unsupported`; its weights must stay where they are."""

    def __init__(self, model: GPT, device: torch.device, slots: int) -> None:
        super().__init__(model, device, slots)
        config = model.config
        buffers = self.slots.buffers(config.n_head, config.n_embd // config.n_head)
        layers = [_layer(block, *own) for block, own in zip(model.h, buffers, strict=True)]
        library = decode.decode_kernels().library
        assert library is not None, "checked by `unsupported`"
        self._step = decode.DecodeStep(library, _model(model, layers))
        self._weight_bytes = sum(_bytes(layer) for layer in model.modules())
        # The C++ knows addresses alone: these tensors must not be freed.
        self._alive = [*model.parameters(), *model.buffers(), *buffers]

    @override
    def extend(self, slot: int, ids: Sequence[int], logits: int) -> Tensor:
        return self._compute([slot], [ids], logits) if len(ids) <= MAX_TOKENS else super().extend(slot, ids, logits)

    @override
    def step(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self._compute(range(len(ids)), ids, sum(map(len, ids)))

    @override
    def describe(self) -> str:
        head, threads = self._model.lm_head, self._threads()
        kind = PACKED[head.packed.dtype] if isinstance(head, PackedLinear) else "fp32"
        return f"C++, {kind}, {threads} thread{'s' * (threads != 1)}"

    def _compute(self, slots: Sequence[int], ids: Sequence[Sequence[int]], logits: int) -> Tensor:
        """Logits of the last `logits` of the tokens that are appended to `slots`."""
        spans = [(slot, self.slots.reserve(slot, len(own)), len(own)) for slot, own in zip(slots, ids, strict=True)]
        positions = torch.tensor([position + i for _, position, n in spans for i in range(n)])  # (N,)
        flat = torch.tensor([token for own in ids for token in own])  # (N,)
        # As sequences of one token: those of all sequences together may be more than the context.
        x = self._model.embed(flat[:, None], positions[:, None])[:, 0]  # (N, C)
        if not isinstance(self._model, NGramGPT):
            return self._softcapped(self._step(x, None, spans, logits, self._threads()))
        assert isinstance(self.slots, NGramCache), "an n-gram model's cache"
        ngrams, each_slot = self._model.ngrams, torch.tensor([slot for slot, _, n in spans for _ in range(n)])
        previous = self.slots.previous_in_slots(flat, each_slot, positions, len(ngrams.sizes))  # (n, N)
        found, log_frequencies = ngrams.look_up([flat[None], *previous[:, None]], None)
        z = self._step(x, found[0], spans, logits, self._threads())
        return self._softcapped(z if log_frequencies is None else z + log_frequencies[0, len(flat) - logits :])

    def _threads(self) -> int:
        return max(1, min(torch.get_num_threads(), self._weight_bytes // WEIGHT_BYTES_PER_THREAD))

    def _softcapped(self, logits: Tensor) -> Tensor:
        softcap = self._model.config.logit_softcap  # padded ids, which would be masked too, are not computed here
        return softcap_and_mask(logits, vocab=self.vocab, softcap=softcap) if softcap else logits


def _model(model: GPT, layers: list[decode.Layer]) -> decode.Model:
    config, positions = model.config, model.wpe
    head = _matrix(model.lm_head)
    head.outputs = config.vocab  # without the padding
    return decode.Model(
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        inner=config.inner,
        context=config.block_size,
        activation=decode.ACTIVATIONS.index(config.activation),
        post_norm=isinstance(model.h[0], PostNorm),
        norm_before_rotation=isinstance(model.h[0].attn, Qwen3Attention),
        cos=decode.address(positions.cos if isinstance(positions, RotaryPositions) else None),
        sin=decode.address(positions.sin if isinstance(positions, RotaryPositions) else None),
        features=_matrix(model.ngrams.up) if isinstance(model, NGramGPT) else NO_MATRIX,
        embedding_norm=_norm(model.ln_e),
        final_norm=_norm(model.ln_f),
        head=head,
        layer=(decode.Layer * len(layers))(*layers),
    )


def _layer(block: nn.Module, keys: Tensor, values: Tensor) -> decode.Layer:
    assert isinstance(block, PreNorm), "of every GPT"
    attention, feed_forward = block.attn, block.mlp
    of_queries, of_keys = attention.qk_norm, attention.qk_norm
    if isinstance(attention, Qwen3Attention):
        of_queries, of_keys = attention.q_norm, attention.k_norm
    return decode.Layer(
        norm_1=_norm(block.ln_1),
        norm_2=_norm(block.ln_2),
        q_norm=_norm(of_queries),
        k_norm=_norm(of_keys),
        qkv=_matrix(attention.c_attn),
        attention_out=_matrix(attention.c_proj),
        up=_matrix(feed_forward.c_fc),
        gate=_matrix(feed_forward.c_gate) if isinstance(feed_forward, GatedFeedForward) else NO_MATRIX,
        down=_matrix(feed_forward.c_proj),
        keys=decode.address(keys),
        values=decode.address(values),
    )


def _matrix(layer: nn.Module) -> decode.Matrix:
    if isinstance(layer, PackedLinear):
        return decode.matrix(layer.packed, layer.scale, layer.bias)
    assert isinstance(layer, nn.Linear), "checked by `unsupported`"
    return decode.matrix(layer.weight, None, layer.bias)


def _bytes(layer: nn.Module) -> int:
    """Size of a linear layer's weight, and 0 for other modules."""
    if not isinstance(layer, (nn.Linear, PackedLinear)):
        return 0
    return (layer.packed if isinstance(layer, PackedLinear) else layer.weight).nbytes


def _norm(norm: nn.Module) -> decode.Norm:
    if isinstance(norm, nn.LayerNorm):
        weight, bias = decode.address(norm.weight), decode.address(norm.bias)
        return decode.Norm(decode.NormKind.LAYER, weight, bias, norm.eps)
    if isinstance(norm, RMSNorm):
        return decode.Norm(decode.NormKind.RMS, decode.address(getattr(norm, "weight", None)), None, norm.eps)
    assert isinstance(norm, nn.Identity), f"{type(norm).__name__} is no norm of a GPT"
    return NO_NORM
