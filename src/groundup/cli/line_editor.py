"""The editor of the prompt line, by prompt_toolkit: history, completion, texts of several lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.utils import is_dumb_terminal
from typing_extensions import override

from groundup.ui.streams import unescaped

PROMPT, CONTINUATION = "> ", "  "


Proposal = tuple[str, int, str]
"""A word that completes what is typed, how many characters before the cursor it replaces, and its meaning."""


class _Completer(Completer):
    def __init__(self, propose: Callable[[str], Iterable[Proposal]]) -> None:
        self._propose = propose

    @override
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for word, replaces, meaning in self._propose(document.text_before_cursor):
            yield Completion(word, -replaces, display=word.strip(), display_meta=meaning)


def new_editor(history: History, propose: Callable[[str], Iterable[Proposal]]) -> PromptSession[str]:
    """A session on this terminal whose `prompt()` returns what is typed. It is erased, as the caller prints it.

    Enter sends; Alt-Enter and Ctrl-J begin a line; line ends in pasted text are part of it. `prompt` raises
    KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D. Control characters that are typed are shown as ^A.
    """
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # else a warning where a terminal cannot report
    # The stream that escapes text is no terminal. Without an output, a terminal that can only print is treated as such.
    output = None if is_dumb_terminal() else create_output(unescaped(sys.stdout))  # type: ignore[arg-type]
    return PromptSession(
        PROMPT,
        output=output,
        history=history,
        completer=_Completer(propose),
        complete_while_typing=False,
        multiline=True,
        prompt_continuation=CONTINUATION,
        key_bindings=_key_bindings(),
        enable_suspend=True,
        erase_when_done=True,
    )


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # not in a search of the history

    @bindings.add("enter", filter=typing)
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=typing)
    @bindings.add("c-j", filter=typing)
    def _begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings
