"""The Python API: what the command line does, as functions.

    import groundup

    groundup.prepare(["book.txt"], "data/book", tokenizer="char")
    result = groundup.train("data/book", "runs/book", overrides={"train": {"max_steps": 500}})
    print(groundup.evaluate("runs/book").bits_per_byte)
    for text in groundup.generate("runs/book", "Once", num_samples=3):
        print(text)

Every function raises a subclass of `groundup.GroundupError` for what a user can mend.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from groundup import presets
from groundup.build import Result
from groundup.checkpoint import state
from groundup.checkpoint.atomic import verify
from groundup.checkpoint.run import RunFolder, resolve
from groundup.config import Config, read_yaml
from groundup.data.shards import Manifest, Tokens
from groundup.decode import Overrides, decode
from groundup.errors import DataError, UsageError
from groundup.evaluation.loss import split_loss
from groundup.generation.engine import TextStream, stream
from groundup.generation.sampling import Sampler
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.preparation.prepare import prepare_tokens
from groundup.report.lines import Lines
from groundup.report.view import View
from groundup.runs import begin, go_on, reconfigure
from groundup.settle import prompt_ids, prompt_text
from groundup.text.tokenizer import Tokenizer
from groundup.training.device import autocast, choose_device

Place = str | Path


def prepare(
    sources: Place | Sequence[Place],
    out: Place,
    *,
    tokenizer: str = "gpt2",
    column: str = "text",
    errors: Literal["strict", "replace"] = "strict",
    val_fraction: float = 0.1,
    max_tokens: int | None = None,
    max_documents: int | None = None,
    clean: str | Sequence[str] = (),
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Turn texts into token shards in the folder `out`; it appears whole or not at all.

    `sources`: text files, source code, .jsonl and .parquet (each text also .gz or .zst), folders, patterns such as
    `texts/**/*.txt`, `-` for standard input, `shakespeare`, `python-docs`, corpora of the hub. `tokenizer`: `byte`,
    `char`, `gpt1`, `gpt2`, `bpe:SIZE`, a `tokenizer.json`, or a folder that holds one. `column` names the text field of
    .jsonl and .parquet rows. `val_fraction` of the text is held out. The first `max_documents` are read, at most
    `max_tokens` written. `clean`: any of `lowercase`, `digits`, `punctuation`. `progress` is told the bytes of input
    done.

    A call that was killed goes on when it is repeated, and ends in the same folder; a finished one does nothing;
    `overwrite` replaces what was made from other sources or otherwise. Raises DataError, TokenizerError, UsageError.
    """
    return prepare_tokens(
        [sources] if isinstance(sources, str | Path) else list(sources),
        Path(out),
        tokenizer=tokenizer,
        column=column,
        errors=errors,
        val_fraction=val_fraction,
        max_tokens=max_tokens,
        max_documents=max_documents,
        clean=clean,
        threads=threads,
        overwrite=overwrite,
        progress=progress,
    )


def configure(
    data: Place,
    *,
    preset: str = presets.DEFAULT,
    files: Sequence[Place] = (),
    overrides: Mapping[str, Any] | None = None,
    origin: str = "overrides",
) -> Config:
    """Preset, then YAML files, then overrides: one config. Raises ConfigError."""
    layers = [presets.preset(preset), *(Overrides(str(path), read_yaml(Path(path))) for path in files)]
    return decode([*layers, Overrides(origin, {**(overrides or {}), "data": str(data)})])


def train(
    data: Place,
    out: Place,
    *,
    preset: str = presets.DEFAULT,
    files: Sequence[Place] = (),
    overrides: Mapping[str, Any] | None = None,
    view: View | None = None,
) -> Result:
    """Train a new GPT on prepared `data` into the run folder `out`.

    `overrides` holds sections, such as `{"model": {"n_layer": 2}, "train": {"budget": "10m"}}`. Without a `view`, lines
    go to the logger `groundup`. SIGINT and SIGTERM end in a checkpoint. Raises ConfigError, DataError, UsageError.
    """
    config = configure(data, preset=preset, files=files, overrides=overrides)
    return begin(config, Path(out), view or _logged(config))


