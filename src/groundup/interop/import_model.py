"""Import a model of another program as a groundup checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from groundup.checkpoint import state
from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.distributed.gather import StateTensors
from groundup.errors import CheckpointError, GroundupError, UsageError
from groundup.interop.hf import download, read_folder
from groundup.interop.import_checks import SOURCES, check, check_output, find_tokenizer, match_vocabulary
from groundup.interop.imported import VOCAB_TENSORS, ImportedModel, resized
from groundup.interop.llmc import MAGIC, read_llmc
from groundup.interop.nanogpt import read_nanogpt
from groundup.interop.torch_pickle import LEGACY_MAGIC, ZIP_MAGIC
from groundup.model.size import parameters
from groundup.sources.hub import PREFIX
from groundup.tokenizers.base import Tokenizer
from groundup.utils.files import resolved
from groundup.utils.reading import open_regular

BATCH_TOKENS = 8192  # a config needs a batch of full sequences, although an imported checkpoint does not train with it

READERS: dict[bytes, Callable[[Path], ImportedModel]] = {
    ZIP_MAGIC: read_nanogpt,
    LEGACY_MAGIC: read_nanogpt,
    MAGIC.to_bytes(4, "little"): read_llmc,
}
"""By the first bytes of a file."""


@dataclass(frozen=True)
class Imported:
    """The imported model, and the checkpoint it was written to."""

    out: Path
    source: str
    commit: str | None  # of the hub
    kind: str  # such as "nanoGPT checkpoint"
    model: ModelConfig
    tokenizer: Tokenizer
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters, without the padding of the vocabulary."""
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

    `source`: `hf:OWNER/NAME` of the hub, a folder of transformers (GPT-2, GPT-1, nanochat and Qwen3 architectures), a
    checkpoint of nanoGPT or build-nanogpt, a .bin of llm.c. `tokenizer`: what `prepare` takes; by default the one
    in the model's folder, or GPT-2's for a file of its size. `revision` is a branch, tag or commit of the hub.
    `out` appears complete or not at all; `overwrite` replaces a checkpoint that is there. No code from a file is run.
    Raises CheckpointError, TokenizerError, UsageError.
    """
    folder, name = Path(out), str(source)
    check(name, folder, revision=revision, overwrite=overwrite)
    cached = download(name, revision) if name.startswith(PREFIX) else None
    model = _read(name, cached)
    rows = model.config.vocab
    found_tokenizer = find_tokenizer(tokenizer, model.folder, rows, name)
    ids, note = match_vocabulary(found_tokenizer, rows, name)
    config = model.config.model_copy(update={"vocab_size": ids})
    notes = (*model.notes, *([note] if note else []))
    imported = Imported(folder, name, cached.name if cached else None, model.kind, config, found_tokenizer, notes)
    tensors = model.tensors
    if ids != rows:
        tensors |= {n: resized(config, tensors[n][:rows]) for n in VOCAB_TENSORS if n in tensors}
    _write(imported, tensors, overwrite=overwrite)
    return imported


def _read(source: str, cached: Path | None) -> ImportedModel:
    path = cached or Path(source)
    if path.is_dir():
        try:
            return read_folder(path)
        except GroundupError as error:
            raise type(error)(str(error).replace(str(path), source, 1)) from None
    try:
        with open_regular(path) as file:
            head = file.read(4)
        default = read_llmc if path.suffix == ".bin" else None  # its error says what a .bin must hold
        reader = next((read for start, read in READERS.items() if head.startswith(start)), default)
        if reader is None:
            raise UsageError(f"{source}: nothing that groundup can read; give {SOURCES}")
        return reader(path)
    except ValueError as error:
        raise UsageError(f"{source}: cannot be read ({error}); give {SOURCES}") from None
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror}); check its permissions") from None


def _write(imported: Imported, tensors: dict[str, Tensor], *, overwrite: bool) -> None:
    origin = {"source": imported.source, "commit": imported.commit, "kind": imported.kind}
    progress = {"step": 0, "tokens": 0, "cursor": 0, "elapsed": 0.0, "dt": 0.0, "skips": [], "origin": origin}
    block_size = imported.model.block_size
    train = TrainConfig(batch_tokens=max(1, BATCH_TOKENS // block_size) * block_size)
    config = Config(model=imported.model, train=train)
    snapshot = state.Snapshot(config, imported.tokenizer, progress, StateTensors(tensors, {}, {}))
    try:
        # A link at `out` stays, and the folder it names is replaced. Checked again, as hours may have passed.
        state.save(resolved(imported.out), snapshot, lambda _: check_output(imported.out, overwrite=overwrite))
    except OSError as error:
        raise CheckpointError(
            f"{imported.out}: cannot be written ({error.strerror or error}); choose another folder with --out"
        ) from error
