"""Errors of the Hugging Face Hub and its libraries, each as a reason and a remedy for one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class HubRepo:
    """A repository of the hub, as messages about it name it."""

    source: str  # as the user gave it
    repo: str  # OWNER/NAME
    revision: str | None = None  # a branch, a tag or a commit
    kind: Literal["model", "data set"] = "model"
    alternative: str = ""  # what to do without the hub

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'data set' else ''}{self.repo}"


@dataclass(frozen=True)
class HubFailure:
    """Why a request failed, and what to do; as a string, both."""

    reason: str
    remedy: str
    is_transient: bool = False  # another attempt may succeed
    retry_after: float = 0.0  # seconds that the hub asks for

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


def explain_hub_error(
    error: BaseException, repo: HubRepo, statuses: Mapping[int, tuple[str, str]] | None = None
) -> HubFailure:
    """The cause of an error that `huggingface_hub` or `datasets` raised, found anywhere in its chain of causes.

    `statuses`: HTTP status -> reason and remedy, where they differ from those of reading, as when writing.
    """
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    causes = _chain(error)
    otherwise = f", or {repo.alternative}" if repo.alternative else ""
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return HubFailure("the hub may not be asked while HF_HUB_OFFLINE is set", f"unset it{otherwise}")
    for cause in causes:
        response = getattr(cause, "response", None)
        if isinstance(response, httpx2.Response):
            if statuses and response.status_code in statuses:
                reason, remedy = statuses[response.status_code]
                message = " ".join(str(getattr(cause, "server_message", None) or "").split())[:200]  # the hub's own
                status = f"HTTP {response.status_code}{message and f': {message}'}"
                return HubFailure(f"{reason} ({status})", remedy)
            return _explain_status(response, repo)
    for cause in causes:
        if isinstance(cause, httpx2.TransportError | ConnectionError | TimeoutError):
            return HubFailure(
                f"the connection to {endpoint()} failed ({_first_line(cause)})",
                f"check the network and try again{otherwise}",
                is_transient=True,
            )
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno and cause.filename:
            return HubFailure(
                f"{cause.filename} cannot be used ({cause.strerror})", "set HF_HOME to a folder that can be written"
            )
    if any(isinstance(cause, RuntimeError) and "home directory" in str(cause) for cause in causes):  # of Path.home
        return HubFailure(
            "this user has no home folder for the hub's files", "set HF_HOME to a folder that can be written"
        )
    if repo.kind == "data set":
        return HubFailure(
            f"cannot be read as a data set ({_first_line(error)})", f"check its page, {repo.page}{otherwise}"
        )
    return HubFailure(f"the request to the hub failed ({_first_line(error)})", f"try again{otherwise}")


def _explain_status(response: Any, repo: HubRepo) -> HubFailure:
    """The meaning of an HTTP status when reading; the codes are those of the hub's X-Error-Code."""
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        return HubFailure(
            f"{repo.repo} is gated (HTTP {status})",
            f"accept its terms on {repo.page}, then log in with `hf auth login` or set HF_TOKEN",
        )
    if status in (401, 403):
        return HubFailure(
            f"{repo.repo} does not exist or is private (HTTP {status})",
            "check the name; for a private one log in with `hf auth login` or set HF_TOKEN to a token that may read it",
        )
    if status == 404 and code == "RevisionNotFound":
        return HubFailure(f"{repo.repo} has no revision {repo.revision!r}", f"choose one on {repo.page}/refs")
    if status == 404 and code == "EntryNotFound":
        return HubFailure(f"{repo.repo} has no file {response.url.path!r}", f"see what it has on {repo.page}/tree/main")
    if status == 404:
        return HubFailure(f"there is no {repo.kind} {repo.repo} (HTTP 404)", f"check the name on {repo.page}")
    if status == 429:
        wait = _retry_after(response.headers)
        asked = f", and asks for a wait of {wait:.0f} s" if wait else ""
        return HubFailure(
            f"the hub answers that there were too many requests (HTTP 429){asked}",
            "try again later; with HF_TOKEN set it allows more",
            is_transient=True,
            retry_after=wait,
        )
    return HubFailure(f"the hub answered HTTP {status}", "try again later", is_transient=status >= 500 or status == 408)


def _retry_after(headers: Any) -> float:
    """Seconds, from Retry-After or from the hub's own header: `ratelimit: "api";r=0;t=55`."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after, limit = headers.get("Retry-After", ""), parse_ratelimit_headers(headers)
    return float(after) if after.isdigit() else float(limit.reset_in_seconds) if limit and not limit.remaining else 0.0


def _chain(error: BaseException) -> list[BaseException]:
    """An error and its causes, the last first."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _first_line(error: BaseException) -> str:
    """The class of an error and the first line of its message."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__


def endpoint() -> str:
    """The address of the hub, as HF_ENDPOINT sets it."""
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT
