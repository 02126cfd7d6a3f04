"""Other names of config keys, as other trainers have them: accepted as options, in YAML and as overrides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from groundup.config.model import ModelConfig
from groundup.config.types import Positive, Size
from groundup.errors import ConfigError

BATCH_SIZE, GRAD_ACCUM = "train.batch_size", "train.grad_accum"  # no keys: with them, train.batch_tokens is computed

NAMES = {
    "model.n_layer": "n_layer n_layers num_layers num_hidden_layers",
    "model.n_head": "n_head n_heads num_heads num_attention_heads",
    "model.n_embd": "n_embd embedding_dim embed_dim emb_dim d_model hidden_size",
    "model.n_inner": "n_inner intermediate_size d_ff",
    "model.block_size": "block_size context_length context_size seq_len seq_length sequence_length max_seq_len "
    "max_seq_length ctx_len",
    "model.dropout": "dropout drop_rate",
    "optimizer.learning_rate": "learning_rate lr max_lr",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.beta1": "beta1 adam_beta1",
    "optimizer.beta2": "beta2 adam_beta2",
    "optimizer.grad_clip": "grad_clip max_grad_norm gradient_clip_val train.max_norm",
    "schedule.warmup_steps": "warmup_steps warmup_iters train.lr_warmup_steps",
    "schedule.warmup_fraction": "warmup_fraction warmup_ratio",
    "schedule.min_lr_ratio": "min_lr_ratio",
    "train.seed": "seed",
    "train.max_steps": "max_steps max_iters",
    "train.epochs": "epochs num_epochs max_epochs num_train_epochs",
    "train.max_time": "max_time minutes",
    "train.batch_tokens": "batch_tokens",
    BATCH_SIZE: "batch_size global_batch_size",
    GRAD_ACCUM: "grad_accum grad_accum_steps gradient_accumulation_steps accumulate_grad_batches",
    "train.micro_batch_size": "micro_batch_size",
    "train.device": "device",
    "train.precision": "precision",
    "train.log_every": "log_every log_interval logging_steps",
    "evaluate.every_steps": "eval_interval evaluation_interval eval_every eval.interval",
    "checkpoint.every_steps": "save_interval save_every save_steps checkpoint_interval train.save_interval",
}
"""Key -> its other names. One without a dot is also known inside the key's section, such as `optimizer.lr`."""

ALIASES = {name: key for key, names in NAMES.items() for name in names.split()}
"""Other name -> key."""

ALIASES_IN_SECTIONS = {
    dotted: key
    for name, key in ALIASES.items()
    if (dotted := f"{key.partition('.')[0]}.{name}") != key and "." not in name
}

MINUTES = ("minutes", "train.minutes")  # the alias with a unit of its own

# What to use instead of a word that means different things in different trainers, or that is no key here.
ADVICE = {
    "--tasks FILE": "task_file",
    "--num-samples": "num_seq num_return_sequences",
    "--max-tokens": "max_tokens max_new_tokens",
    "the run's folder, as the first argument": "model_path checkpoint_path checkpoint_dir",
    "--train.batch_tokens": "total_batch_size",
    "--model.n_embd for the width of the model, or --model.n_inner for that of the feed-forward layer": "hidden_dim",
    "--out": "out_dir output_dir",
    "--data": "dataset data_dir",
    "--train.micro_batch_size, or --batch-size for a complete step": "per_device_train_batch_size",
    "--train.max_steps, which the learning rate follows": "lr_decay_iters",
    "--schedule.min_lr_ratio, as a fraction of the peak": "min_lr train.min_lr",
    "--schedule.name constant": "decay_lr",
    "--evaluate.tokens": "eval_iters eval.max_iters",
    "--evaluate.every_steps, or --evaluate.tokens for the length of an evaluation": "eval_steps",
    "groundup evaluate RUN": "eval_only",
    "groundup resume RUN, or --init-from after `groundup import`": "init_from",
    "--checkpoint.every_steps": "always_save_checkpoint",
    "--train.precision": "dtype",
    "--train.compile": "compile",
    "torchrun, which needs no option": "backend",
    "--track wandb": "wandb_log",
    "--tracking.project": "wandb_project",
    "a preset, the first argument of `groundup train`": "model_name preset",
    "--minutes, or --train.max_time": "budget",
    "--init-from": "initial_checkpoint_dir",
    "`groundup prepare --tokenizer`": "tokenizer_dir",
    "groundup resume RUN": "resume",
    "--track": "logger_name",
    "torchrun --nproc-per-node": "devices",
    "torchrun --nnodes": "num_nodes",
}
ADVICE_FOR = {name: here for here, names in ADVICE.items() for name in names.split()}


