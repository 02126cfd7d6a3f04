"""A quickstart whose folder holds a run already: train that one for longer, or start another run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.shards import Manifest
from groundup.data.windows import windows_per_epoch
from groundup.errors import CheckpointError, UsageError
from groundup.preprocess.records import Request
from groundup.preprocess.tokenizer_choice import TokenizerChoice
from groundup.sources.corpus import TEXT_OPTIONS, open_sources
from groundup.sources.encodings import parse_encoding
from groundup.tokenizers.auto import AUTO
from groundup.training.early_stopping import ended_by
from groundup.utils.files import resolved


def run_folder(sources: Sequence[str], parent: Path = Path("runs")) -> Path:
    """`runs/NAME`; NAME is made of the first source's letters."""
    source = resolved(Path(sources[0])).name if Path(sources[0]).exists() else sources[0]
    name = "-".join(re.findall(r"[\w-]+", source.removeprefix("hf:").partition(".")[0])).strip("-") or "text"
    return parent / name


def free_folder(out: Path) -> Path:
    """`out`, or `out-2` and so on if there is something."""
    candidates = (out.with_name(f"{out.name}-{i}") if i > 1 else out for i in count(1))
    return next(path for path in candidates if not path.exists())


@dataclass(frozen=True)
class ExistingRun:
    """The run that a quickstart finds in its folder."""

    folder: RunFolder
    config: Config
    step: int
    planned: float  # seconds of training; a run ends earlier with its epochs
    ended_by: str | None  # key of `train`; None: it was interrupted

    @classmethod
    def find(cls, out: Path) -> "ExistingRun | None":
        """The run in `out`, None where there is none. CheckpointError where it is damaged or is no quickstart."""
        folder = RunFolder(out)
        if not folder.exists:
            return None
        config = folder.config()
        planned = config.train.max_time or config.train.time_limit
        if planned is None or resolved(Path(str(config.data))) != resolved(out / "data"):
            raise CheckpointError(f"{out}: holds a run that is no quickstart; give another --out")
        newest, _ = folder.newest_good()
        if newest is None:
            return cls(folder, config, 0, planned, None)
        metadata, tokens = load_metadata(newest), Manifest.load(out / "data").splits["train"].tokens
        sequences = windows_per_epoch(tokens, config.model.block_size)
        limit = ended_by(config.train, config.batch_size, sequences, metadata)
        return cls(folder, config, metadata["step"], planned, limit)

    def seconds(self, asked: float) -> float:
        """Training time in all where `asked` seconds are wanted: as many more if the run has had as many already."""
        has_had = self.ended_by in ("max_time", "time_limit") and asked <= self.planned
        return self.planned + asked if has_had else max(asked, self.planned)

    def longer(self, seconds: float) -> dict[str, Any]:
        """Config overrides with which the run trains for `seconds` in all; none where that was its plan."""
        if seconds == self.planned and self.ended_by is None:
            return {}
        return {"train": {"max_time": seconds, "time_limit": None}}

    def check_request(self, files: Sequence[str], tokenizer: str | None, text_options: Mapping[str, Any]) -> None:
        """UsageError unless the run's data was prepared from the text of `files`, and with the options that are given.

        `text_options` are as of `open_sources`; None and defaults are not given.
        """
        path, request = self.folder.path, Request.load(self.folder.path / "data")
        if request is None:
            raise UsageError(f"{path}: its text is not known; start another run with --fresh")
        made = request.settings
        asked = given_options(text_options)
        if "encoding" in asked:
            asked["encoding"] = parse_encoding(asked["encoding"])
        if tokenizer and tokenizer != AUTO:
            asked["tokenizer"] = TokenizerChoice.named(tokenizer).settings["tokenizer"]
        for key, wanted in asked.items():
            if (found := made.get(key)) != wanted:
                raise UsageError(f"{path}: prepared with {key} {found!r}, not {wanted!r}; start another with --fresh")
        reading: dict[str, Any] = {key: made[key] for key in TEXT_OPTIONS if key in made}
        with open_sources(files, **reading) as corpus:
            if difference := request.difference(Request.of(corpus, made)):
                raise UsageError(f"{path}: of another text ({difference}); start another run with --fresh")


def given_options(text_options: Mapping[str, Any]) -> dict[str, Any]:
    """The options on how text is read that differ from their defaults."""
    return {key: value for key, value in text_options.items() if value != TEXT_OPTIONS[key]}
