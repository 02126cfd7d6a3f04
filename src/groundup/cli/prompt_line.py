"""The prompt line: one types the beginning of a text, and the model continues it; `/` begins a command."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.text import Text

from groundup.cli.generation_options import DEFAULTS, GENERATION_OPTIONS, Values, option_words, sampling_of
from groundup.cli.help import table
from groundup.cli.interrupts import noting_interrupts
from groundup.cli.parsing import utf8
from groundup.cli.prompt_commands import OPTIONS, changed, described, help_rows, is_command, parse_command, propose
from groundup.errors import GroundupError, UsageError
from groundup.ui.console import Console, is_foreground, print_line
from groundup.ui.format import human_count, visible
from groundup.utils import ending_signal

if TYPE_CHECKING:
    from groundup.checkpoint.state import LoadedModel
    from groundup.generation.engine import Engine, Request

HINT = "Enter continues the text that you type; /help lists commands, Ctrl-D leaves."
LEAVING = "Ctrl-D or /quit leaves."
HELP = (
    r'Each text has the next seed. In a value in double quotes, \n is a line end: /stop "\n".',
    "A text that begins with / is typed with //; one of several lines is never a command.",
    "Enter alone begins a document. Alt-Enter or Ctrl-J begins a line. Tab completes commands, the arrow keys bring "
    "back what was typed, Ctrl-C stops a text.",
)
SEEDS = 2**63
FRAME_SECONDS = 0.02  # between two writes to the terminal: tokens may come faster than it can show them


def can_talk() -> bool:
    """Whether a person is at both ends: standard input and output are a terminal, and this is its foreground job."""
    return sys.stdin is not None and sys.stdin.isatty() and is_foreground(Console())


def talk(
    loaded: LoadedModel,
    new_engine: Callable[[], Engine],
    command: Sequence[str],
    values: Values = DEFAULTS,
    *,
    quiet: bool = False,
) -> None:
    """Read beginnings and continue each, until Ctrl-D. `command`: words that generate with this model."""
    from groundup.cli.line_editor import new_editor
    from groundup.cli.prompt_history import PromptHistory, history_path

    ending_signal.forget()
    line = PromptLine(loaded, new_engine, command, values, quiet=quiet)
    editor = new_editor(PromptHistory(history_path()), propose)
    if not quiet:
        line.note(HINT)
    with hidden_typing():
        while True:
            try:
                line.answer(editor.prompt())
            except EOFError:
                return
            except (Exception, KeyboardInterrupt) as error:
                if isinstance(error, KeyboardInterrupt) or ending_signal.recorded() == signal.SIGINT:
                    ending_signal.forget()
                    if not editor.default_buffer.text:
                        line.note(LEAVING)
                elif isinstance(error, GroundupError):  # such as a character that the tokenizer does not know
                    line.say(str(error))
                else:
                    raise


@contextmanager
def hidden_typing() -> Iterator[None]:
    """While entered, a terminal does not show what is typed, as it would in the midst of a text that is written.

    The line editor reads it afterwards, and Enter still sends.
    """
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before, changed = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    changed[0] &= ~termios.ICRNL  # else Enter would arrive as Ctrl-J
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, changed)
    try:
        yield
    finally:
        with suppress(termios.error):  # it is closed
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


class PromptLine:
    """Continues texts and obeys commands; keeps the options that hold, and the last beginning."""

    def __init__(
        self,
        loaded: LoadedModel,
        new_engine: Callable[[], Engine],
        command: Sequence[str],
        values: Values,
        *,
        quiet: bool = False,
    ) -> None:
        self._loaded, self._command, self._values, self._quiet = loaded, command, values, quiet
        self._new_engine, self._engine = new_engine, new_engine()
        self._console = Console()
        self._last: tuple[str, Values] | None = None  # beginning and options of the last text
        self._check(values)

    def say(self, text: str, style: str = "") -> None:
        """Print lines."""
        for line in text.split("\n"):
            print_line(visible(line), self._console, style)

    def note(self, text: str) -> None:
        """Print a line that is not of a text."""
        self.say(text, "dim")

    def answer(self, typed: str) -> None:
        """Continue a text, or obey a command. GroundupError; EOFError after `/quit`."""
        try:
            utf8(typed)
        except argparse.ArgumentTypeError as error:
            raise UsageError(str(error)) from None
        if not is_command(typed):
            self._continue(typed.removeprefix("/") if "\n" not in typed else typed)
            return
        name, word = parse_command(typed)
        if name in OPTIONS:
            self._set(name, word)
        elif name == "again":
            if self._last is None:
                raise UsageError("/again: there is no text yet; type a beginning first")
            self._continue(self._last[0])
        elif name == "settings":
            self._show_settings()
        elif name == "help":
            self.say("\n".join(table(list(help_rows()), self._console.width)))
            self.say("\n".join(HELP))
        else:
            raise EOFError

    def _set(self, name: str, word: str) -> None:
        option = OPTIONS[name]
        if word:
            values = changed(self._values, option, word)
            self._check(values)
            self._values = values
        self.note(f"{name} {described(option, self._values[option.key])}")

    def _check(self, values: Values) -> None:
        from groundup.generation.engine import Request, check

        config = self._loaded.model.config
        request = Request((0,), values["max_tokens"], sampling_of(values), stop=tuple(values["stop"]))
        check(request, config.vocab, config.block_size)

    def _show_settings(self) -> None:
        rows = [(option.name, described(option, self._values[option.key])) for option in GENERATION_OPTIONS]
        self.say("\n".join(table(rows, self._console.width)))
        if self._last:
            beginning, values = self._last
            words = [*self._command, *option_words("prompt", beginning)]
            words += [word for option in GENERATION_OPTIONS for word in option.words(values[option.key])]
            self.note("The last text again:")
            self._print(f"{' '.join(map(_quoted, words))}\n")  # not broken into lines, to be copied

    def _continue(self, typed: str) -> None:
        from groundup.generation.completion import long_prompt, text_request
        from groundup.run.dataset import prompt_for

        values = self._values
        prompt = typed or prompt_for(self._loaded, values["seed"])
        request = text_request(
            self._loaded, prompt, sampling_of(values), max_tokens=values["max_tokens"], stop=values["stop"]
        )
        if typed and (note := long_prompt(self._loaded, request)):
            self.note(note)
        self._last = prompt, values
        self._values = values | {"seed": (values["seed"] + 1) % SEEDS}  # the same beginning again: another text
        try:
            self._write(prompt, request)
        except BaseException:  # it may have been interrupted in the middle of a step
            self._engine = self._new_engine()
            raise

    def _write(self, prompt: str, request: Request) -> None:
        """Print the beginning and, while they are generated, its continuation and how fast it came."""
        from groundup.generation.completion import evaluating, prompt_text

        loaded, engine, unprinted, printed = self._loaded, self._engine, "", 0.0
        counts: list[tuple[float, int]] = []  # after each step: time in seconds, and tokens so far
        self._print("> " + prompt_text(loaded.tokenizer, prompt), "bright_black")
        with noting_interrupts() as interrupted, evaluating(loaded.model):
            ticket = engine.add(request)
            while not (engine.idle or interrupted()):
                pieces = engine.step()
                unprinted += "".join(piece.text for piece in pieces)
                if tokens := sum(len(piece.tokens) for piece in pieces):
                    counts.append((time.perf_counter(), tokens + (counts[-1][1] if counts else 0)))
                if counts and counts[-1][0] - printed >= FRAME_SECONDS:
                    self._print(unprinted, "cyan")
                    unprinted, printed = "", counts[-1][0]
            engine.cancel(ticket)
        self._print(unprinted, "cyan")
        self._print("\n")
        if not self._quiet:
            self.note(f"{_speed(counts, request.max_tokens)}, seed {request.sampling.seed}")

    def _print(self, text: str, style: str = "") -> None:
        if text:
            self._console.print(Text(visible(text), style), end="", soft_wrap=True)


def _quoted(word: str) -> str:
    r"""A word for a shell; with characters that a terminal would obey, such as a tab, as $'\u0009' of bash and zsh."""
    if visible(word) == word:
        return shlex.quote(word)
    word = word.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + "".join(c if visible(c) == c else f"\\U{ord(c):08x}" for c in word) + "'"


def _speed(counts: Sequence[tuple[float, int]], max_tokens: int) -> str:
    """How many tokens a text has, and how fast they followed the first ones."""
    text = f"{counts[-1][1] if counts else 0:,} of {max_tokens:,} tokens"
    if len(counts) < 2:
        return text
    (first_time, first), (last_time, last) = counts[0], counts[-1]
    return f"{text}, {human_count((last - first) / max(last_time - first_time, 1e-9))} tokens/s"
