"""Requests to the Hugging Face Hub: how its data sets are named, retries, and quiet libraries."""

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from groundup.errors import DataError
from groundup.sources.catalog import CORPORA
from groundup.utils.hub_errors import HubRepo, explain_hub_error

log = logging.getLogger("groundup")  # with no handler set up, Python writes its warnings to standard error

T = TypeVar("T")

PREFIX = "hf:"
GRAMMAR = "hf:OWNER/NAME[/FILES][:CONFIG][@REVISION][#COLUMN]"

_SPEC = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<files>[^:@#]+))?(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<column>.+))?"
)

# Seconds between attempts. A mistake in the name or the network should show soon; a stream of hours should outlive
# a router's restart.
FIRST_WAITS: tuple[float, ...] = (1, 2, 4)
WAITS: tuple[float, ...] = (1, 2, 4, 8, 15, 30, 60)
SILENT_WAIT_SECONDS = 1  # longer waits are logged
MAX_WAIT_SECONDS = 300  # a hub that asks for more is not waited for


@dataclass(frozen=True, kw_only=True)
class HubSpec(HubRepo):
    """A data set of the hub, or a part of it.

    `files` is a path inside the data set, and may hold wildcards; without it, the files are those that the data set
    itself declares for `config` and its `train` split. `revision` may also be `refs/convert/parquet`, where the hub
    keeps its own copy in parquet.
    """

    kind: Literal["model", "data set"] = "data set"
    alternative: str = "get the data elsewhere and give its files by path, as in: groundup prepare FOLDER/*.parquet"
    files: str | None = None
    config: str | None = None
    column: str | None = None
    rows_per_document: int | str = 1  # or `catalog.ARTICLES`


def is_hub_name(source: str) -> bool:
    """Whether `source` names a corpus of the hub: `hf:…`, or a row of the table of known corpora."""
    return source.startswith(PREFIX) or (source in CORPORA and CORPORA[source].source is not None)


def parse_spec(source: str) -> HubSpec:
    """Parse `source`, for which `is_hub_name` holds. Raises DataError with the grammar."""
    known = CORPORA.get(source)
    match = _SPEC.fullmatch(source if known is None else known.source or "")
    if match is None:
        raise DataError(f"{source}: no name of a corpus on the hub; write {GRAMMAR}, as in hf:roneneldan/TinyStories")
    parts: dict[str, Any] = match.groupdict()
    if parts["files"] and parts["config"]:
        raise DataError(f"{source}: names both files and a config; leave out one of the two")
    return HubSpec(source=source, **parts, rows_per_document=1 if known is None else known.rows_per_document)


def with_retries(repo: HubRepo, call: Callable[[], T], waits: tuple[float, ...] | None = None) -> T:
    """Return `call()`, tried again after each of `waits` (WAITS) while the failure may be transient.

    Waits at least as long as the hub asks for. Raises DataError with one sentence.
    """
    for pause in (*(WAITS if waits is None else waits), None):
        try:
            with _quiet_libraries():
                return call()
        except DataError:
            raise
        except Exception as error:  # the exceptions of the three libraries are not documented
            failure = explain_hub_error(error, repo)
        if pause is None or not failure.is_transient or failure.retry_after > MAX_WAIT_SECONDS:
            raise DataError(f"{repo.source}: {failure}")
        wait = max(pause, failure.retry_after)
        if wait > SILENT_WAIT_SECONDS:
            log.warning("%s: %s; trying again in %.0f s", repo.source, failure.reason, wait)
        time.sleep(wait)
    raise AssertionError("the last pause is None")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Switch off the libraries' progress bars, log lines, retries and telemetry; restores their settings."""
    import datasets
    import huggingface_hub
    import huggingface_hub.utils as hub

    settings = [
        (huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True),
        (datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
        (datasets.config, "STREAMING_READ_MAX_RETRIES", 1),
        (datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0),
        (datasets.config, "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL", 0),
        (datasets.config, "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL", 0),
        (datasets.config, "STREAMING_OPEN_MAX_RETRIES", 1),
        (datasets.config, "STREAMING_OPEN_RETRY_INTERVAL", 0),
    ]
    with ExitStack() as after, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for where, name, value in settings:
            after.callback(setattr, where, name, getattr(where, name))
            setattr(where, name, value)
        for logger in map(logging.getLogger, ("datasets", "huggingface_hub")):
            after.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        if datasets.utils.is_progress_bar_enabled():
            after.callback(datasets.utils.enable_progress_bar)
            datasets.utils.disable_progress_bar()
        if not hub.are_progress_bars_disabled():
            after.callback(hub.enable_progress_bars)
            hub.disable_progress_bars()
        yield
