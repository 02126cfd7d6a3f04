"""A quickstart whose folder holds a run already: train that one for longer, or start another run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.errors import CheckpointError, UsageError
from groundup.preprocess.records import Request
from groundup.sources.corpus import TEXT_OPTIONS, open_sources


def run_folder(sources: Sequence[str], parent: Path = Path("runs")) -> Path:
    """`runs/NAME`; NAME is made of the first source's letters."""
    source = Path(sources[0]).resolve().name if Path(sources[0]).exists() else sources[0]
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
    trained: float  # seconds
    planned: float  # seconds, which may be more if it was interrupted, or ended with its epochs

    @classmethod
    def find(cls, out: Path) -> "ExistingRun | None":
        """The run in `out`, None where there is none. CheckpointError where it is damaged or is no quickstart."""
        folder = RunFolder(out)
        if not folder.exists:
            return None
        config = folder.config()
        planned = config.train.max_time or config.train.time_limit
        if planned is None or Path(str(config.data)).resolve() != (out / "data").resolve():
            raise CheckpointError(f"{out}: holds a run that is no quickstart; give another --out")
        newest, _ = folder.newest_good()
        metadata = load_metadata(newest) if newest else {"step": 0}
        return cls(folder, config, metadata["step"], metadata.get("elapsed", 0.0), planned)

    def seconds(self, asked: float) -> float:
        """Training time in all, if `asked` seconds are wanted: these, or as many more where it had as many."""
        if asked > self.planned or self.trained < 0.9 * self.planned:
            return max(asked, self.planned)
        return self.planned + asked

    def longer(self, seconds: float) -> dict[str, Any]:
        """Config overrides with which the run trains for `seconds` in total."""
        return {"train": {"max_time" if self.config.train.max_time else "time_limit": seconds}}

    def check_text(self, files: Sequence[str]) -> None:
        """UsageError unless the run was trained on the text of `files`."""
        request = Request.load(self.folder.path / "data")
        if request is None:
            raise UsageError(f"{self.folder.path}: its text is not known; start another run with --fresh")
        reading: dict[str, Any] = {key: request.settings[key] for key in TEXT_OPTIONS if key in request.settings}
        with open_sources(files, **reading) as corpus:
            if difference := request.difference(Request.of(corpus, request.settings)):
                raise UsageError(f"{self.folder.path}: of another text ({difference}); start another run with --fresh")
