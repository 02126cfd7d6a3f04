"""Fixtures that several test folders use."""

import os
import random
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real texts and models, where there is one; tests that need it are skipped elsewhere."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GROUNDUP_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set GROUNDUP_TEST_DATA to a folder with the real test data")
    return folder


WORDS = "the a small model reads words and learns what comes next after some time it writes lines of its own".split()


def sentences(n: int, seed: int = 0) -> str:
    """About 30·n bytes of text with something to learn in it."""
    rng = random.Random(seed)
    return "".join(" ".join(rng.choices(WORDS, k=6)).capitalize() + ".\n" for _ in range(n))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder of byte tokens: some 27,000 to train on, 3,000 held out."""
    import groundup

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(sentences(900), encoding="utf-8")
    groundup.prepare([folder / "text.txt"], folder / "data", tokenizer="byte")
    return folder / "data"


@pytest.fixture
def tiny() -> dict:
    """Overrides for a run of a second: two blocks, dropout on, accumulation in two pieces, more than one epoch."""
    return {
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "dropout": 0.1},
        "batches": {"micro_batch": 9},
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"warmup_steps": 4},
        "train": {"max_steps": 60, "batch_tokens": 512, "threads": 1, "precision": "fp32", "device": "cpu"},
        "evaluate": {"every_steps": 10, "tokens": 500, "sample_every_steps": 20, "sample_tokens": 8},
        "checkpoint": {"every_steps": 9, "keep_last": 3},
    }
