"""One model's engine in a thread of its own, and the way of requests and pieces between it and the event loop."""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from groundup.errors import GroundupError
from groundup.generation.engine import Engine, Piece, Request, Ticket
from groundup.server.schemas import ApiError

MAX_UNREAD_PIECES = 4096  # of one request; a client that lags further behind is dropped
MAX_RETRY_SECONDS = 60

logger = logging.getLogger("groundup.server")


class Part(NamedTuple):
    """A piece of the prompt with this index."""

    prompt: int
    piece: Piece


Item = Part | Exception | None
"""What comes through a stream: pieces, an error, and first of all None, when the engine has taken the request."""


class Stream:
    """Pieces of one request, on the event loop. `close` must be called once, whatever happens."""

    def __init__(self, close: Callable[["Stream"], None]) -> None:
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._close, self._error, self.open = close, False, True

    def put(self, item: Item) -> None:
        """Add an item; none after an error."""
        if self._error or not self.open:
            return
        lags = self._items.qsize() >= MAX_UNREAD_PIECES
        if lags:
            item = ApiError(408, "the client reads too slowly for the rest of the answer", code="client_too_slow")
        self._error = isinstance(item, Exception)
        self._items.put_nowait(item)
        if lags:
            self.close()

    async def added(self) -> None:
        """Wait until the engine has taken the request; raises its error where it does not."""
        if (first := await self._items.get()) is not None:
            assert isinstance(first, Exception)
            raise first

    async def next(self) -> list[Item]:
        """All items that have come since the last call, at least one. An error is the last one."""
        items = [await self._items.get()]
        while not self._items.empty():
            items.append(self._items.get_nowait())
        return items

    def close(self) -> None:
        """Cancel what is not finished."""
        if self.open:
            self.open = False
            self._close(self)


class Worker:
    """Thread that steps an engine while there is something to generate.

    All methods are called on the event loop. An engine that fails, by a bug or for want of memory, fails the requests
    in it and is replaced; where that is impossible, all requests fail.
    """

    def __init__(self, new_engine: Callable[[], Engine], *, max_requests: int) -> None:
        self._new_engine, self._max_requests = new_engine, max_requests
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: set[Stream] = set()
        self._owners: dict[Ticket, tuple[Stream, int]] = {}  # of the thread, as is the engine
        self._engine = new_engine()
        self._slots, self._description = self._engine.slots, self._engine.describe()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._seconds = 1.0  # of a request, running mean
        self._stopping = self._failed = False

    def start(self) -> None:
        """Start the thread; pieces are delivered to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not (self._stopping or self._failed)

    def describe(self) -> str:
        """How the engine computes, in a few words for a user."""
        return self._description

    def requests(self) -> int:
        """Requests in progress, waiting ones included."""
        return len(self._streams)

    async def submit(self, requests: Sequence[Request]) -> Stream:
        """Enqueue the prompts of one request. ApiError, also 429 when too many are in progress; UsageError."""
        if self._stopping:
            raise stopping()
        if not self.alive:
            raise failed()
        if len(self._streams) >= self._max_requests:
            seconds = math.ceil(self._seconds * len(self._streams) / self._slots)
            retry = max(1, min(seconds, MAX_RETRY_SECONDS))
            raise ApiError(
                429,
                f"{len(self._streams)} requests are in progress, as many as are accepted; try again in {retry} s",
                code="too_many_requests",
                headers={"Retry-After": str(retry)},
            )
        began = time.monotonic()
        stream = Stream(lambda stream: self._closed(stream, began))
        self._streams.add(stream)
        self._commands.put(lambda: self._add(stream, requests))
        try:
            await stream.added()
        except BaseException:
            stream.close()
            raise
        return stream

    def fail_all(self) -> None:
        """Accept no more requests, and end those in progress by an error."""
        self._stopping = True
        for stream in list(self._streams):
            stream.put(stopping())

    def stop(self) -> None:
        """End the thread, after the step that it computes."""
        self.fail_all()
        self._commands.put(None)
        self._thread.join()

    def _give_up(self) -> None:
        """Fail all requests, and later ones: the thread has ended."""
        self._failed = True
        for stream in list(self._streams):
            stream.put(failed())

    def _closed(self, stream: Stream, began: float) -> None:
        self._streams.discard(stream)
        self._seconds += 0.1 * (time.monotonic() - began - self._seconds)
        self._commands.put(lambda: self._cancel(stream))

    # Below: on the thread.

    def _run(self) -> None:
        while not self._generate():
            del self._engine  # first: there may be no memory for two
            try:
                self._engine = self._new_engine()
            except Exception:
                logger.exception("the engine cannot be restarted; restart the server")
                self._loop.call_soon_threadsafe(self._give_up)
                return

    def _generate(self) -> bool:
        """Step the engine until the end of the worker; False where the engine fails."""
        try:
            while True:
                while self._engine.idle or not self._commands.empty():
                    command = self._commands.get()
                    if command is None:
                        return True
                    command()
                self._deliver(self._engine.step())
        except Exception:  # a bug of groundup, or no memory
            logger.exception("the engine failed and is restarted")
            self._send([(stream, failed()) for stream, _ in self._owners.values()])
            self._owners.clear()
            return False

    def _add(self, stream: Stream, requests: Sequence[Request]) -> None:
        try:
            for index, request in enumerate(requests):
                self._owners[self._engine.add(request, owner=stream)] = stream, index
        except GroundupError as error:
            self._cancel(stream)
            self._send([(stream, error)])
        except Exception:
            self._send([(stream, failed())])
            raise
        else:
            self._send([(stream, None)])

    def _cancel(self, stream: Stream) -> None:
        for ticket in [ticket for ticket, (owner, _) in self._owners.items() if owner is stream]:
            del self._owners[ticket]
            self._engine.cancel(ticket)

    def _deliver(self, pieces: Sequence[Piece]) -> None:
        items: list[tuple[Stream, Item]] = []
        for piece in pieces:
            stream, index = self._owners[piece.ticket]
            items.append((stream, Part(index, piece)))
        self._send(items)

    def _send(self, items: list[tuple[Stream, Item]]) -> None:
        def put() -> None:
            for stream, item in items:
                stream.put(item)

        if items:
            self._loop.call_soon_threadsafe(put)


def stopping() -> ApiError:
    """The answer of a server that is about to end."""
    return ApiError(503, "the server is stopping; send the request to another one, or later", code="server_stopping")


def failed() -> ApiError:
    """The answer where the engine failed."""
    return ApiError(500, "the model failed; the server has written why to its log", code="engine_failed")
