"""Between our models and those of `transformers`: settings and weights, both directions.

What differs from one architecture to another is the table in `architectures.py`. Transformers is not needed here, nor
torch before weights are touched.

Letters: C width (`n_embd`), V vocabulary (`vocab_size`), P padded vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError, UsageError
from groundup.interop.hf_architectures import FAMILIES, Family

if TYPE_CHECKING:
    from torch import Tensor

BUFFERS = (".attn.bias", ".attn.masked_bias", ".inv_freq", "position_ids")
"""Ends of names that are tables, not weights: causal masks, places and rotation speeds that older files keep."""

EMBEDDINGS = ("wte.weight", "lm_head.weight")


def family_of(config: ModelConfig) -> Family:
    """The family that computes what such a model does; UsageError names the settings that none has."""
    misfits = {name: list(_misfits(family, config)) for name, family in FAMILIES.items()}
    nearest = min(
        misfits, key=lambda name: (len(misfits[name]), FAMILIES[name].fixed["norm_position"] != config.norm_position)
    )
    if misfits[nearest]:
        raise UsageError(
            f"no architecture of transformers computes this model; nearest is {nearest}, where "
            f"{' and '.join(misfits[nearest])}; a checkpoint's own folder keeps any model"
        )
    return FAMILIES[nearest]


def other_format(config: ModelConfig) -> str:
    """The remedy where another format has no place for a model: transformers, where that computes it."""
    try:
        family_of(config)
    except UsageError:
        return "no other program computes this model, so keep the checkpoint's own folder"
    return "export it with --to hf"


def _misfits(family: Family, config: ModelConfig) -> Iterator[str]:
    for key, value in family.fixed.items():
        if getattr(config, key) != value:
            yield f"model.{key} must be {json_repr(value)}, not {json_repr(getattr(config, key))}"
    if config.activation not in family.activations.values():
        known = " or ".join(sorted(set(family.activations.values())))
        yield f"model.activation must be {known}, not {config.activation}"
    if not family.inner_is_free and config.inner != 4 * config.n_embd:
        yield f"model.n_inner must be 4 x n_embd, {4 * config.n_embd}, not {config.inner}"


def config_json(config: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """Their config.json of such a model in fp32, `end_of_text` ending a text and beginning one; UsageError as above."""
    family = family_of(config)
    values: dict[str, Any] = {"model_type": family.model_type, "architectures": [family.architecture]}
    values |= {to_hf: getattr(config, to_groundup) for to_groundup, to_hf in family.fields.items()}
    if family.model_type == "nanochat":
        values |= {"intermediate_size": config.inner, "num_key_value_heads": config.n_head}
        values |= {"rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base}}
        values |= {"rope_theta": config.rotary_base}  # where older readers look
    else:
        values["n_ctx"] = config.block_size
    values[family.activation_key] = next(
        t for t, to_groundup in family.activations.items() if to_groundup == config.activation
    )
    values |= dict.fromkeys(family.dropout_keys, config.dropout)
    values |= {key: allowed[0] for key, allowed in family.demands.items() if allowed[0] is not None}
    # No padding id: it would be one of the text's, and where an embedding knows of it, that row no longer learns.
    values |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": None}
    return values | {"torch_dtype": "float32", "use_cache": True, **family.extras}


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The shape that their config.json describes; UsageError names what it asks for and ours cannot compute."""
    family = FAMILIES.get(str(values.get("model_type")))
    if family is None:
        raise UsageError(
            f"model_type {values.get('model_type')!r:.80}: not an architecture that groundup computes; it reads "
            f"{', '.join(FAMILIES)}"
        )
    values = {**family.defaults, **values}
    demands = dict(family.demands)
    if family.model_type == "nanochat":
        heads, width = values["num_attention_heads"], values["hidden_size"]
        demands["num_key_value_heads"] = (heads, None)
        if isinstance(heads, int) and isinstance(width, int) and heads:
            demands["head_dim"] = (width // heads, None)
    for key, allowed in demands.items():
        if values.get(key, allowed[0]) not in allowed:
            raise UsageError(f"{key} {json_repr(values[key])}: groundup's models have {json_repr(allowed[0])} there")
    activation = values[family.activation_key]
    if not isinstance(activation, str) or activation not in family.activations:
        known = ", ".join(family.activations)
        raise UsageError(f"{family.activation_key} {json_repr(activation)}: groundup's models know {known}")
    shape = {key: values[to_hf] for key, to_hf in family.fields.items()} | dict(family.fixed)
    shape |= {"activation": family.activations[activation], "dropout": values[family.dropout_keys[0]]}
    shape |= {"init": family.init} | _rotation(family, values)
    try:
        config = ModelConfig.model_validate(shape)
        return config.model_copy(update={"n_inner": None}) if config.inner == 4 * config.n_embd else config
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            raise UsageError(f"config.json: {first['ctx']['error']}") from None
        key = str(first["loc"][0])
        raise UsageError(f"{family.fields.get(key, key)} {json_repr(first['input'])}: {first['msg']}") from None


def _rotation(family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
    """Where nanochat's config.json, of this version of transformers or of the last, tells how fast to turn."""
    if family.fixed["position_embedding"] != "rotary":
        return {}
    rope = values.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise UsageError(
            f"rope_parameters {json_repr(rope)}: groundup's models rotate plainly, which is rope_type 'default'"
        )
    return {"rotary_base": rope.get("rope_theta", values.get("rope_theta", 10_000.0))}


def to_hf(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under their names: contiguous, the vocabulary unpadded, a tied head left out.

    Biases that a model of ours leaves out are zeros there, which computes the same. UsageError as `family_of`.
    """
    family = family_of(config)
    found: dict[str, Tensor] = {}
    for name, parts in _tensors(family, config):
        if name in tensors:
            tensor = (
                tensors[name][: config.vocab] if name in EMBEDDINGS else _transpose_conv1d(family, name, tensors[name])
            )
        else:
            weight = tensors[name.removesuffix("bias") + "weight"]
            tensor = weight.new_zeros(weight.size(0))
        found |= {part: piece.contiguous() for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True)}
    return found


def untied(config: ModelConfig, tensors: Mapping[str, Tensor]) -> ModelConfig:
    """The shape with a head of its own where the weights bring one that is not the embedding, as transformers reads it.

    Their config.json may still call the two tied: weights that are there win over that.
    """
    family = family_of(config)
    (part,) = family.names["wte.weight"]
    embedding = tensors.get(part, tensors.get(part.removeprefix(family.prefix)))
    head = tensors.get("lm_head.weight")
    if not config.tie_embeddings or head is None or embedding is None or equal(head, embedding):
        return config
    return config.model_copy(update={"tie_embeddings": False})


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, of whatever precision, hold the same numbers."""
    import torch

    return a.shape == b.shape and torch.equal(a.float(), b.float())


def to_groundup(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names, as `GPT(config).named_parameters()`: fp32, the vocabulary padded with zeros.

    The prefix of a model without a head may be there or not, and so may buffers and a tied head. A tensor that needs
    no change is no copy. CheckpointError when one is missing, foreign or of another vocabulary; UsageError as
    `family_of`.
    """
    import torch

    family, found, used = family_of(config), {}, {"lm_head.weight"}
    for name, parts in _tensors(family, config):
        keys = [part if part in tensors else part.removeprefix(family.prefix) for part in parts]
        used |= set(keys)
        for key, part in zip(keys, parts, strict=True):
            if key not in tensors:
                raise CheckpointError(f"{part}: missing from the weights; they and config.json do not belong together")
        pieces = [tensors[key] for key in keys]
        tensor = _transpose_conv1d(family, name, torch.cat(pieces) if len(pieces) > 1 else pieces[0])
        tensor = padded(config, keys[0], tensor) if name in EMBEDDINGS else tensor
        found[name] = tensor.to(torch.float32).contiguous()
    for key in sorted(tensors.keys() - used):
        if not key.endswith(BUFFERS):
            raise CheckpointError(
                f"{printable(key)}: the weights have it, and the model that config.json describes does not"
            )
    return found


def padded(config: ModelConfig, name: str, tensor: Tensor) -> Tensor:
    """(V, C) -> (P, C) in fp32, zeros below; CheckpointError when it has not V rows. `name` is for that sentence."""
    import torch

    if tensor.shape != (config.vocab, config.n_embd):
        raise CheckpointError(
            f"{name}: {_size(tensor)} in the weights, and {config.vocab} x {config.n_embd} by their configuration; "
            "the two do not belong together"
        )
    if config.padded_vocab == config.vocab:
        return tensor
    result = torch.zeros(config.padded_vocab, config.n_embd)
    result[: config.vocab] = tensor
    return result


def _tensors(family: Family, config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every tensor of such a model: our name, their names."""
    for name, parts in family.names.items():
        if name == "lm_head.weight" and config.tie_embeddings:
            continue
        for layer in range(config.n_layer if "*" in name else 1):
            yield name.replace("*", str(layer)), tuple(part.replace("*", str(layer)) for part in parts)


def _transpose_conv1d(family: Family, name: str, tensor: Tensor) -> Tensor:
    """A matrix of a block is (out, in) here and (in, out) in a Conv1D of theirs."""
    return tensor.T if family.conv1d and name.startswith("h.") and tensor.dim() == 2 else tensor


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def printable(name: object, most: int = 80) -> str:
    """A name from an outsider's file as a sentence may hold it: one line, nothing that a terminal obeys, not long."""
    return repr(str(name))[1:-1][:most]


def json_repr(value: object) -> str:
    """A value as JSON writes it."""
    return json.dumps(value)[:80]
