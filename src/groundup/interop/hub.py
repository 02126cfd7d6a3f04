"""A model's files from the hub, or from its cache: only those that are needed, all of one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import CheckpointError, UsageError
from groundup.interop.hf_import import CONFIG, WEIGHTS, parts
from groundup.sources.hub_client import PREFIX
from groundup.utils.hub_errors import HubRepo, explain_hub_error

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
    except Exception as error:  # of the hub, its transport, or the disk: a dozen unrelated classes
        if isinstance(error, errors.EntryNotFoundError):
            absent = not isinstance(error, errors.LocalEntryNotFoundError)
            if absent or (constants.HF_HUB_OFFLINE and name != CONFIG):
                return None
        hub_repo = HubRepo(f"{PREFIX}{repo}", repo, revision, alternative="download it and give its folder")
        raise UsageError(f"{hub_repo.source}: {explain_hub_error(error, hub_repo)}") from None
