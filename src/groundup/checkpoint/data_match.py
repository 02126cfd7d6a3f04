"""Whether prepared data is what a run was trained on, and whether several runs have the same text. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from groundup.checkpoint.files import PROGRESS, read_field
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.shards import Manifest
from groundup.errors import DataError
from groundup.tokenizers.base import TOKENIZER_FILE

Answer = Literal["same", "other", "unknown"]


class DataMatch(NamedTuple):
    """An answer, and the message to show unless it is `same`."""

    answer: Answer | Literal["missing"]
    message: str = ""


def match_data(folder: Path, metadata: Mapping[str, Any], manifest: Manifest | None = None) -> DataMatch:
    """Compare a prepared folder with the one in a checkpoint's `metadata`, its progress.json, which may be empty.

    `manifest`: the folder's, if it was read already. DataError for a folder whose manifest cannot be read.
    """
    if manifest is None and not folder.is_dir():
        below = "" if folder.is_absolute() else f" below {Path.cwd()}, the current folder"
        return DataMatch(
            "missing", f"{folder}: there is no such folder{below}; give the path of the run's data with --data DIR"
        )
    fingerprint = (manifest or Manifest.load(folder)).fingerprint
    if "data" not in metadata:
        return DataMatch("unknown", "no checkpoint of the run says whether its data has changed since")
    if metadata["data"] != fingerprint:
        return DataMatch(
            "other", f"{folder}: not the data that this run was trained on; give its folder with --data DIR"
        )
    return DataMatch("same")


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


def text_of_run(folder: RunFolder, config: Config) -> RunText:
    """A run's data by its newest readable checkpoint, and by the prepared folder if that is still the same.

    A run without a checkpoint is assumed to have been trained on the folder that its config names.
    """
    data = tokenizer = None
    for checkpoint in reversed(folder.steps()):
        data = data or read_field(checkpoint / PROGRESS, "data")
        tokenizer = tokenizer or read_field(checkpoint / "tokenizer" / TOKENIZER_FILE, "fingerprint")
    manifest = manifest_of_run(config.data, data)
    if manifest is None:
        return RunText(data, tokenizer, None, None, None)
    train, val = manifest.splits["train"], manifest.splits["val"]
    shards, sizes = tuple(shard.sha256 for shard in val.shards), [(s.bytes, s.documents) for s in (val, train)]
    return RunText(manifest.fingerprint, manifest.tokenizer.fingerprint, shards, *sizes)


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
