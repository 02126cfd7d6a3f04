"""Requests to the hub: patience with what passes, one sentence for what does not."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from groundup.errors import DataError
from groundup.sources.hub_spec import HubSpec

log = logging.getLogger("groundup")  # with no handler set up, Python writes its warnings to standard error

T = TypeVar("T")

# Seconds between attempts. A mistake in the name or the network should show soon; a stream of hours should outlive
# a router's restart.
FIRST_WAITS: tuple[float, ...] = (1, 2, 4)
WAITS: tuple[float, ...] = (1, 2, 4, 8, 15, 30, 60)
SILENT_WAIT = 1  # seconds; whoever waits longer is told why
LONGEST_WAIT = 300  # seconds; a hub that asks for more is not waited for


@dataclass(frozen=True)
class _Failure:
    reason: str
    remedy: str
    passing: bool = False  # whether trying again may help
    wait: float = 0.0  # seconds that the hub asks for


def with_retries(spec: HubSpec, call: Callable[[], T], waits: tuple[float, ...] | None = None) -> T:
    """What `call` returns, tried again after each of `waits` (WAITS) while the failure may pass.

    At least the wait that the hub asks for is kept. Raises DataError with one sentence.
    """
    for pause in (*(WAITS if waits is None else waits), None):
        try:
            with _manners():
                return call()
        except DataError:
            raise
        except Exception as error:  # what three libraries may raise is not written down anywhere
            failure = _diagnose(error, spec)
        if pause is None or not failure.passing or failure.wait > LONGEST_WAIT:
            raise DataError(f"{spec.text}: {failure.reason}; {failure.remedy}")
        wait = max(pause, failure.wait)
        if wait > SILENT_WAIT:
            log.warning("%s: %s; trying again in %.0f s", spec.text, failure.reason, wait)
        time.sleep(wait)
    raise AssertionError("the last pause is None")


@contextmanager
def _manners() -> Iterator[None]:
    """The libraries without their progress bars, log lines, own patience and reports of use; theirs again after."""
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


def _diagnose(error: BaseException, spec: HubSpec) -> _Failure:
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    led = causes(error)
    files = spec.elsewhere
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in led):
        return _Failure(
            "the hub may not be asked while HF_HUB_OFFLINE is set", f"unset it, or get the data elsewhere and {files}"
        )
    for cause in led:
        response = getattr(cause, "response", None)
        if isinstance(response, httpx2.Response):
            return _answer(response, spec)
    for cause in led:
        if isinstance(cause, httpx2.TransportError | ConnectionError | TimeoutError):
            return _Failure(
                f"the connection to {_endpoint()} failed ({short(cause)})",
                f"check the network and try again, or get the data elsewhere and {files}",
                passing=True,
            )
    for cause in led:
        if isinstance(cause, OSError) and cause.errno and cause.filename:
            return _Failure(
                f"{cause.filename} cannot be used ({cause.strerror})", "set HF_HOME to a folder that can be written"
            )
    return _Failure(
        f"cannot be read as a data set ({short(error)})", f"check its page, {_page(spec)}, or download it and {files}"
    )


def _answer(response: Any, spec: HubSpec) -> _Failure:
    """What an HTTP status means here; the codes are those of the hub's X-Error-Code."""
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        return _Failure(
            f"{spec.repo} is gated (HTTP {status})",
            f"accept its terms on {_page(spec)}, then log in with `hf auth login` or set HF_TOKEN",
        )
    if status in (401, 403):
        return _Failure(
            f"{spec.repo} does not exist or is private (HTTP {status})",
            "check the name; for a private one log in with `hf auth login` or set HF_TOKEN to a token that may read it",
        )
    if status == 404 and code == "RevisionNotFound":
        return _Failure(f"{spec.repo} has no revision {spec.revision!r}", f"choose one on {_page(spec)}/refs")
    if status == 404 and code == "EntryNotFound":
        return _Failure(f"{spec.repo} has no file {response.url.path!r}", f"see what it has on {_page(spec)}/tree/main")
    if status == 404:
        return _Failure(f"there is no data set {spec.repo} (HTTP 404)", f"check the name on {_page(spec)}")
    if status == 429:
        wait = _asked_wait(response.headers)
        asked = f", and asks for {wait:.0f} s of patience" if wait else ""
        return _Failure(
            f"the hub answers that there were too many requests (HTTP 429){asked}",
            "try again later; with HF_TOKEN set it allows more",
            passing=True,
            wait=wait,
        )
    return _Failure(f"the hub answered HTTP {status}", "try again later", passing=status >= 500 or status == 408)


def _asked_wait(headers: Any) -> float:
    """Seconds, from Retry-After or from the hub's own header: `ratelimit: "api";r=0;t=55`."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after = headers.get("Retry-After", "")
    limit = parse_ratelimit_headers(headers)
    return float(after) if after.isdigit() else float(limit.reset_in_seconds) if limit and not limit.remaining else 0.0


def causes(error: BaseException) -> list[BaseException]:
    """An error and everything that led to it, the last first."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def short(error: BaseException) -> str:
    """Its class, and the first line of what it says."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def _page(spec: HubSpec) -> str:
    return f"{_endpoint()}/datasets/{spec.repo}"
