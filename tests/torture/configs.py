"""Configs of the torture test: one toy run, and rows of what differs from it."""

from dataclasses import dataclass, field

from groundup.config.presets import MODERN_PARTS

STEPS = 60  # more than an epoch

TOY = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "dropout": 0.1},
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"warmup_steps": 4},
    "train": {
        "micro_batch_size": 9,  # of 32 sequences: unequal micro-batches
        "max_steps": STEPS,
        "batch_tokens": 1024,
        "threads": 1,
        "precision": "fp32",
        "device": "cpu",
    },
    "evaluate": {"every_steps": 7, "tokens": 500, "sample_every_steps": 14, "sample_tokens": 8},
    "checkpoint": {"every_steps": 5, "keep_last": 2},
}

MUON = {"name": "muon", "learning_rate": 0.01, "embedding_learning_rate": 0.1, "ema_decay": 0.9}
SMALL_FAST = {"ngram_rows": 512, "ngram_width": 16}
AT_ONCE = {"async_save": False}


@dataclass(frozen=True)
class Row:
    """A config, as differences from the toy run, and what is special about its resumes."""

    sections: dict[str, dict] = field(default_factory=dict)
    preset: str = "gpt2-nano"
    other_kernels: bool = False  # some attempts find no compiler: equal up to rounding, and said

    def config(self) -> dict[str, dict]:
        return {name: {**TOY.get(name, {}), **self.sections.get(name, {})} for name in TOY.keys() | self.sections}


CONFIGS = {
    "adamw": Row(),
    "two micro-batch threads": Row({"train": {"threads": 2, "microbatch_threads": 2, "micro_batch_size": 10}}),
    "a checkpoint a step, one kept": Row({"checkpoint": {"every_steps": 1, "keep_last": 1, "keep_every": 20}}),
    "checkpoints by minutes": Row({"checkpoint": {"every_steps": 0, "every_minutes": 0.002, "keep_last": 3}}),
    "muon, ema, modern parts": Row({"model": MODERN_PARTS, "optimizer": MUON}),
    "ema, no best, written at once": Row(
        {
            "optimizer": {"ema_decay": 0.9},
            "checkpoint": AT_ONCE | {"every_steps": 2, "keep_last": 1, "save_best": False},
        }
    ),
    "bf16, wsd, written at once": Row(
        {"train": {"precision": "bf16"}, "schedule": {"name": "wsd"}, "checkpoint": AT_ONCE}
    ),
    "fast": Row(
        {"model": SMALL_FAST, "train": {"seq_len_warmup_from": 8}, "schedule": {"warmup_steps": None}}, preset="fast"
    ),
    # Steps that are a little unusual count as bad. With a checkpoint a step, a signal's checkpoint is no new target.
    "rollbacks": Row(
        {
            "optimizer": {"learning_rate": 0.1},
            "guard": {"spike_sigma": 2.0, "max_bad_steps": 2, "max_rollbacks": 20},
            "checkpoint": {"every_steps": 1, "keep_last": 3},
        }
    ),
    "patience": Row({"optimizer": {"learning_rate": 0.1}, "train": {"early_stopping_patience": 3}}),
    "without a compiler": Row({"model": MODERN_PARTS | {"dropout": 0.0}, "optimizer": MUON}, other_kernels=True),
}
