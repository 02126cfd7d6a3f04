"""Lines of held-out text at which samples begin, and what follows them there."""

import re
from itertools import pairwise
from typing import NamedTuple

from groundup.data.shards import Manifest, Tokens
from groundup.tokenizers.base import Tokenizer

MIN_TOKENS, MAX_TOKENS = 256, 2000  # decoded for an opening, to find a line in
MIN_CHARACTERS, MAX_CHARACTERS = 16, 72  # of a prompt; a line that is shorter takes the next one with it

# Where a text may begin, the best first: after an empty line, a line end, a sentence, a space.
_BEGINNINGS = tuple(map(re.compile, (r"\n\s*\n\s*", r"\n\s*", r"[.!?…][\"'”’)\]]*\s+", r"\s+", r"[。！？]")))


class Opening(NamedTuple):
    """The beginning of a piece of held-out text, and the text after it, to its document's end at most."""

    prompt: str
    continuation: str


def openings(manifest: Manifest, val: Tokens, tokenizer: Tokenizer, n: int) -> list[Opening]:
    """Up to `n` openings, evenly spread over the validation split of a prepared folder; fewer where that is short.

    A prompt begins a document, paragraph, line or sentence if there is one nearby, otherwise a word, and ends with a
    word: a complete line if that is short enough. Raises DataError where the tokens cannot be read.
    """
    by_document = begins_documents(manifest)
    n = min(n, max(1, len(val) // MIN_TOKENS))
    found = [_opening(val, tokenizer, len(val) * i // n, len(val) // n, by_document=by_document) for i in range(n)]
    return list(dict.fromkeys(opening for opening in found if opening.prompt))


def begins_documents(manifest: Manifest) -> bool:
    """Whether complete documents are held out, of many: a model of few has hardly seen one begin."""
    return manifest.split.rule == "documents by hash"


def _opening(val: Tokens, tokenizer: Tokenizer, start: int, n: int, *, by_document: bool) -> Opening:
    """The first opening in the `n` tokens from `start` on; `by_document`: complete documents are held out."""
    ids = val.read(start, min(MAX_TOKENS, n)).tolist()
    ends = [i for i, token in enumerate(ids) if token == tokenizer.end_of_text]
    documents = [ids[a + 1 : b] for a, b in pairwise([-1, *ends, len(ids)])]  # parts of documents, cut at both ends
    if by_document and len(documents) > 2:
        chosen, is_beginning = documents[1], True
    else:
        chosen = max(documents, key=len)
        is_beginning = by_document and (start == 0 or chosen is not documents[0])
    text = tokenizer.decode_bytes(chosen).decode("utf-8", "ignore")
    if not is_beginning:
        half = text[: len(text) // 2]
        matches = (pattern.search(half) for pattern in _BEGINNINGS)
        text = text[next((match.end() for match in matches if match), 0) :]
    text = text.lstrip()
    prompt = _first_line(text)
    return Opening(prompt, text[len(prompt) :])


def _first_line(text: str) -> str:
    """The first line, or lines if it is short, of a text; cut after a word if it is long."""
    end = next((match.start() for match in re.finditer(r"\n", text) if match.start() >= MIN_CHARACTERS), len(text))
    line = text[:end].rstrip()
    if len(line) <= MAX_CHARACTERS:
        return line
    cut = line[: MAX_CHARACTERS + 1].rstrip().rpartition(" ")[0].rstrip()
    return cut or line[: MIN_CHARACTERS + 1]
