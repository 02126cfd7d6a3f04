"""Table of the architectures of `transformers` that groundup's models equal. No torch.

A row is data: the settings that the architecture fixes, the config.json keys of the others, and which of its tensors
make up each of ours. Sources: `modeling_*.py` and `configuration_*.py` of gpt2, openai, nanochat and qwen3 in
transformers 5; `tests/model/test_parity.py` compares the logits.

Letters: C width (`n_embd`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Names = Mapping[str, tuple[str, ...]]
"""A tensor's name in groundup, `*` for the layer -> the transformers tensors that are concatenated to it along rows."""


@dataclass(frozen=True)
class Family:
    """One architecture of transformers."""

    model_type: str
    architecture: str
    fixed: Mapping[str, Any]  # settings of groundup that every model of this family has
    activations: Mapping[str, str]  # their names -> ours; of several for one activation, the first is written
    fields: Mapping[str, str]  # our field -> their key, where both hold the same value
    defaults: Mapping[str, Any]  # values of keys that a config.json leaves out
    # Their keys that change the computation -> values for which it equals ours; the first is written.
    demands: Mapping[str, tuple[Any, ...]]
    names: Names
    init: str
    prefix: str  # of their tensor names; a file of a model without a head leaves it out
    activation_key: str
    dropout_keys: tuple[str, ...]
    conv1d: bool = False  # matrices of blocks are stored as (in, out)
    inner_is_free: bool = True  # the feed-forward width may differ from 4·C
    extras: Mapping[str, Any] = field(default_factory=dict)  # further values of config.json that readers expect

    @property
    def is_rotary(self) -> bool:
        """Whether positions rotate queries and keys."""
        return bool(self.fixed["position_embedding"] != "learned")


BLOCK = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def _openai_names(token: str, position: str, last: tuple[str, ...]) -> Names:
    """Names of GPT-1 and GPT-2: as ours, except for the prefix and the embeddings."""
    blocks = [f"h.*.{part}.{kind}" for part in ("ln_1", "ln_2", *BLOCK) for kind in ("weight", "bias")]
    same = {name: (f"transformer.{name}",) for name in (*blocks, *last)}
    ends = {"wte.weight": (f"transformer.{token}.weight",), "wpe.weight": (f"transformer.{position}.weight",)}
    return {**ends, **same, "lm_head.weight": ("lm_head.weight",)}


_ROTARY_NAMES: Names = {
    "wte.weight": ("model.embed_tokens.weight",),
    "h.*.attn.c_attn.weight": tuple(f"model.layers.*.self_attn.{part}_proj.weight" for part in "qkv"),
    "h.*.attn.c_proj.weight": ("model.layers.*.self_attn.o_proj.weight",),
    "lm_head.weight": ("lm_head.weight",),
}
_NANOCHAT_NAMES: Names = {
    **_ROTARY_NAMES,
    "h.*.mlp.c_fc.weight": ("model.layers.*.mlp.fc1.weight",),
    "h.*.mlp.c_proj.weight": ("model.layers.*.mlp.fc2.weight",),
}
_QWEN3_NAMES: Names = {
    **_ROTARY_NAMES,
    "h.*.attn.q_norm.weight": ("model.layers.*.self_attn.q_norm.weight",),
    "h.*.attn.k_norm.weight": ("model.layers.*.self_attn.k_norm.weight",),
    "h.*.ln_1.weight": ("model.layers.*.input_layernorm.weight",),
    "h.*.ln_2.weight": ("model.layers.*.post_attention_layernorm.weight",),
    "h.*.mlp.c_gate.weight": ("model.layers.*.mlp.gate_proj.weight",),
    "h.*.mlp.c_fc.weight": ("model.layers.*.mlp.up_proj.weight",),
    "h.*.mlp.c_proj.weight": ("model.layers.*.mlp.down_proj.weight",),
    "ln_f.weight": ("model.norm.weight",),
}

