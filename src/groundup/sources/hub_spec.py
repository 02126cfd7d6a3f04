"""How a corpus of the hub is named on the command line."""

import re
from dataclasses import dataclass

from groundup.errors import DataError
from groundup.sources.catalog import CORPORA

PREFIX = "hf:"
GRAMMAR = "hf:OWNER/NAME[/FILES][:CONFIG][@REVISION][#COLUMN]"

_SPEC = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<files>[^:@#]+))?(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<column>.+))?"
)


@dataclass(frozen=True)
class HubSpec:
    """A data set of the hub, or a part of it.

    `files` is a path inside the data set, and may hold wildcards; without it, the files are those that the data set
    itself declares for `config` and its `train` split. `revision` is a branch, a tag, a commit, or such as
    `refs/convert/parquet`, where the hub keeps its own copy in parquet.
    """

    text: str  # as the user gave it
    repo: str
    files: str | None = None
    config: str | None = None
    revision: str | None = None
    column: str | None = None
    joined: int | str = 1  # see `Corpus.joined`
    elsewhere: str = "give its files by path, as in: groundup prepare FOLDER/*.parquet"  # what to do without the hub


def is_named(source: str) -> bool:
    """Whether `source` names a corpus of the hub: `hf:…`, or a row of the table of known corpora."""
    return source.startswith(PREFIX) or (source in CORPORA and CORPORA[source].source is not None)


def parse_spec(source: str) -> HubSpec:
    """Take apart `source`, for which `is_named` holds; raises DataError with the grammar."""
    known = CORPORA.get(source)
    match = _SPEC.fullmatch(source if known is None else known.source or "")
    if match is None:
        raise DataError(f"{source}: no name of a corpus on the hub; write {GRAMMAR}, as in hf:roneneldan/TinyStories")
    if match["files"] and match["config"]:
        raise DataError(f"{source}: names both files and a config; leave out one of the two")
    return HubSpec(source, **match.groupdict(), joined=1 if known is None else known.joined)