def resume(
    run: Place, *, data: Place | None = None, overrides: Mapping[str, Any] | None = None, view: View | None = None
) -> Result:
    """Go on with a run from its newest whole checkpoint: bit for bit as if it had never stopped.

    Bitwise on the same machine and CPU threads, for horizons in steps, tokens or epochs. `data` names the prepared
    folder when it has moved; `overrides` may change horizon, evaluation, checkpoints, guard, trackers,
    device, threads and micro-batch, and stay with the run. A finished run is left as it is.
    Raises CheckpointError, ConfigError.
    """
    folder = RunFolder(Path(run))
    config, keys = reconfigure(folder, {**(overrides or {}), **({"data": str(data)} if data else {})})
    return go_on(folder, config, keys, view or _logged(config))


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, ready to use."""

    folder: Path
    config: Config
    model: GPT
    tokenizer: Tokenizer
    device: torch.device


def load(path: Place, *, checkpoint: str = "latest", device: str = "auto") -> Checkpoint:
    """Model and tokenizer from a run or a checkpoint folder, the model in evaluation mode.

    Where the run kept a running average of its weights (`optimizer.ema`), the model computes with that.

    `checkpoint` chooses among a run's: `latest`, `best` by validation loss, or a name such as `step-00001000`.
    Raises CheckpointError when something is missing, damaged or does not fit.
    """
    folder = resolve(Path(path), checkpoint)
    verify(folder)
    config, where = state.load_config(folder), choose_device(device)
    model = GPT(config.model)
    state.load_model(folder, model, averaged=True)
    return Checkpoint(folder, config, model.to(where).eval(), state.load_text(folder), where)


@dataclass(frozen=True)
class Evaluation:
    """What a model loses on a split."""

    split: str
    loss: float  # nats a token
    perplexity: float
    bits_per_byte: float
    tokens: int  # scored


def evaluate(
    path: Place,
    *,
    data: Place | None = None,
    split: Literal["train", "val"] = "val",
    tokens: int | None = None,
    window: int | None = None,
    checkpoint: str = "latest",
    device: str = "auto",
) -> Evaluation:
    """Loss of a run or checkpoint in fp32 over a split of `data` (default: what it was trained on).

    Non-overlapping windows of the model's context, or of `window` tokens, which is harder: each window's first tokens
    have little before them. The whole split, or about `tokens` of it.
    Raises CheckpointError, DataError, UsageError.
    """
    if split not in ("train", "val"):
        raise UsageError(f"split {split!r}: must be train or val")
    if tokens is not None and tokens < 1:
        raise UsageError(f"tokens {tokens}: must be 1 or more")
    loaded = load(path, checkpoint=checkpoint, device=device)
    block_size = loaded.config.model.block_size
    if window is not None and not 1 <= window <= block_size:
        raise UsageError(f"window {window}: must be from 1 to the model's context of {block_size}")
    folder = Path(data or loaded.config.data or ".")
    try:
        manifest = Manifest.load(folder)
    except DataError as error:
        raise DataError(f"{error}; or name the prepared folder with --data") from error
    if manifest.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise DataError(f"{folder}: prepared with another tokenizer than the model's; prepare it with the same one")
    part = manifest.splits[split]
    if part.tokens < 2:
        raise DataError(f"{folder}: its {split} split is empty; prepare it with --val-fraction 0.1")
    loss = split_loss(
        NextTokenLoss(loaded.model),
        Tokens.open(folder, split),
        window or block_size,
        device=loaded.device,
        limit=tokens,
        rows=loaded.config.micro_rows * (block_size // (window or block_size)),
        autocast=autocast("fp32", loaded.device),
    )
    bits = loss.bits_per_byte(part.tokens, part.bytes)
    return Evaluation(split, loss.nats_per_token, loss.perplexity, bits, loss.scored)


def generate(
    path: Place | Checkpoint,
    prompt: str = "",
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    checkpoint: str = "latest",
    device: str = "auto",
) -> list[str]:
    """`num_samples` continuations of `prompt`, the prompt included, each ending at `max_tokens` or the end of text.

    `temperature` 0 is greedy. The same seed gives the same samples. Raises CheckpointError, TokenizerError, UsageError.
    """
    loaded = path if isinstance(path, Checkpoint) else load(path, checkpoint=checkpoint, device=device)
    sampler = Sampler(temperature, top_k, top_p, seed)
    texts = [prompt_text(loaded.tokenizer, prompt)] * num_samples
    for pieces in generate_stream(loaded, prompt, sampler, num_samples=num_samples, max_tokens=max_tokens):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    return texts


def generate_stream(
    loaded: Checkpoint, prompt: str, sampler: Sampler, *, num_samples: int = 1, max_tokens: int = 100
) -> Iterator[list[str]]:
    """What each sample gained, token by token; never half a character."""
    if num_samples < 1:
        raise UsageError(f"num_samples {num_samples}: must be 1 or more")
    if max_tokens < 0:
        raise UsageError(f"max_tokens {max_tokens}: must be 0 or more")
    tokenizer = loaded.tokenizer
    texts = [TextStream(tokenizer.decode_bytes) for _ in range(num_samples)]
    rows = stream(
        loaded.model,
        prompt_ids(tokenizer, prompt),
        sampler,
        device=loaded.device,
        rows=num_samples,
        max_tokens=max_tokens,
        end_of_text=tokenizer.end_of_text,
    )
    for ids in rows:
        yield ["" if i is None else text.feed(i) for i, text in zip(ids, texts, strict=True)]


def _logged(config: Config) -> Lines:
    return Lines(logging.getLogger("groundup").info, config.train.log_every)
