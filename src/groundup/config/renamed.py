"""Previous names of config keys and values; both stay readable in files, options, runs and checkpoints."""

from collections.abc import Mapping
from typing import Any

from groundup.errors import ConfigError

RENAMED_KEYS = {
    "init": "init_from",
    "batches.seed": "train.seed",
    "batches.micro_batch": "train.micro_batch_size",
    "batches.first_context": "train.seq_len_warmup_from",
    "batches.whole_from": "train.seq_len_warmup_until",
    "prepare.as": "prepare.read_as",  # as the option of `groundup prepare` is called
    "train.budget": "train.max_time",
    "train.stop_after": "train.time_limit",
    "train.patience": "train.early_stopping_patience",
    "train.shares": "train.microbatch_threads",
    "optimizer.ema": "optimizer.ema_decay",
    "schedule.floor": "schedule.min_lr_ratio",
    "guard.spike": "guard.spike_sigma",
    "guard.bad_steps": "guard.max_bad_steps",
    "guard.rollbacks": "guard.max_rollbacks",
    "checkpoint.asynchronous": "checkpoint.async_save",
    "checkpoint.best": "checkpoint.save_best",
    "tracking.to": "tracking.backends",
    "model.positions": "model.position_embedding",
    "model.softcap": "model.logit_softcap",
    "model.tied": "model.tie_embeddings",
    "model.block": "model.norm_position",
}
"""Previous dotted key -> its name now."""

RENAMED_ARGUMENTS = {"init": "init_from", "view": "display"}
"""Previous keyword of the Python API -> its name now."""

RENAMED_SECTIONS = {"batches"}  # all of their keys live elsewhere now

RENAMED_VALUES: dict[str, dict[str, str]] = {
    "train.activation_checkpointing": {
        "off": "none", "no": "none", "false": "none", "cheap": "selective", "blocks": "full", "on": "full",
        "yes": "full", "true": "full",
    },
    "model.qk_norm": {
        "off": "none", "no": "none", "false": "none", "0": "none", "on": "after_rotary", "yes": "after_rotary",
        "true": "after_rotary", "1": "after_rotary",
    },
}  # fmt: skip
"""Key -> previous value, as text in lower case -> its name now."""


def rename_keys(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """`values`, nested and under today's names, and each renaming that was made: (previous key, key).

    ConfigError where a key is given under both names.
    """
    renamed: list[tuple[str, str]] = []
    result = _nested(values)
    for old, new in RENAMED_KEYS.items():
        section, _, key = old.rpartition(".")
        source = result.get(section) if section else result
        if not isinstance(source, dict) or key not in source:
            continue
        new_section, _, new_key = new.rpartition(".")
        target = result.setdefault(new_section, {}) if new_section else result
        if not isinstance(target, dict):
            continue  # the section's own error says so
        if new_key in target:
            raise ConfigError(f"{old}: the previous name of {new}, which is given as well; keep {new} alone")
        target[new_key] = source.pop(key)
        renamed.append((old, new))
    for section in RENAMED_SECTIONS & result.keys():
        if not result[section]:
            del result[section]
    for dotted, names in RENAMED_VALUES.items():
        section, _, key = dotted.rpartition(".")
        source = result.get(section)
        if not isinstance(source, dict):
            continue
        if (before := str(source.get(key)).lower()) in names:
            source[key] = names[before]
            renamed.append((f"{dotted} {before}", f"{dotted} {names[before]}"))
    return result, renamed


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.seed": 1}` as `{"train": {"seed": 1}}`, and with underscores in all keys."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = _underscored(name).partition(".")
        inner = {key: value} if key else value
        if isinstance(inner, Mapping) and isinstance(previous := result.get(section, {}), dict):
            result[section] = previous | {_underscored(k): v for k, v in inner.items()}
        else:
            result[_underscored(name)] = value
    return result


def _underscored(key: Any) -> str:
    return str(key).replace("-", "_")
