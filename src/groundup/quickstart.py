"""From a text to a talking model with no decision to make: prepare, train by the clock, compare, speak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from groundup.api import evaluate, generate, load
from groundup.build import Result
from groundup.config import Config
from groundup.data.shards import SplitName, Tokens
from groundup.data.sources import PYTHON_DOCS
from groundup.decode import Overrides, decode
from groundup.errors import DataError
from groundup.evaluation.baselines import Baseline, baselines
from groundup.preparation.prepare import prepare_tokens
from groundup.report.view import View
from groundup.runs import begin
from groundup.text.tokenizer import Tokenizer

VAL_BYTES = 2_000_000  # more validation text takes longer to score than it is worth, in a few minutes
LEAST_VAL_FRACTION = 0.02  # of 100 documents, the fewest to be held out whole, some will be
LEAST_BYTES = 300
BPE_FROM = 400_000  # bytes of text from which learning a vocabulary pays
BPE_SIZE = 2048
SAMPLES, SAMPLE_TOKENS = 3, 120


@dataclass(frozen=True)
class Report:
    """What came out of a quickstart."""

    sources: list[str]
    data: Path
    result: Result
    bits_per_byte: float  # of the whole validation text
    how: str  # that number was computed
    baselines: list[Baseline]
    samples: list[str]


def recipe(minutes: float, block_size: int, data: Path) -> Config:
    """A small GPT-2 that learns much in a few minutes on two cores; the learning rate ends when the time does.

    In so short a time the number of steps counts most: steps are small, and the model is no larger than they can fill
    (docs/lab-notes.md has the measurements).
    """
    values: dict[str, Any] = {
        "data": str(data),
        "model": {"n_layer": 3, "n_head": 4, "n_embd": 192, "block_size": block_size, "vocab_multiple": 8},
        "optimizer": {"learning_rate": 2e-3, "beta2": 0.99},
        "schedule": {"warmup_fraction": 0.03, "floor": 0.02},
        "train": {"budget": minutes * 60, "batch_tokens": 16 * block_size, "log_every": 100},
        "evaluate": {"every_steps": 500, "tokens": 20_000, "sample_every_steps": 500, "sample_tokens": 80},
        "checkpoint": {"every_steps": 1000, "keep_last": 1},
    }
    return decode([Overrides("quickstart", values)])


def choose_tokenizer_name(text_bytes: int) -> tuple[str, str]:
    """A tokenizer for a text of this size, and why."""
    if text_bytes >= BPE_FROM:
        return f"bpe:{BPE_SIZE}", f"{BPE_SIZE:,} pieces of words learnt from the text: each token says more"
    return "byte", "too little text to learn a vocabulary from"


def text_size(sources: Sequence[str]) -> int | None:
    """Bytes of the files and folders named, or None where that is not known beforehand."""
    total = 0
    for source in sources:
        path = Path(source)
        if not path.exists():
            return None
        total += sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
    return total


def free_folder(sources: Sequence[str], parent: Path = Path("runs")) -> Path:
    """`runs/NAME`, or `runs/NAME-2` and so on where that is taken."""
    name = "text" if sources[0] == "-" else Path(sources[0]).resolve().name.split(".")[0] or "text"
    candidates = (parent / (f"{name}-{i}" if i > 1 else name) for i in count(1))
    return next(path for path in candidates if not path.exists())


def quickstart(
    sources: Sequence[str],
    out: Path,
    *,
    minutes: float,
    tokenizer: str | None,
    say: Callable[[str], None],
    reading: Callable[[], AbstractContextManager[Callable[[int], None]]],
    watching: Callable[[str, Config], AbstractContextManager[View]],
) -> Report:
    """Prepare `sources` (default: Python's documentation), train for `minutes`, measure, sample. All into `out`."""
    size = text_size(sources)
    if size is not None and size < LEAST_BYTES:
        raise DataError(
            f"{', '.join(sources)}: {size} bytes are too little to learn from; give at least a few kilobytes"
        )
    guess, reason = choose_tokenizer_name(size if size is not None else BPE_FROM)
    chosen = tokenizer or guess
    say(
        f"text     {', '.join(sources)}"
        + ("" if sources != [PYTHON_DOCS] else ": the documentation of your own Python")
    )
    say(f"tokens   {chosen}" + ("" if tokenizer else f": {reason}"))
    with reading() as progress:
        manifest = prepare_tokens(
            sources,
            out / "data",
            tokenizer=chosen,
            column="text",
            errors="strict",
            val_fraction=max(LEAST_VAL_FRACTION, min(0.1, VAL_BYTES / size)) if size else 0.1,
            progress=progress,
        )
    train, val = manifest.splits["train"], manifest.splits["val"]
    say(f"         {train.bytes:,} bytes to train on = {train.tokens:,} tokens; {val.bytes:,} bytes held out")
    config = recipe(minutes, fitting_block_size(train.tokens, train.bytes), out / "data")
    with watching(f"groundup quickstart: {', '.join(sources)}", config) as view:
        result = begin(config, out, view)
    say("measuring what the model has learnt, beside gzip, xz and two models that only count")
    return report(sources, result, out / "data")


def fitting_block_size(tokens: int, text_bytes: int) -> int:
    """A context of about 200 bytes, in tokens a power of two, of which the training split holds several."""
    block_size = 128 if text_bytes < 2 * tokens else 64
    while block_size > 8 and tokens < 4 * block_size:
        block_size //= 2
    return block_size


def report(sources: Sequence[str], result: Result, data: Path) -> Report:
    """Bits a byte of the whole validation text, beside what simpler models need for it, and samples."""
    loaded = load(result.run)
    found = evaluate(result.run, data=data)
    how = (
        f"cross-entropy of the {found.tokens:,} validation tokens, each predicted from those before it in a window of "
        f"{loaded.config.model.block_size}: {found.loss:.4f} nats a token x tokens / bytes / ln 2."
    )
    samples = generate(loaded, num_samples=SAMPLES, max_tokens=SAMPLE_TOKENS, temperature=0.8, top_k=200)
    train = b"".join(split_text(data, "train", loaded.tokenizer))
    val = b"".join(split_text(data, "val", loaded.tokenizer))
    return Report(list(sources), data, result, found.bits_per_byte, how, baselines(train, val), samples)


def split_text(data: Path, split: SplitName, tokenizer: Tokenizer, step: int = 1_000_000) -> Iterator[bytes]:
    """The text of a prepared split again, documents joined."""
    tokens = Tokens.open(data, split)
    for start in range(0, len(tokens), step):
        ids = tokens.read(start, min(step, len(tokens) - start))
        yield tokenizer.decode_bytes(ids[ids != tokenizer.end_of_text].tolist())
