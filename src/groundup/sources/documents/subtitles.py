"""Subtitles (SRT, WebVTT): the text alone, cues joined to sentences, what rolling captions repeat read once."""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from groundup.sources.documents.options import ReadOptions, count, decode, read_bytes, split_lines

PAUSE_SECONDS = 3.0  # between two cues, after which a new line begins
MAX_ROLLING_LINES = 4  # on the screen
ROLLING_SHARE = 0.3  # of the cues repeat a line of the one before: captions that roll

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})[,.](\d{1,3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s++([^<>]+)>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <c.yellow>, <00:00:01.000>, {\an8}
_TURN = re.compile(r"[-–—]\s?\S|>>|(?:[A-ZÀ-ÖØ-ÞА-Я][\w.'-]*+\s?){1,4}: ")  # a speaker begins
_SENTENCE_END = re.compile(r"[.!?…。！？♪][\"'”’»)\]]*$")


class _Cue(NamedTuple):
    start: float  # seconds
    end: float
    lines: list[str]


def read_subtitles(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of subtitles. A line ends with a sentence, before another speaker, or at a pause."""
    text = decode(read_bytes(file, name, options), name, options, found)
    cues = [cue for cue in _cues(split_lines([text], name)) if cue.lines]
    n_repeats = sum(_repeated(before.lines, cue.lines) > 0 or _grows(before, cue) for before, cue in pairwise(cues))
    if n_repeats > ROLLING_SHARE * len(cues):
        cues = _unrolled(cues, found)
    yield "".join(_joined(cues))


def _cues(lines: Iterable[str]) -> Iterator[_Cue]:
    """The cues, each with its lines without markup."""
    pending, timing, is_vtt, speaker = list[str](), None, None, ""

    def cue(match: re.Match[str]) -> _Cue:
        nonlocal speaker
        text = pending[: pending.index("")] if is_vtt and "" in pending else [line for line in pending if line]
        shown = []
        for line in text:
            if voice := _VOICE.search(line):
                line = _VOICE.sub("" if voice[1] == speaker else r"\1: ", line)
                speaker = voice[1]
            shown.append(html.unescape(_TAG.sub("", line)).strip())
        return _Cue(_seconds(match.groups()[:4]), _seconds(match.groups()[4:]), [line for line in shown if line])

    for line in map(str.strip, lines):
        if is_vtt is None and line:
            is_vtt = line.startswith("WEBVTT")
        if not (match := _TIMING.fullmatch(line)):
            pending.append(line)
            continue
        if pending and pending[-1].isdigit():  # the number of the cue that begins
            pending.pop()
        if timing:
            yield cue(timing)
        pending, timing = [], match
    if timing:
        yield cue(timing)


def _seconds(parts: Iterable[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds) + float(f"0.{fraction}")


def _repeated(before: list[str], lines: list[str]) -> int:
    """How many of the first `lines` are the last of the cue before."""
    most = min(len(before), len(lines), MAX_ROLLING_LINES)
    return next((n for n in range(most, 0, -1) if before[-n:] == lines[:n]), 0)


def _grows(before: _Cue, cue: _Cue) -> bool:
    """Whether a cue shows the last line of the one before with more words."""
    return cue.lines[0] != before.lines[-1] and cue.lines[0].startswith(f"{before.lines[-1]} ")


def _unrolled(cues: list[_Cue], found: Counter[str]) -> list[_Cue]:
    """The cues without lines that were shown before."""
    kept = [cues[0]._replace(lines=[*cues[0].lines])]
    for before, cue in pairwise(cues):
        n = _repeated(before.lines, cue.lines)
        if grows := not n and _grows(before, cue):
            del kept[-1].lines[-1]
        count(found, "lines that rolling captions repeat are read once", n + grows)
        if cue.lines[n:]:
            kept.append(_Cue(cue.start, cue.end, cue.lines[n:]))
        else:
            kept[-1] = kept[-1]._replace(end=cue.end)
    return kept


def _joined(cues: list[_Cue]) -> Iterator[str]:
    """The lines of all cues, each after the space or line end that parts it from the one before."""
    last, end = "", 0.0
    for cue in cues:
        for n, line in enumerate(cue.lines):
            if last:
                is_new = _SENTENCE_END.search(last) or _TURN.match(line) or (not n and cue.start - end >= PAUSE_SECONDS)
                yield "\n" if is_new else " "
            yield line
            last = line
        end = cue.end
