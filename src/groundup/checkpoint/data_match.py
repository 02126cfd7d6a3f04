"""Whether prepared data is what a run was trained on, and whether several runs have the same text. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from groundup.checkpoint.files import PROGRESS, TOKENIZER, read_field
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import MAX_LOOKS, RunFolder
from groundup.config.schema import Config
from groundup.data.shards import Manifest
from groundup.errors import DataError, GroundupError
from groundup.tokenizers.base import TOKENIZER_FILE

Answer = Literal["same", "other", "unknown"]


class DataMatch(NamedTuple):
    """An answer, and what to show unless it is `same`."""

    answer: Answer | Literal["missing"]
    difference: str = ""
    remedy: str = ""

    @property
    def message(self) -> str:
        return "; ".join(filter(None, (self.difference, self.remedy)))


def match_data(
    folder: Path, metadata: Mapping[str, Any], manifest: Manifest | None = None, tokenizer: str | None = None
) -> DataMatch:
    """Compare a prepared folder with the one in a checkpoint's `metadata`, its progress.json, which may be empty.

    `manifest`: the folder's, if it was read already; `tokenizer`: the fingerprint of the checkpoint's, if known.
    DataError for a folder whose manifest cannot be read.
    """
    if manifest is None and not folder.is_dir():
        below = "" if folder.is_absolute() else f" below {Path.cwd()}, the current folder"
        missing = f"{folder}: there is no such folder{below}"
        return DataMatch("missing", missing, "give the path of the run's data with --data DIR")
    manifest = manifest or Manifest.load(folder)
    remedy = "give the folder of the run's data with --data DIR"
    if tokenizer not in (None, manifest.tokenizer.fingerprint):
        name, ids = manifest.tokenizer.name, f"{manifest.tokenizer.n_vocab:,}"
        return DataMatch(
            "other", f"{folder}: prepared with another tokenizer than the run's ({name}, {ids} ids)", remedy
        )
    if "data" not in metadata:
        return DataMatch("unknown", "no checkpoint of the run says whether its data has changed since")
    if metadata["data"] != manifest.fingerprint:
        now, then = (str(value)[:12] for value in (manifest.fingerprint, metadata["data"]))
        other = f"{folder}: not the data that this run was trained on (fingerprint {now}, the run's {then})"
        return DataMatch("other", other, remedy)
    return DataMatch("same")


def tokenizer_of(checkpoint: Path) -> str | None:
    """Fingerprint of a checkpoint's tokenizer; None if it cannot be read."""
    return read_field(checkpoint / TOKENIZER / TOKENIZER_FILE, "fingerprint")


def changed_data(checkpoint: Path, data: str | None) -> str | None:
    """How the folder `data` differs from what a checkpoint was trained on; None if it does not, or that is unknown."""
    try:
        match = None if data is None else match_data(Path(data), load_metadata(checkpoint))
    except GroundupError:
        return None
    return match.difference if match and match.answer == "other" else None


def manifest_of_run(data: str | None, fingerprint: str | None) -> Manifest | None:
    """The manifest of the folder `data`; None if it cannot be read, or is known not to be that of `fingerprint`."""
    try:
        manifest = None if data is None else Manifest.load(Path(data))
    except DataError:
        return None
    return manifest if manifest and fingerprint in (None, manifest.fingerprint) else None


@dataclass(frozen=True)
class RunText:
    """Fingerprints and sizes of a run's data; None where unknown."""

    data: str | None  # fingerprint
    tokenizer: str | None  # fingerprint
    held_out: tuple[str, ...] | None  # checksums of the validation split's shards
    size: tuple[int, int] | None  # bytes and documents of the validation text
    train_size: tuple[int, int] | None  # bytes and documents of the training text
    changed: str | None = None  # how the prepared folder differs from what the run was trained on


def text_of_run(folder: RunFolder, config: Config) -> RunText:
    """A run's data by its newest readable checkpoint, and by the prepared folder if that is still the same.

    A run without a checkpoint is assumed to have been trained on the folder that its config names.
    """
    data = tokenizer = None
    for _ in range(MAX_LOOKS):
        for checkpoint in reversed(folder.steps()):
            data = data or read_field(checkpoint / PROGRESS, "data")
            tokenizer = tokenizer or tokenizer_of(checkpoint)
        if data or not folder.steps():  # else training may have deleted them while they were read
            break
    manifest = manifest_of_run(config.data, data)
    if manifest is None:
        newest = folder.steps()[-1:]
        return RunText(data, tokenizer, None, None, None, changed_data(newest[0], config.data) if newest else None)
    train, val = manifest.splits["train"], manifest.splits["val"]
    return RunText(
        manifest.fingerprint,
        manifest.tokenizer.fingerprint,
        tuple(shard.sha256 for shard in val.shards),
        (val.bytes, val.documents),
        (train.bytes, train.documents),
    )


def same_tokenizer(texts: Sequence[RunText]) -> Answer:
    """Whether all runs have one tokenizer, so that their nats per token can be compared."""
    return "same" if _equal(texts, lambda text: text.data) == "same" else _equal(texts, lambda text: text.tokenizer)


def same_text(texts: Sequence[RunText]) -> Answer:
    """Whether all losses are of one validation text.

    With different tokenizers, texts count as the same if both splits have equal bytes and documents: one split alone
    may be equal by chance, where little is held out.
    """
    if _equal(texts, lambda text: text.data) == "same":
        return "same"
    if same_tokenizer(texts) == "same":
        return _equal(texts, lambda text: text.held_out)
    found, train = _equal(texts, lambda text: text.size), _equal(texts, lambda text: text.train_size)
    return "unknown" if found == "same" and train != "same" else found


def _equal(texts: Sequence[RunText], key: Callable[[RunText], object]) -> Answer:
    found = {key(text) for text in texts}
    if len(found - {None}) > 1:
        return "other"
    return "unknown" if None in found and len(texts) > 1 else "same"
