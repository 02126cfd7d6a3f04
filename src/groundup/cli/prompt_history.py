"""History of the prompt line, kept between sessions in a file with mode 0600."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prompt_toolkit.history import History
from typing_extensions import override

from groundup.ui.format import json_line
from groundup.utils.files import replace_bytes
from groundup.utils.reading import open_own, open_regular
from groundup.utils.system import state_folder

VARIABLE, NONE = "GROUNDUP_HISTORY", "none"  # the value that switches the file off
MAX_HISTORY_BYTES = 1 << 20  # when it is larger, its older half is dropped
MAX_ENTRY_BYTES = 64 << 10  # longer texts, such as pasted ones, are not kept
PRIVATE = 0o600


class PromptHistory(History):
    """History in a file with one JSON string per line; in memory alone where there is no file, or none can be written.

    Several programs may append to it at once.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self.path = path

    @override
    def load_history_strings(self) -> Iterable[str]:
        """The entries, newest first."""
        found: list[str] = []
        with suppress(OSError, ValueError):
            found = [text for line in self._lines() if isinstance(text := _parsed(line), str)]
        return reversed(found)

    @override
    def store_string(self, string: str) -> None:
        """Append an entry."""
        line = json_line(string).encode() + b"\n"  # in ASCII, half a surrogate pair included
        if self.path is None or len(line) > MAX_ENTRY_BYTES:
            return
        with suppress(OSError, ValueError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = open_own(self.path, os.O_WRONLY | os.O_APPEND, PRIVATE)
            with os.fdopen(handle, "ab") as file:
                file.write(line)

    def _lines(self) -> list[bytes]:
        """The lines of the file, of one that has become too large the newer half, which is then kept alone."""
        if self.path is None:
            return []
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAX_HISTORY_BYTES:
                return file.read(MAX_HISTORY_BYTES).splitlines()
            file.seek(size - MAX_HISTORY_BYTES // 2)
            lines = file.read(MAX_HISTORY_BYTES).split(b"\n")[1:]  # the first one is incomplete
        replace_bytes(self.path, b"\n".join(lines), PRIVATE)
        return lines


def history_path() -> Path | None:
    """The file; None where the user wants none, or has no home."""
    if os.environ.get(VARIABLE) == NONE:
        return None
    with suppress(OSError):
        return state_folder() / "prompt-history.jsonl"
    return None


def _parsed(line: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(line)
    return None
