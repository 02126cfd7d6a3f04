"""Push a trained model to the hub as a repository for `transformers`: exported, checked, then sent in one commit.

No torch before the name, the libraries and the token have been checked. `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`
and `hf auth login` are obeyed.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from groundup.errors import UsageError
from groundup.interop.export import Export, export
from groundup.ui.streams import unescaped
from groundup.utils.extras import install_command
from groundup.utils.hub_errors import HubRepo, explain_hub_error

# Names of repositories and branches as the hub allows them; a stricter rule would refuse existing ones.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
FORBIDDEN = re.compile(r"--|\.\.|[-.](/|$)|\.git$")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)

# Weights in other files, which some programs would read in place of those that were checked.
STALE = ["*.safetensors", "*.safetensors.index.json", "pytorch_model*", "tf_model*", "flax_model*", "rust_model.ot"]

# HTTP status -> reason and remedy, where they differ from those of reading.
STATUSES = {
    400: ("the hub refuses what was sent", "read its message, and fix it"),
    401: ("the hub does not know the token", "log in again with `hf auth login`, or set HF_TOKEN to a valid one"),
    403: ("the token may not write there", "give HF_TOKEN one with the right to write to that owner's repositories"),
    404: ("there is no such owner, or the token may not see it", "check the owner's name and the token's rights"),
    413: ("the hub takes no files so large", "make room in the account, or push a smaller model"),
}


@dataclass(frozen=True)
class Pushed:
    """The pushed commit, and the export that it holds."""

    url: str
    commit: str
    export: Export


def push(
    path: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    checkpoint: str = "latest",
    license: str = "",  # noqa: A002  # as the option and the card's key are called
) -> Pushed:
    """Export a run's or checkpoint's model as `to="hf"` and send it to `repository`, `owner/name`, in one commit.

    The repository, with `private` a private one, and the branch `revision` are created where they do not exist. Other
    weights in the repository are deleted by the same commit. Raises CheckpointError, ExportError, and UsageError for a
    bad name, a bad token, and failures of the network or the hub.
    """
    if not REPOSITORY.fullmatch(repository) or FORBIDDEN.search(repository):
        raise UsageError(f"{repository}: no name of a repository; give owner/name, as in me/my-model")
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(f"revision {revision!r}: no name of a branch; give one such as main or v2")
    api = _api(repository)
    with _temporary_folder() as out:
        with _hub_errors(repository):
            api.whoami()  # a bad token should fail before minutes of work
        done = _exported(path, out, checkpoint, repository, license)
        with _hub_errors(repository):
            api.create_repo(repository, private=private or None, exist_ok=True)
            public = private and not api.repo_info(repository).private
        if public:
            raise UsageError(
                f"{repository}: exists already and is public; make it private on the hub, or push without --private"
            )
        with _hub_errors(repository):
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=out,
                revision=revision,
                delete_patterns=STALE,
                commit_message=message or f"{done.checkpoint}, exported by groundup",
            )
    return Pushed(f"{api.endpoint}/{repository}", commit.oid, done)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield the path of a folder to be created, deleted afterwards; UsageError where there is no room for it."""
    try:
        folder = TemporaryDirectory(prefix="groundup-push-")
    except OSError as error:
        raise UsageError(
            f"push: no temporary folder can be made ({error.strerror or error}); set TMPDIR to one with room"
        ) from error
    with folder as name:
        yield Path(name) / "model"


def _exported(path: str | Path, out: Path, checkpoint: str, repository: str, licence: str) -> Export:
    """Export the model; an unwritable folder is reported as TMPDIR, as push has no --out."""
    try:
        return export(path, out, to="hf", checkpoint=checkpoint, name=repository, license=licence)
    except UsageError as error:
        if isinstance(error.__cause__, OSError):
            reason = error.__cause__.strerror or error.__cause__
            raise UsageError(
                f"push: {out.parent} cannot be written ({reason}); make room, or set TMPDIR to a folder with some"
            ) from error
        raise


def _api(repository: str) -> Any:
    """The hub's client with the user's token; UsageError where the hub is offline, or there is no token."""
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(f"push: needs the library huggingface_hub; install it with {install_command('hf')}") from None
    if huggingface_hub.is_offline_mode():
        raise UsageError(f"{repository}: the hub may not be asked while HF_HUB_OFFLINE is set; unset it")
    if not (token := huggingface_hub.get_token()):
        raise UsageError(
            f"{repository}: the hub must know who you are; log in with `hf auth login`, or set HF_TOKEN to a token "
            "with the right to write"
        )
    return huggingface_hub.HfApi(token=token)


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn the hub's errors into a UsageError; progress bars only on a terminal, no warnings."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    stderr = unescaped(sys.stderr)  # bars write control characters; file names in them are our own
    shown = not are_progress_bars_disabled() and not stderr.isatty()
    if shown:
        disable_progress_bars()
    try:
        with warnings.catch_warnings(), redirect_stderr(stderr):
            warnings.simplefilter("ignore")  # the library's, about its own dependencies
            yield
    except Exception as error:  # of the hub, its transports and its checks: unrelated classes
        repo = HubRepo(repository, repository, alternative="send a folder made by `groundup export --to hf` later")
        raise UsageError(f"{repository}: {explain_hub_error(error, repo, STATUSES)}") from error
    finally:
        if shown:
            enable_progress_bars()
