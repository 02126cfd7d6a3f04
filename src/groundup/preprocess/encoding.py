"""Documents to ids, on all cores, in the order and with the result of a single one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from groundup.data.shards import SplitName
from groundup.errors import TokenizerError
from groundup.preprocess.split import ByHash, TailSplit
from groundup.sources.corpus import Corpus, Position
from groundup.sources.text import Document, chunk_text
from groundup.tokenizers import Ids, Tokenizer
from groundup.tokenizers.roundtrip import known_characters

# What a thread gets at a time: enough that handing it over costs nothing, little enough that what is under way for all
# threads together stays far below the memory that Python itself takes.
JOB_CHARS = 1 << 18
JOB_PIECES = 4096

# Characters that a tokenizer gets at a time. Some libraries keep hundreds of bytes for each while they work on them,
# and are twice as fast or more where all that fits into the cache of a core.
ENCODE_CHARS = 1 << 13

# Characters of each job that are decoded again, to know how much of the text a lossy tokenizer loses.
SAMPLE_CHARS = 1 << 11

_NONE: Ids = np.empty(0, dtype=np.uint32)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Piece(NamedTuple):
    """A chunk of a document's text that goes into one split."""

    split: SplitName
    source: str
    offset: int  # of the document
    line: int  # lines of the document before it
    text: str
    first: bool  # of the document in its split
    last: bool


class Job(NamedTuple):
    """Pieces that are encoded together, and where to go on when they are written."""

    pieces: list[Piece]
    place: Position
    chunks: int  # pieces done of the document at `place`
    at: int  # bytes of input up to here


class Encoded(NamedTuple):
    """The ids of a piece, and the bytes of text they stand for; of a sample, its characters and how many are known."""

    ids: Ids
    n_bytes: int
    sampled: int = 0
    known: int = 0


def jobs(corpus: Corpus, rule: ByHash | TailSplit, place: Position, chunks: int, full: set[SplitName]) -> Iterator[Job]:
    """The work from the document at `place` on, of which `chunks` pieces are done, but for splits that are `full`."""
    batch: list[Piece] = []
    chars = 0
    for here, document in corpus.documents_from(place):
        done, chunks = chunks, 0
        for n, piece in enumerate(_pieces(document, rule), start=1):
            if n <= done or piece.split in full:
                continue
            batch.append(piece)
            chars += len(piece.text)
            if chars >= JOB_CHARS or len(batch) >= JOB_PIECES:
                yield Job(batch, here, n, corpus.bytes_read)
                batch, chars = [], 0
        place = Position(here.input, here.documents + 1, here.offset + 1, here.total + 1)
    if batch:
        yield Job(batch, place, 0, corpus.bytes_read)


def _pieces(document: Document, rule: ByHash | TailSplit) -> Iterator[Piece]:
    line = 0
    for split, chunks in rule.parts(document):
        first, text = True, next(chunks, None)
        while text is not None:
            following = next(chunks, None)
            yield Piece(split, document.source, document.offset, line, text, first, following is None)
            line += text.count("\n")
            first, text = False, following


def encode(job: Job, tokenizer: Tokenizer) -> list[Encoded]:
    """The ids of each piece. Raises TokenizerError, naming source and line, for text that cannot be expressed.

    Of a lossy tokenizer, the first piece is a sample as well.
    """
    encoded = [Encoded(_ids(piece, tokenizer), len(piece.text.encode())) for piece in job.pieces]
    if tokenizer.lossy:
        sampled, known = _sample(job.pieces[0].text[:SAMPLE_CHARS], tokenizer)
        encoded[0] = encoded[0]._replace(sampled=sampled, known=known)
    return encoded


def _sample(text: str, tokenizer: Tokenizer) -> tuple[int, int]:
    ids = (id_ for id_ in tokenizer.encode(text).tolist() if id_ != tokenizer.unknown)
    return known_characters(text, tokenizer.decode(ids))


def encode_parts(text: str, tokenizer: Tokenizer) -> Ids:
    """The ids of a text of any length, in flat memory: part by part, cut where no tokenizer notices."""
    return np.concatenate([_NONE, *map(tokenizer.encode, chunk_text(text, ENCODE_CHARS))])


def _ids(piece: Piece, tokenizer: Tokenizer) -> Ids:
    try:
        return encode_parts(piece.text, tokenizer)
    except TokenizerError as error:
        document = f", document at {piece.offset}" if piece.offset else ""
        line = _line_of_error(piece, tokenizer)
        raise TokenizerError(f"{piece.source}{document}, line {line}: {error}") from None


def _line_of_error(piece: Piece, tokenizer: Tokenizer) -> int:
    for number, line in enumerate(piece.text.split("\n"), start=piece.line + 1):
        try:
            tokenizer.encode(line)
        except TokenizerError:
            return number
    return piece.line + 1  # it is the line end itself, of which this is the first


def longest_prefix(text: str, room: int, tokenizer: Tokenizer) -> str:
    """A beginning of `text` that takes at most `room` tokens, as long as a search by halves finds it."""
    low, high = 0, len(text)  # as far as is known, `low` characters fit and more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.encode(text[:middle])) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def in_order(function: Callable[[Item], Result], items: Iterator[Item], threads: int) -> Generator[tuple[Item, Result]]:
    """Each item with its result, computed by `threads` threads that are never more than a few items ahead."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="groundup") as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                if len(pending) > threads + 1:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
