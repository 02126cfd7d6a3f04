"""Tiny Shakespeare: downloaded once, checked, and kept in the user's cache folder."""

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from groundup.errors import DataError
from groundup.utils.files import atomic_output
from groundup.utils.system import cache_folder

SHAKESPEARE = "shakespeare"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
MAX_DOWNLOAD_BYTES = 10_000_000  # the text has 1,115,394
TIMEOUT_SECONDS = 20.0  # without an answer


def shakespeare() -> Path:
    """Path of Tiny Shakespeare (Karpathy 2015): 40,000 lines of the plays, downloaded unless it is in the cache.

    Raises DataError if it cannot be downloaded, or is not what it should be.
    """
    path = Path("tinyshakespeare.txt")
    try:
        path = cache_folder() / path
        if path.is_file() and _is_shakespeare(path.read_bytes()):
            return path
        text = _get(SHAKESPEARE_URL)
        if not _is_shakespeare(text):
            raise _refusal(f"the file at {SHAKESPEARE_URL} has another checksum than the text")
        with atomic_output(path, is_folder=False) as partial:
            partial.write_bytes(text)
    except OSError as error:
        raise DataError(
            f"{SHAKESPEARE}: {error.filename or path} cannot be written ({error.strerror}); "
            "name another folder in the environment variable XDG_CACHE_HOME"
        ) from None
    return path


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  # the constant above: no file: URL
            return answer.read(MAX_DOWNLOAD_BYTES)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(f"{url} answered {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _refusal(f"{url} cannot be reached ({getattr(error, 'reason', error)})") from None


def _refusal(reason: str) -> DataError:
    return DataError(
        f"{SHAKESPEARE}: {reason}; try again, or get the text in another way and give it as a file: "
        "groundup prepare input.txt"
    )


def _is_shakespeare(text: bytes) -> bool:
    return hashlib.sha256(text).hexdigest() == SHAKESPEARE_SHA256
