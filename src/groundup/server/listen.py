"""Listening on a port, and an orderly end: uvicorn with our answers to signals."""

import asyncio
import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from groundup.errors import UsageError

STOP_SECONDS = 8  # after a signal, requests in progress may take so long; docker kills after 10
CLEANUP_SECONDS = 1  # and then their connections may take so long to close


def bind(host: str, port: int) -> socket.socket:
    """A socket with this address, not listening yet. UsageError where that is impossible."""
    if not 0 <= port < 1 << 16:  # getaddrinfo takes other numbers modulo this
        raise UsageError(f"--port {port}: must be from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Of sockets that do not name TCP, asyncio does not switch Nagle's algorithm off, which delays answers by 40 ms.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host {host}: is no address of this machine ({error}); give 127.0.0.1, or 0.0.0.0"
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"--port {port}: another program uses it; give another one, or 0 for any free one"
            ) from None
        raise UsageError(f"--host {host} --port {port}: cannot be used ({error}); give others") from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only programs on this machine can connect."""
    return ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = bound.getsockname()[:2]
    if ip_address(host.partition("%")[0]).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listener(uvicorn.Server):
    """Answers requests to an app of `create_app` until SIGINT or SIGTERM; `on_ready` is called once it does.

    Requests in progress then have some seconds to finish, and end by an error after that.
    """

    def __init__(self, app: FastAPI, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",  # the app logs errors itself; what clients send does not belong into a log
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS + CLEANUP_SECONDS,
        )
        super().__init__(config)
        self._fail_all, self._on_ready = app.state.server.fail_all, on_ready

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(STOP_SECONDS, self._fail_all)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order at the first signal, at once at the second. uvicorn would raise the signal again at the end."""
        self.force_exit = self.should_exit
        self.should_exit = True
