"""Text of generated tokens, released in complete characters and never beyond the beginning of a stop string."""

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """Incremental decoder from token ids to text; holds back the bytes of an incomplete character.

    `prompt`, if given, comes before the text; where it ends within a character, the text begins with that character.
    With `stop` strings, the text ends before the first of them that is complete, or the longest of several that are
    complete at the same character; what may become one is held back too.
    """

    def __init__(
        self, decode_bytes: Callable[[Sequence[int]], bytes], stop: Sequence[str] = (), prompt: Sequence[int] = ()
    ) -> None:
        self._decode_bytes, self._stop = decode_bytes, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.prompt = self._decoder.decode(decode_bytes(prompt))  # its complete characters
        self._held = ""  # complete characters that may begin a stop string
        self.stopped = False  # whether a stop string has occurred

    def feed(self, token: int) -> str:
        """Text completed by this token; may be empty. Invalid UTF-8 becomes U+FFFD."""
        text = self._held + self._decoder.decode(self._decode_bytes([token]))
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held, self.stopped = "", True
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Text held back as the possible beginning of a stop string; bytes of an incomplete character are dropped."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, which does not occur in it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