_OPENAI_FIELDS = {
    "n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "block_size": "n_positions",
    "vocab_size": "vocab_size", "norm_eps": "layer_norm_epsilon", "tie_embeddings": "tie_word_embeddings",
}  # fmt: skip
_OPENAI_DEFAULTS = {
    "n_layer": 12, "n_head": 12, "n_embd": 768, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    "resid_pdrop": 0.1,
}  # fmt: skip
_OPENAI_PARTS = {
    "norm": "layernorm", "position_embedding": "learned", "qk_norm": "none", "embedding_norm": False,
    "logit_softcap": None, "ngram": 1,
}  # fmt: skip
_ROTARY_FIELDS = {
    "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size",
    "n_inner": "intermediate_size", "block_size": "max_position_embeddings", "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps", "tie_embeddings": "tie_word_embeddings",
}  # fmt: skip
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu": "gelu", "gelu_python": "gelu", "relu": "relu", "relu2": "relu2",
}  # fmt: skip
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
_SUMMARY = {"initializer_range": 0.02, "summary_type": "cls_index", "summary_use_proj": True}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        model_type="gpt2", architecture="GPT2LMHeadModel",
        fixed={"norm_position": "pre_norm", **_OPENAI_PARTS},
        activations=_ACTIVATIONS,
        fields=_OPENAI_FIELDS | {"n_inner": "n_inner"},
        defaults=_OPENAI_DEFAULTS
        | {"n_positions": 1024, "vocab_size": 50257, "activation_function": "gelu_new", "n_inner": None},
        demands={
            "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
        },
        names=_openai_names("wte", "wpe", ("ln_f.weight", "ln_f.bias")),
        init="gpt2", prefix="transformer.", activation_key="activation_function", dropout_keys=_DROPOUTS, conv1d=True,
        extras=_SUMMARY | {"reorder_and_upcast_attn": False},
    ),
    "openai-gpt": Family(
        model_type="openai-gpt", architecture="OpenAIGPTLMHeadModel",
        fixed={"norm_position": "post_norm", **_OPENAI_PARTS},
        activations={"gelu": "gelu_tanh", "relu": "relu"},  # what it calls gelu is the tanh form
        fields=_OPENAI_FIELDS, defaults=_OPENAI_DEFAULTS | {"n_positions": 512, "vocab_size": 40478, "afn": "gelu"},
        demands={}, names=_openai_names("tokens_embed", "positions_embed", ()),
        init="gpt1", prefix="transformer.", activation_key="afn", dropout_keys=_DROPOUTS, conv1d=True,
        inner_is_free=False, extras=_SUMMARY,
    ),
    "nanochat": Family(
        model_type="nanochat", architecture="NanoChatForCausalLM",
        fixed={
            "norm_position": "pre_norm", "norm": "rmsnorm", "position_embedding": "rotary",
            "qk_norm": "after_rotary", "embedding_norm": True, "bias": False, "ngram": 1,
        },
        activations=_ACTIVATIONS,
        fields=_ROTARY_FIELDS | {"logit_softcap": "final_logit_softcapping"},
        defaults={
            "num_hidden_layers": 12, "num_attention_heads": 6, "hidden_size": 768, "intermediate_size": 8192,
            "max_position_embeddings": 2048, "vocab_size": 50304, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
            "final_logit_softcapping": 15.0, "hidden_act": "relu2", "attention_dropout": 0.0,
        },
        demands={"attention_bias": (False,), "rope_scaling": (None,)},
        names=_NANOCHAT_NAMES,
        init="modern", prefix="model.", activation_key="hidden_act", dropout_keys=("attention_dropout",),
        extras={"initializer_range": 0.02},
    ),
    "qwen3": Family(
        model_type="qwen3", architecture="Qwen3ForCausalLM",
        fixed={
            "norm_position": "pre_norm", "norm": "rmsnorm_scaled", "position_embedding": "rotary_ccw",
            "qk_norm": "before_rotary", "embedding_norm": False, "logit_softcap": None, "bias": False, "ngram": 1,
        },
        activations={"silu": "swiglu", "swish": "swiglu"},
        fields=_ROTARY_FIELDS,
        defaults={
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128,
            "hidden_size": 4096, "intermediate_size": 22016, "max_position_embeddings": 32768, "vocab_size": 151936,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu", "attention_dropout": 0.0,
        },
        demands={"attention_bias": (False,), "use_sliding_window": (False,), "rope_scaling": (None,)},
        names=_QWEN3_NAMES,
        init="modern", prefix="model.", activation_key="hidden_act", dropout_keys=("attention_dropout",),
        extras={"initializer_range": 0.02},
    ),
}  # fmt: skip
