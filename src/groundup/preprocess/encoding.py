"""Parallel encoding of documents to ids, with the same result and order as on one core."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np

from groundup.data.shards import SplitName, SplitRule
from groundup.errors import TokenizerError
from groundup.preprocess.split import split_document
from groundup.sources.corpus import Corpus, Position
from groundup.sources.text import Document, chunk_text
from groundup.tokenizers import Ids, Tokenizer
from groundup.tokenizers.hf_backend import known_characters

# Size of a job: large enough that handing it to a thread costs nothing, small enough that all pending jobs together
# take far less memory than Python itself.
JOB_CHARS = 1 << 18
JOB_PIECES = 4096

# Characters encoded per call of the tokenizer. Some libraries keep hundreds of bytes per character while they work, and
# are twice as fast or more when that fits into a core's cache.
ENCODE_CHARS = 1 << 13

# Characters of each job that are decoded again, to estimate how much of the text a lossy tokenizer loses.
SAMPLE_CHARS = 1 << 11

Item = TypeVar("Item")
Result = TypeVar("Result")


class Piece(NamedTuple):
    """A chunk of a document's text, with its split."""

    split: SplitName
    source: str
    offset: int  # of the document
    line: int  # lines of the document before it
    text: str
    first: bool  # of the document in its split
    last: bool


class Job(NamedTuple):
    """Pieces that are encoded together, and the position to resume from when they are written."""

    pieces: list[Piece]
    position: Position
    chunks: int  # pieces done of the document at `position`
    input_bytes: int  # read up to here


class EncodedPiece(NamedTuple):
    """Ids of a piece, the size of its text, and, for a sample, its characters and how many the tokenizer knows."""

    ids: Ids
    n_bytes: int
    sampled: int = 0
    known: int = 0


def iter_jobs(corpus: Corpus, rule: SplitRule, position: Position, chunks: int, full: set[SplitName]) -> Iterator[Job]:
    """Jobs from `position` on, without the first `chunks` pieces of its document and without splits that are `full`."""
    batch: list[Piece] = []
    chars = 0
    for current, document in corpus.documents_from(position):
        done, chunks = chunks, 0
        for n, piece in enumerate(_pieces(document, rule), start=1):
            if n <= done or piece.split in full:
                continue
            batch.append(piece)
            chars += len(piece.text)
            if chars >= JOB_CHARS or len(batch) >= JOB_PIECES:
                yield Job(batch, current, n, corpus.bytes_read)
                batch, chars = [], 0
        position = Position(current.input, current.documents + 1, current.offset + 1, current.total + 1)
    if batch:
        yield Job(batch, position, 0, corpus.bytes_read)


def _pieces(document: Document, rule: SplitRule) -> Iterator[Piece]:
    line = 0
    for split, chunks in split_document(document, rule):
        first, text = True, next(chunks, None)
        while text is not None:
            following = next(chunks, None)
            yield Piece(split, document.source, document.offset, line, text, first, following is None)
            line += text.count("\n")
            first, text = False, following


def encode_job(job: Job, stop: Event, tokenizer: Tokenizer) -> list[EncodedPiece]:
    """The ids of each piece. Raises TokenizerError, naming source and line, for text that cannot be encoded.

    With a lossy tokenizer, the first piece is also used as a sample. CancelledError once `stop` is set.
    """
    encoded = [EncodedPiece(_ids(piece, stop, tokenizer), len(piece.text.encode())) for piece in job.pieces]
    if tokenizer.lossy:
        text = job.pieces[0].text[:SAMPLE_CHARS]
        ids = (id_ for id_ in tokenizer.encode(text).tolist() if id_ != tokenizer.unknown)
        sampled, known = known_characters(text, tokenizer.decode(ids))
        encoded[0] = encoded[0]._replace(sampled=sampled, known=known)
    return encoded


def encode_parts(text: str, tokenizer: Tokenizer, stop: Event | None = None) -> Ids:
    """The ids of a text of any length in constant memory, encoded in parts cut where it changes no id.

    CancelledError once `stop` is set.
    """
    ids = [np.empty(0, np.uint32)]
    for part in chunk_text(text, ENCODE_CHARS):
        if stop and stop.is_set():
            raise CancelledError
        ids.append(tokenizer.encode(part))
    return np.concatenate(ids)


def _ids(piece: Piece, stop: Event, tokenizer: Tokenizer) -> Ids:
    try:
        return encode_parts(piece.text, tokenizer, stop)
    except TokenizerError as error:
        document = f", document at {piece.offset}" if piece.offset else ""
        raise TokenizerError(f"{piece.source}{document}, line {_line_of_error(piece, tokenizer)}: {error}") from None


def _line_of_error(piece: Piece, tokenizer: Tokenizer) -> int:
    for number, line in enumerate(piece.text.split("\n"), start=piece.line + 1):
        try:
            tokenizer.encode(line)
        except TokenizerError:
            return number
    return piece.line + 1  # the line end itself, of which this is the first


def longest_prefix(text: str, room: int, tokenizer: Tokenizer) -> str:
    """The longest prefix of `text` with at most `room` tokens that a binary search finds."""
    low, high = 0, len(text)  # `low` characters fit, more than `high` may not
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.encode(text[:middle])) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def map_in_order(
    function: Callable[[Item, Event], Result], items: Iterator[Item], threads: int
) -> Generator[tuple[Item, Result]]:
    """Each item with its result, computed by `threads` threads, which are at most a few items ahead.

    The event is set when no more results are wanted; the end of the generator waits for the calls under way.
    """
    stop = Event()
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="groundup") as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(function, item, stop)))
                if len(pending) > threads + 1:
                    first, future = pending.popleft()
                    yield first, future.result()
            for item, future in pending:
                yield item, future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
