"""Fake runs that consist of a config and a log, the only files that a comparison reads."""

import json
from pathlib import Path
from typing import Any

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.schema import to_yaml
from groundup.tokenizers.base import TOKENIZER_FILE

MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 257}
TRAIN = {"batch_tokens": 256, "max_steps": 100, "device": "cpu", "precision": "fp32", "threads": 1}


def make_run(
    path: Path,
    losses: dict[int, float],
    *,
    last: int = 0,
    seconds: float = 1.0,
    data: str | None = "d" * 64,
    tokenizer: str = "t" * 64,
    place: object = "nowhere",
    more: Any = (),
    **settings: Any,
) -> Path:
    """A run with these validation losses by step, `seconds` per step and these fingerprints of data and tokenizer.

    Its config says that the data is at `place`; without a fingerprint it has no checkpoint. `settings` are sections of
    the config; `more` are records at the end of the log, which goes to step `last` if that is beyond the losses.
    """
    sections = {name: {**default, **settings.pop(name, {})} for name, default in (("model", MODEL), ("train", TRAIN))}
    config = merge_and_validate([ConfigSource("test", {"data": str(place), **sections, **settings})])
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    records = []
    for n in range(1, max([last, *losses]) + 1):
        tokens = n * config.train.batch_tokens
        records.append({"event": "step", "step": n, "tokens": tokens, "elapsed": n * seconds, "lr": 1e-3, "loss": 1.0})
        if n in losses:
            loss = losses[n]
            records.append({"event": "eval", "step": n, "train_loss": 1.0, "val_loss": loss, "bits_per_byte": loss / 2})
    (path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*records, *more]), encoding="utf-8")
    if data:
        checkpoint = path / "checkpoints" / "step-00000001"
        (checkpoint / "tokenizer").mkdir(parents=True)
        (checkpoint / "progress.json").write_text(json.dumps({"data": data, "processes": 1}))
        (checkpoint / "tokenizer" / TOKENIZER_FILE).write_text(json.dumps({"fingerprint": tokenizer}))
    return path
