"""Check of a regular expression that came with a file: how often could it search the same text again?

The `tokenizers` library searches by backtracking, which for `(a|aa)+b` takes 2ⁿ steps on n letters. Accepted are
patterns such as published tokenizers have, which take at most about n² steps: repetition of single characters and of
groups without choices, and in one alternative no second open repetition that the rest of it can make try again.
"""

import math
import re
from dataclasses import dataclass, replace

MAX_PATTERN_CHARS = 4096
MAX_DEPTH = 20  # of groups
MAX_CHOICES = 256  # ways in which one alternative may match, without open repetitions
MAX_WIDTH = 4096  # characters that a part must match at least

# Of published tokenizers (Laguna, EXAONE 4, Chameleon): unambiguous, which the rules below do not see.
KNOWN = {
    r"(?:\r?\n)+(?!\r?\n)": (1, 2),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+": (1, 4),
    r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z": (8, 0),
}
"""Patterns that are accepted as they are, and what `check_pattern` says of them."""

_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d+)\}|\{(\d*),(\d*)\})", re.ASCII)
_GROUP = re.compile(r"\((?:\?(?:[:=!>]|<[=!]|[imsu-]+:))?")
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?\w+\}|x\{[0-9a-fA-F]{1,6}\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[sSdDwWhHnrtfvae]|[^\w])"
)
_ASSERTION = re.compile(r"[\^$]|\\[bBAzZG]")
_OPTIONS = re.compile(r"\(\?[imsu-]+\)")


@dataclass(frozen=True)
class _Part:
    """A part of a pattern."""

    width: int  # characters that it matches at least
    can_fail: bool = True  # whether some text does not match, not even with nothing
    choices: int = 1  # ways to match, without open repetitions
    open: int = 0  # repetitions without an upper bound that follow one another
    tried_again: int = 0  # those of them after which something can fail
    loops: int = 0  # repetitions without an upper bound, those of all alternatives


def check_pattern(pattern: str) -> tuple[int, int]:
    """The least number of characters that a match has, and how often a text may be searched to its end from each place.

    ValueError where the pattern could take too long.
    """
    if pattern in KNOWN:
        return KNOWN[pattern]
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"a regular expression of {len(pattern):,} characters; {MAX_PATTERN_CHARS:,} is the most")
    try:
        parser = _Parser(pattern)
        part = parser.alternatives(0)
        if parser.rest:
            raise ValueError("a bracket that closes nothing")
    except ValueError as error:
        raise ValueError(f"the regular expression {pattern!r:.80}, with {error}") from None
    return part.width, parser.searches


class _Parser:
    def __init__(self, pattern: str) -> None:
        options = _OPTIONS.match(pattern)  # elsewhere they would change what an alternative is
        self.searches = 0
        self.rest = pattern[options.end() :] if options else pattern

    def alternatives(self, depth: int) -> _Part:
        if depth > MAX_DEPTH:
            raise ValueError(f"groups more than {MAX_DEPTH} deep")
        parts = [self._sequence(depth)]
        while self.rest.startswith("|"):
            self.rest = self.rest[1:]
            parts.append(self._sequence(depth))
        return _Part(
            min(part.width for part in parts),
            all(part.can_fail for part in parts),
            sum(part.choices for part in parts),
            max(part.open for part in parts),
            max(part.tried_again for part in parts),
            sum(part.loops for part in parts),
        )

    def _sequence(self, depth: int) -> _Part:
        parts = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._quantified(depth))
        sequence = _check(_concatenated(parts))
        if depth == 0 and sequence.tried_again:
            last = max((i for i, part in enumerate(parts) if part.can_fail), default=len(parts))
            # What follows the last part that can fail is never tried again.
            self.searches += math.prod(part.choices for part in parts[: last + 1]) * sequence.loops
        return sequence

    def _quantified(self, depth: int) -> _Part:
        part, is_group = self._atom(depth)
        if not (found := self._take(_QUANTIFIER)):
            return part
        text, (exact, low, high) = found[0], found.groups()
        least, most = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}.get(text) or (
            int(exact or low or 0),
            int(exact or high) if exact or high else math.inf,
        )
        if self.rest[:1] in ("?", "+") and len(text) == 1:
            self.rest = self.rest[1:]  # lazy, or possessive; after braces these would be another repetition
        if _QUANTIFIER.match(self.rest):
            raise ValueError("a repetition of a repetition")
        if least > most:
            raise ValueError("a repetition that ends before it begins")
        if most > 1 and is_group and (part.choices > 1 or part.open):
            raise ValueError("a repetition of a group that can match in more than one way")
        variants = 1 if most == math.inf else int(most) - least + 1
        return _check(
            _Part(
                part.width * least,
                part.can_fail and least > 0,
                part.choices * variants,
                part.open + (most == math.inf),
                part.tried_again,
                part.loops + (most == math.inf),
            )
        )

    def _atom(self, depth: int) -> tuple[_Part, bool]:
        """The next part without its quantifier, and whether it is a group."""
        if group := self._take(_GROUP):
            inner = self.alternatives(depth + 1)
            if not self.rest.startswith(")"):
                raise ValueError("a group that does not end, or is of an unusual kind")
            self.rest = self.rest[1:]
            looks_around = group[0].endswith(("=", "!"))
            return (replace(inner, width=0, can_fail=True) if looks_around else inner), True
        if self._take(_ASSERTION):
            return _Part(0), True  # which is not to be repeated either
        if self.rest[0] == "[":
            self._skip_class()
        elif self.rest[0] == "\\":
            if not self._take(_ESCAPE):
                raise ValueError(f"the escape {self.rest[:2]}")
        elif self.rest[0] in "*+?":
            raise ValueError("a repetition of nothing")
        else:
            self.rest = self.rest[1:]
        return _Part(1), False

    def _skip_class(self) -> None:
        if self.rest.startswith(("[]", "[^]")):
            raise ValueError("an empty class of characters")
        position = depth = 0
        while position < len(self.rest):
            char = self.rest[position]
            position += 2 if char == "\\" else 1
            depth += (char == "[") - (char == "]")
            if depth == 0:
                self.rest = self.rest[position:]
                return
        raise ValueError("a class of characters that does not end")

    def _take(self, expected: re.Pattern[str]) -> re.Match[str] | None:
        found = expected.match(self.rest)
        if found:
            self.rest = self.rest[found.end() :]
        return found


def _concatenated(parts: list[_Part]) -> _Part:
    open_ = tried_again = 0
    for part in parts:
        tried_again = (max(open_, tried_again) if part.can_fail else tried_again) + part.tried_again
        open_ += part.open
    return _Part(
        sum(part.width for part in parts),
        any(part.can_fail for part in parts),
        math.prod(part.choices for part in parts),
        open_,
        tried_again,
        sum(part.loops for part in parts),
    )


def _check(part: _Part) -> _Part:
    if part.width > MAX_WIDTH or part.choices > MAX_CHOICES or part.tried_again > 1:
        raise ValueError("too many ways to match the same text")
    return part
