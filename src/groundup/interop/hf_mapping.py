"""Map models between groundup and `transformers`: settings and weights, both directions.

The differences between architectures are the table in `hf_architectures.py`. The library transformers is not needed.

Letters: C width (`n_embd`), V vocabulary (`vocab_size`), P padded vocabulary.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError, UsageError
from groundup.interop.hf_architectures import BLOCK, FAMILIES, Family
from groundup.interop.imported import VOCAB_TENSORS, equal, padded, printable, size
from groundup.model.size import MAX_READ_CONTEXT, shapes

BUFFERS = (".attn.bias", ".attn.masked_bias", ".inv_freq", "position_ids")
"""Suffixes of names that are tables, not weights: causal masks, positions and rotary frequencies in older files."""


def family_of(config: ModelConfig) -> Family:
    """The family that computes what such a model computes; UsageError names the settings that no family has."""
    conflicts = {name: list(_conflicts(family, config)) for name, family in FAMILIES.items()}
    other_norm = {name: family.fixed["norm_position"] != config.norm_position for name, family in FAMILIES.items()}
    nearest = min(conflicts, key=lambda name: (len(conflicts[name]), other_norm[name]))
    if conflicts[nearest]:
        raise UsageError(
            f"no architecture of transformers computes this model; nearest is {nearest}, where "
            f"{' and '.join(conflicts[nearest])}; a checkpoint's own folder keeps any model"
        )
    return FAMILIES[nearest]


def _conflicts(family: Family, config: ModelConfig) -> Iterator[str]:
    for key, value in family.fixed.items():
        if getattr(config, key) != value:
            yield f"model.{key} must be {json_repr(value)}, not {json_repr(getattr(config, key))}"
    if config.activation not in family.activations.values():
        known = " or ".join(sorted(set(family.activations.values())))
        yield f"model.activation must be {known}, not {config.activation}"
    if not family.inner_is_free and config.inner != 4 * config.n_embd:
        yield f"model.n_inner must be 4 x n_embd, {4 * config.n_embd}, not {config.inner}"


def config_json(config: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """The config.json for fp32 weights; `end_of_text`: id that begins and ends a text. UsageError as `family_of`."""
    family = family_of(config)
    values: dict[str, Any] = {"model_type": family.model_type, "architectures": [family.architecture]}
    values |= {key: getattr(config, field) for field, key in family.fields.items()}
    if family.is_rotary:
        values |= {"intermediate_size": config.inner, "num_key_value_heads": config.n_head}
        values |= {"head_dim": config.n_embd // config.n_head}
        values |= {"rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base}}
        values |= {"rope_theta": config.rotary_base}  # for older readers
    else:
        values["n_ctx"] = config.block_size
    values[family.activation_key] = next(key for key, name in family.activations.items() if name == config.activation)
    values |= dict.fromkeys(family.dropout_keys, config.dropout)
    values |= {key: allowed[0] for key, allowed in family.demands.items() if allowed[0] is not None}
    # No padding id: it would be an id of the text, and an embedding with a padding id does not train that row.
    values |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": None}
    return values | {"torch_dtype": "float32", "use_cache": True, **family.extras}


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The model that a config.json of transformers describes; UsageError names what groundup cannot compute."""
    family = FAMILIES.get(str(values.get("model_type")))
    if family is None:
        raise UsageError(
            f"model_type {values.get('model_type')!r:.80}: not an architecture that groundup computes; it reads "
            f"{', '.join(FAMILIES)}"
        )
    values = {**family.defaults, **values}
    if family.is_rotary:
        _check_heads(values)
    for key, allowed in family.demands.items():
        if values.get(key, allowed[0]) not in allowed:
            raise UsageError(f"{key} {json_repr(values[key])}: groundup's models have {json_repr(allowed[0])} there")
    activation = values[family.activation_key]
    if not isinstance(activation, str) or activation not in family.activations:
        known = ", ".join(family.activations)
        raise UsageError(f"{family.activation_key} {json_repr(activation)}: groundup's models know {known}")
    settings = {field: values[key] for field, key in family.fields.items()} | dict(family.fixed)
    settings |= {"activation": family.activations[activation], "dropout": values[family.dropout_keys[0]]}
    settings |= {"init": family.init} | _rotary_settings(family, values)
    try:
        config = ModelConfig.model_validate(settings)
        return config.model_copy(update={"n_inner": None}) if config.inner == config.default_inner else config
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            raise UsageError(f"config.json: {first['ctx']['error']}") from None
        key = str(first["loc"][0])
        raise UsageError(f"{family.fields.get(key, key)} {json_repr(first['input'])}: {first['msg']}") from None


