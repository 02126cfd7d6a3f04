"""A prompt line: one types the beginning of a text, and the model continues it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from rich.text import Text

from groundup.errors import GroundupError
from groundup.ui.console import Console, can_redraw
from groundup.ui.format import visible

if TYPE_CHECKING:
    from groundup.checkpoint.state import LoadedModel

HINT = "Type a beginning and press Enter: the model continues it. Ctrl-D ends."


def can_talk() -> bool:
    """Whether a person is at both ends: standard input and output are a terminal that can be redrawn."""
    return sys.stdin is not None and sys.stdin.isatty() and can_redraw(Console())


def talk(loaded: LoadedModel, *, max_tokens: int = 200) -> None:
    """Read beginnings and continue each, until Ctrl-D; Ctrl-C clears the line, or stops a text."""
    from prompt_toolkit import PromptSession

    console = Console()
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # else a warning where a terminal cannot report
    session: PromptSession[str] = PromptSession()  # it shows control characters that are typed as ^A
    console.print(Text(HINT, "dim"))
    seed = 0
    while True:
        try:
            prompt = session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            _continue(console, loaded, prompt, seed, max_tokens)
        except KeyboardInterrupt:
            console.print(" …")
        except GroundupError as error:  # such as a character that the tokenizer does not know
            console.print(str(error))
        seed += 1  # the same beginning again: another text


def _continue(console: Console, loaded: LoadedModel, prompt: str, seed: int, max_tokens: int) -> None:
    from groundup.generation.completion import generate_stream, prompt_text
    from groundup.generation.sampling import Sampling

    growth = generate_stream(loaded, prompt, Sampling(0.8, seed=seed), max_tokens=max_tokens)
    started = False
    for (piece,) in growth:
        if not started:
            console.print(Text(visible(prompt_text(loaded.tokenizer, prompt)), "bright_black"), end="")
            started = True
        console.print(Text(visible(piece), "cyan"), end="", soft_wrap=True)
    console.print()