def resolve_aliases(
    pairs: Iterable[tuple[str, Any]], origin: str
) -> tuple[list[tuple[str, Any]], list[tuple[str, str, Any]]]:
    """Dotted keys and values with aliases replaced, and each that was: (alias, key, value as given).

    ConfigError, which names the `origin`, where a key is given under two names.
    """
    keys: dict[str, str] = {}  # key -> the name it was given under
    resolved, used = [], []
    for name, value in pairs:
        key = ALIASES.get(name) or ALIASES_IN_SECTIONS.get(name) or name
        if key in keys:
            raise ConfigError(f"{origin}: {keys[key]} and {name} are both {key}; give that one once")
        keys[key] = name
        if key != name or key in (BATCH_SIZE, GRAD_ACCUM):
            used.append((name, key, value))
        resolved.append((key, _seconds(value, f"{origin}: {name}") if name in MINUTES else value))
    for key in {BATCH_SIZE, GRAD_ACCUM} & keys.keys():
        if other := keys.get("train.batch_tokens"):
            raise ConfigError(f"{origin}: {keys[key]} and {other} both set the tokens of a step; keep {other} alone")
    return resolved, used


def _seconds(minutes: Any, place: str) -> float | None:
    try:
        return None if minutes is None else float(minutes) * 60
    except (TypeError, ValueError):
        raise ConfigError(f"{place}: {minutes!r} is not a number") from None


def set_batch_tokens(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Replace a batch in sequences per step, in merged sections, by `train.batch_tokens`. ConfigError."""
    train, model = merged.get("train"), merged.get("model", {})
    if not isinstance(train, dict) or not isinstance(model, dict):
        return
    given = {key: train.pop(key.partition(".")[2], None) for key in (BATCH_SIZE, GRAD_ACCUM)}
    for key, value in given.items():
        if value is not None and _whole(value, Positive) is None:
            name = f"{origins[key]}: {key.partition('.')[2]}"
            raise ConfigError(f"{name}: {value!r} is not a whole number of 1 or more")
    if given[BATCH_SIZE] is None:
        if given[GRAD_ACCUM] is not None:
            raise ConfigError(
                f"{origins[GRAD_ACCUM]}: grad_accum: needs batch_size too; without, leave it out: gradients of "
                "train.batch_tokens are accumulated as memory requires"
            )
        return
    block_size = _whole(model.get("block_size", ModelConfig.model_fields["block_size"].default), Size)
    if block_size is not None:  # otherwise validation says so
        accumulated = 1 if given[GRAD_ACCUM] is None else _whole(given[GRAD_ACCUM], Positive)
        train["batch_tokens"] = _whole(given[BATCH_SIZE], Positive) * accumulated * block_size
        origins["train.batch_tokens"] = origins[BATCH_SIZE]


def _whole(value: Any, kind: Any) -> Any:
    """The number in a value; None where it is not one of this kind."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return None


def describe_aliases(used: Iterable[tuple[str, str, Any]], config: Any) -> str:
    """One line that lists each alias and the config key it was taken for, with its value in the complete `config`."""
    parts = []
    batch = [f"{name} {value}" for name, key, value in used if key in (BATCH_SIZE, GRAD_ACCUM)]
    for name, key, _ in used:
        if key not in (BATCH_SIZE, GRAD_ACCUM):
            parts.append(f"{name} is {key}")
        if key == "optimizer.learning_rate" and config.optimizer.name == "muon":
            parts[-1] += " (of what AdamW updates; Muon has optimizer.matrix_learning_rate)"
    if batch:
        tokens, block = config.train.batch_tokens, config.model.block_size
        sequences = f"{tokens // block:,} sequences of {block:,} tokens per step"
        parts.append(f"{' and '.join(batch)} is train.batch_tokens {tokens} ({sequences})")
    return ", ".join(parts)
