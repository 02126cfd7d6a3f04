"""What the losses of several runs are of: the same tokens, the same text, or texts that say nothing of one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from groundup.checkpoint.files import PROGRESS, read_json
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.shards import Manifest
from groundup.errors import CheckpointError, DataError
from groundup.tokenizers.base import TOKENIZER_FILE

Answer = Literal["same", "other", "unknown"]


@dataclass(frozen=True)
class Text:
    """What is known of a run's data; None where it cannot be told."""

    data: str | None  # fingerprint
    tokenizer: str | None  # fingerprint
    held_out: tuple[str, ...] | None  # checksums of the validation split's shards
    size: tuple[int, int] | None  # bytes and documents of the validation text
    train_size: tuple[int, int] | None  # and of the training text


def text_of(folder: RunFolder, config: Config) -> Text:
    """What a run was trained on, from its newest readable checkpoint, and from the prepared folder if it is that still.

    A run without a checkpoint is believed to have been trained on the folder that its config names.
    """
    data = tokenizer = None
    for checkpoint in reversed(folder.steps()):
        data = data or said(checkpoint / PROGRESS, "data")
        tokenizer = tokenizer or said(checkpoint / "tokenizer" / TOKENIZER_FILE, "fingerprint")
    manifest = _manifest(config.data)
    if manifest is None or data not in (None, manifest.fingerprint):  # prepared again since, or another folder
        return Text(data, tokenizer, None, None, None)
    train, val = manifest.splits["train"], manifest.splits["val"]
    shards, sizes = tuple(shard.sha256 for shard in val.shards), [(s.bytes, s.documents) for s in (val, train)]
    return Text(manifest.fingerprint, manifest.tokenizer.fingerprint, shards, *sizes)


def _manifest(place: str | None) -> Manifest | None:
    try:
        return None if place is None else Manifest.load(Path(place))
    except DataError:
        return None


def said(path: Path, key: str) -> str | None:
    """What a JSON file says under a key, as text; None where it cannot be read, or says nothing."""
    try:
        value = read_json(path).get(key)
    except CheckpointError:
        return None
    return None if value is None else str(value)


def same_tokenizer(texts: Sequence[Text]) -> Answer:
    """Whether all runs cut text alike, so that their nats a token can be compared."""
    return "same" if _alike(texts, lambda text: text.data) == "same" else _alike(texts, lambda text: text.tokenizer)


def same_text(texts: Sequence[Text]) -> Answer:
    """Whether all losses are of one validation text.

    Of different tokenizers, texts are taken for the same if both splits have as many bytes and documents: one alone may
    have by chance, where little is held out.
    """
    if _alike(texts, lambda text: text.data) == "same":
        return "same"
    if same_tokenizer(texts) == "same":
        return _alike(texts, lambda text: text.held_out)
    found, train = _alike(texts, lambda text: text.size), _alike(texts, lambda text: text.train_size)
    return "unknown" if found == "same" and train != "same" else found


def _alike(texts: Sequence[Text], what: Callable[[Text], object]) -> Answer:
    found = {what(text) for text in texts}  # of one run alone, whatever it is
    if len(found - {None}) > 1:
        return "other"
    return "unknown" if None in found and len(texts) > 1 else "same"
