"""A model of another program becomes a checkpoint of ours: found, read, joined with its tokenizer, written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from groundup.checkpoint import state
from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.distributed.gather import StateTensors
from groundup.errors import CheckpointError, GroundupError, UsageError
from groundup.interop.hf_import import read_folder
from groundup.interop.hub import Fetched, fetch
from groundup.interop.import_checks import SOURCES, check, check_place
from groundup.interop.imported import ImportedModel
from groundup.interop.llmc import MAGIC, read_llmc
from groundup.interop.tokenizer_match import find_tokenizer, vocabulary
from groundup.interop.torch_pickle import read_pickle
from groundup.model.size import parameters
from groundup.sources.hub_client import PREFIX
from groundup.tokenizers.registry import Tokenizer

BATCH = 8192  # tokens; a config needs a number of whole windows, though nobody trains with this one

READERS: dict[bytes, Callable[[Path], ImportedModel]] = {
    b"PK\x03\x04": read_pickle,
    b"\x80\x02": read_pickle,  # of torch before 1.6
    MAGIC.to_bytes(4, "little"): read_llmc,
}
"""By how a file begins."""


@dataclass(frozen=True)
class Imported:
    """What was found, and where it is now."""

    out: Path
    source: str
    commit: str | None  # of the hub
    kind: str  # such as "nanoGPT checkpoint"
    model: ModelConfig
    tokenizer: Tokenizer
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many, padding left out."""
        return parameters(self.model)


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write the model at `source` to `out` as a checkpoint that `generate`, `evaluate` and `train(init_from=...)` take.

    `source`: `hf:OWNER/NAME` of the hub, a folder of transformers (GPT-2, GPT-1 and nanochat architectures), a
    checkpoint of nanoGPT or build-nanogpt, a .bin of llm.c. `tokenizer`: what `prepare` takes; by default the one
    that lies beside the model, or GPT-2's for a file of its size. `revision` is a branch, tag or commit of the hub.
    `out` appears whole or not at all; `overwrite` replaces a checkpoint that is there. Nothing in a file is run.
    Raises CheckpointError, TokenizerError, UsageError.
    """
    place, said = Path(out), str(source)
    check(said, place, revision=revision, overwrite=overwrite)
    fetched = fetch(said, revision) if said.startswith(PREFIX) else None
    foreign = _read(said, fetched)
    rows = foreign.config.vocab
    chosen = find_tokenizer(tokenizer, foreign.folder, rows, said)
    ids, note = vocabulary(chosen, rows, said)
    model = foreign.config.model_copy(update={"vocab_size": ids})
    notes = (*foreign.notes, *([note] if note else []))
    imported = Imported(place, said, fetched and fetched.commit, foreign.kind, model, chosen, notes)
    tensors = foreign.tensors if ids == rows else {n: _resized(n, t, rows, model) for n, t in foreign.tensors.items()}
    _write(imported, tensors, overwrite=overwrite)
    return imported


def _read(source: str, fetched: Fetched | None) -> ImportedModel:
    path = fetched.folder if fetched else Path(source)
    if path.is_dir():
        try:
            return read_folder(path)
        except GroundupError as error:
            raise type(error)(str(error).replace(str(path), source, 1) if fetched else str(error)) from None
    try:
        with path.open("rb") as file:
            head = file.read(4)
        reader = next((read for start, read in READERS.items() if head.startswith(start)), None)
        if reader is None and path.suffix == ".bin":
            reader = read_llmc  # which says what it expected
        if reader is None:
            raise UsageError(f"{source}: nothing that groundup can read; give {SOURCES}")
        return reader(path)
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror}); check its permissions") from None


def _resized(name: str, tensor: Tensor, rows: int, model: ModelConfig) -> Tensor:
    """An embedding or head with as many rows as the tokenizer has ids, padded; any other tensor as it is."""
    if name not in ("wte.weight", "lm_head.weight"):
        return tensor
    kept = min(rows, model.vocab)
    result = torch.zeros(model.padded_vocab, model.n_embd)
    result[:kept] = tensor[:kept]
    return result


def _write(imported: Imported, tensors: dict[str, Tensor], *, overwrite: bool) -> None:
    origin = {"source": imported.source, "commit": imported.commit, "kind": imported.kind}
    books = {"step": 0, "tokens": 0, "cursor": 0, "elapsed": 0.0, "dt": 0.0, "skips": [], "origin": origin}
    block_size = imported.model.block_size
    train = TrainConfig(batch_tokens=max(1, BATCH // block_size) * block_size)
    what = state.Snapshot(
        Config(model=imported.model, train=train), imported.tokenizer, books, StateTensors(tensors, {}, {})
    )
    try:
        # The folder that a link names is replaced, not the link; and it is looked at again, as hours may have passed.
        state.save(imported.out.resolve(), what, lambda _: check_place(imported.out, overwrite=overwrite))
    except OSError as error:
        raise CheckpointError(
            f"{imported.out}: cannot be written ({error.strerror or error}); choose another place with --out"
        ) from error
