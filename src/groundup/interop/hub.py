"""A model's files from the hub, or from its cache: only those that are needed, all of one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import CheckpointError, UsageError
from groundup.interop.hf_import import CONFIG, WEIGHTS, parts
from groundup.sources.hub_spec import PREFIX

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json")


class Fetched(NamedTuple):
    """Where the files are, and of which commit."""

    folder: Path
    commit: str


def fetch(source: str, revision: str | None = None) -> Fetched:
    """The folder of `hf:OWNER/NAME` in the hub's cache. UsageError with the reason where it cannot be had.

    `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN` are obeyed.
    """
    repo = source.removeprefix(PREFIX)
    config = _file(repo, CONFIG, revision)
    if config is None:
        raise UsageError(f"{source}: holds no {CONFIG}, so it is no model of transformers; choose another")
    folder, commit = config.parent, config.parent.name
    for name in WEIGHTS:
        if (path := _file(repo, name, commit)) is not None:
            try:
                names = parts(path) if path.suffix == ".json" else []
            except CheckpointError as error:
                raise CheckpointError(f"{source}: {error}") from None
            for part in names:
                _file(repo, part, commit)  # where one is missing, the reader says which
            break
    for name in TOKENIZER_FILES:
        _file(repo, name, commit)
    return Fetched(folder, commit)


def _file(repo: str, name: str, revision: str | None) -> Path | None:
    """A file's place in the cache; None where the repository has none of that name."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise UsageError(
            f"{PREFIX}{repo}: the hub needs huggingface_hub; install it with pip install 'groundup[data]'"
        ) from None
    download: Any = huggingface_hub.hf_hub_download
    try:
        return Path(download(repo, name, revision=revision))
    except errors.EntryNotFoundError as error:
        absent = not isinstance(error, errors.LocalEntryNotFoundError)
        if absent or (constants.HF_HUB_OFFLINE and name != CONFIG):
            return None
        raise UsageError(f"{PREFIX}{repo}: {_reason(error)}; {REMEDY}") from None
    except Exception as error:  # of the hub, its transport, or the disk: a dozen unrelated classes
        raise UsageError(f"{PREFIX}{repo}: {_reason(error)}; {REMEDY}") from None


REMEDY = "check the name and the connection (HF_TOKEN for a private model), or download it and give its folder"
REASONS = {
    "RevisionNotFoundError": "it has no such revision",
    "GatedRepoError": "it is gated: accept its terms on its page first",
    "RepositoryNotFoundError": "there is no such model, or it is private",
    "LocalEntryNotFoundError": "the hub cannot be reached, and the cache holds no copy",
    "OfflineModeIsEnabled": "the hub may not be asked while HF_HUB_OFFLINE is set",
}


def _reason(error: Exception) -> str:
    for kind in type(error).__mro__:
        if kind.__name__ in REASONS:
            return REASONS[kind.__name__]
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
