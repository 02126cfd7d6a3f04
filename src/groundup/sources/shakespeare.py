"""Tiny Shakespeare (Karpathy 2015): 40,000 lines of the plays, packed inside the package."""

from importlib import resources
from pathlib import Path

from groundup.errors import DataError

SHAKESPEARE = "shakespeare"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of the text
SHAKESPEARE_BYTES = 1_115_394


def shakespeare() -> Path:
    """Path of the text, compressed. Raises DataError where groundup is imported from a zip file."""
    packed = resources.files("groundup.sources").joinpath("texts", "tinyshakespeare.txt.zst")
    if not isinstance(packed, Path):
        raise DataError(f"{SHAKESPEARE}: inside {packed}, which is a zip file; install groundup to read it")
    return packed
