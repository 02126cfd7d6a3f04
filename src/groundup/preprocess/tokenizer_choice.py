"""The tokenizer of a preparation: as named, or for `auto` by the text, or the one that its folder has already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from groundup.preprocess.records import Setting
from groundup.preprocess.train_tokenizer import MAX_CHARS_PER_TOKEN
from groundup.preprocess.workdir import recorded_settings
from groundup.sources.corpus import Corpus
from groundup.sources.survey import survey
from groundup.tokenizers.auto import auto_tokenizer
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.tokenizers.registry import choose_tokenizer
from groundup.utils.progress import ProgressReporter

SURVEY_BYTES = 8_000_000  # read to choose a tokenizer: beyond, only the size counts, which files have


@dataclass(frozen=True)
class TokenizerChoice:
    """The tokenizer to encode with, or the trainer of one, and what `request.json` holds of it."""

    settings: dict[str, Setting]
    tokenizer: Tokenizer | TokenizerTrainer | None = None  # None: a previous process saved it in the folder

    @classmethod
    def named(cls, spec: str) -> Self:
        """The tokenizer that `spec` names. TokenizerError where there is none."""
        found = choose_tokenizer(spec)
        if isinstance(found, TokenizerTrainer):
            return cls({"tokenizer": spec, "fingerprint": None}, found)
        return cls({"tokenizer": found.name, "fingerprint": found.fingerprint}, found)


def auto_choice(
    corpus: Corpus, out: Path, max_tokens: int | None, reporter: ProgressReporter, *, overwrite: bool
) -> TokenizerChoice:
    """The tokenizer that `out` was started with, whatever it is; without one, or with `overwrite`, one for the text."""
    recorded = None if overwrite else recorded_settings(out)
    if recorded and "tokenizer" in recorded:
        name = recorded["tokenizer"]
        reporter.message(f"tokenizer {name}: {out} was prepared with it before; --overwrite chooses by the text again")
        return TokenizerChoice({key: recorded.get(key) for key in ("tokenizer", "fingerprint")})
    limit = SURVEY_BYTES if max_tokens is None else min(SURVEY_BYTES, MAX_CHARS_PER_TOKEN * max_tokens)
    text = survey(corpus, limit)
    is_all_used = corpus.is_complete and max_tokens is None
    more = not text.complete and is_all_used  # than was read: as much as the files are large
    n_bytes = max(text.bytes, corpus.size or 0) if more else min(text.bytes, limit)
    spec, reason = auto_tokenizer(n_bytes, text.bytes_per_character, text.distinct)
    reporter.message(f"tokenizer {spec}: {reason}")
    return TokenizerChoice.named(spec)