def _check_heads(values: Mapping[str, Any]) -> None:
    """UsageError unless there are as many key heads as query heads, together as wide as the model, that see all."""
    heads, width, kv_heads = (values.get(k) for k in ("num_attention_heads", "hidden_size", "num_key_value_heads"))
    if kv_heads not in (heads, None):
        raise UsageError(
            f"num_key_value_heads {json_repr(kv_heads)}: queries that share keys (grouped-query attention); groundup's "
            f"models have a key head for each of the {json_repr(heads)} query heads, so import another model"
        )
    if (
        isinstance(heads, int)
        and isinstance(width, int)
        and heads
        and values.get("head_dim") not in (None, width // heads)
    ):
        raise UsageError(
            f"head_dim {json_repr(values['head_dim'])}: groundup's heads are hidden_size / num_attention_heads wide, "
            f"{width // heads} here, so import another model"
        )
    kinds = values.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise UsageError(f"layer_types {json_repr(kinds)}: groundup's models have full_attention in every layer")


def _rotary_settings(family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary base in a config.json of this version of transformers or the previous one."""
    if not family.is_rotary:
        return {}
    rope = values.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise UsageError(
            f"rope_parameters {json_repr(rope)}: groundup's models rotate plainly, which is rope_type 'default'"
        )
    return {"rotary_base": rope.get("rope_theta", values.get("rope_theta", 10_000.0))}


def to_hf(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under transformers' names: contiguous, the vocabulary unpadded, a tied head left out.

    Missing biases become zeros, which computes the same. UsageError as `family_of`.
    """
    family = family_of(config)
    found: dict[str, Tensor] = {}
    for name, parts in _tensors(family, config):
        if name in tensors:
            tensor = tensors[name][: config.vocab] if name in VOCAB_TENSORS else tensors[name]
            tensor = _transpose_conv1d(family, name, tensor)
        else:
            weight = tensors[name.removesuffix("bias") + "weight"]
            tensor = weight.new_zeros(weight.size(0))
        found |= {part: piece.contiguous() for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True)}
    return found


def untied(config: ModelConfig, tensors: Mapping[str, Tensor]) -> ModelConfig:
    """`config` with an untied head if the weights hold one that differs from the embedding, as transformers reads it.

    config.json may still call the two tied; the weights take precedence.
    """
    family = family_of(config)
    (part,) = family.names["wte.weight"]
    embedding = tensors.get(part, tensors.get(part.removeprefix(family.prefix)))
    head = tensors.get("lm_head.weight")
    if not config.tie_embeddings or head is None or embedding is None or equal(head, embedding):
        return config
    return config.model_copy(update={"tie_embeddings": False})


def to_groundup(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers under groundup's names, as `GPT(config).named_parameters()`: fp32, zero-padded.

    The family's prefix, buffers and a tied head are optional. A tensor that needs no change is not copied.
    CheckpointError when one is missing, unknown or of another vocabulary; UsageError as `family_of`.
    """
    check_weights(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    family, found = family_of(config), {}
    for name, parts in _tensors(family, config):
        keys = [_key(family, part, tensors) for part in parts]
        pieces = [tensors[key] for key in keys]
        tensor = _transpose_conv1d(family, name, torch.cat(pieces) if len(pieces) > 1 else pieces[0])
        tensor = padded(config, keys[0], tensor) if name in VOCAB_TENSORS else tensor
        found[name] = tensor.to(torch.float32).contiguous()
    return found


def check_weights(config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError unless weights of transformers, given by name and shape, are those of `config`'s model."""
    family, used = family_of(config), {"lm_head.weight"}
    if config.block_size > MAX_READ_CONTEXT:
        raise CheckpointError(
            f"{family.fields['block_size']} {config.block_size:,}: a context has at most {MAX_READ_CONTEXT:,} tokens"
        )
    expected = shapes(config.model_copy(update={"n_layer": 1, "bias": True}))
    for name, parts in _tensors(family, config):
        rows, *columns = expected[re.sub(r"^h\.\d+\.", "h.0.", name)]
        shape = ((config.vocab if name in VOCAB_TENSORS else rows) // len(parts), *columns)
        shape = shape[::-1] if _is_conv1d(family, name) else shape
        for part in parts:
            if (key := _key(family, part, found)) not in found:
                raise CheckpointError(f"{part}: missing from the weights; they and config.json do not belong together")
            if found[key] != shape:
                raise CheckpointError(
                    f"{key}: {size(found[key])} in the weights, and {size(shape)} by config.json; "
                    "the two do not belong together"
                )
            used.add(key)
    for key in sorted(found.keys() - used):
        if not key.endswith(BUFFERS):
            raise CheckpointError(
                f"{printable(key)}: the weights have it, and the model that config.json describes does not"
            )


def _key(family: Family, part: str, found: Mapping[str, object]) -> str:
    """The name of a tensor of transformers in a file, which may leave out the family's prefix."""
    return part if part in found else part.removeprefix(family.prefix)


def _tensors(family: Family, config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every tensor of the model: its name here, and its names in transformers."""
    for name, parts in family.names.items():
        if name == "lm_head.weight" and config.tie_embeddings:
            continue
        for layer in range(config.n_layer if "*" in name else 1):
            yield name.replace("*", str(layer)), tuple(part.replace("*", str(layer)) for part in parts)


def _transpose_conv1d(family: Family, name: str, tensor: Tensor) -> Tensor:
    """Transpose a matrix of a block between (out, in), as here, and (in, out), as in transformers' Conv1D."""
    return tensor.T if _is_conv1d(family, name) else tensor


def _is_conv1d(family: Family, name: str) -> bool:
    return family.conv1d and name.endswith(tuple(f".{part}.weight" for part in BLOCK))


def json_repr(value: object) -> str:
    """A value in JSON notation, cut to 80 characters."""
    return json.dumps(value)[:80]
