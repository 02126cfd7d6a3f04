"""Limits of the server, and what every request passes before it is handled: host, key, size of the body."""

import asyncio
import hmac
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundup.server.schemas import ApiError

OPEN_ROUTES = ("/health",)  # answered without the key
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
BODY_SECONDS = 30.0  # in which a body must have arrived
STALL_SECONDS = 60.0  # in which a client must take the next part of a stream


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may take."""

    requests: int = 64
    """requests in progress for one model, waiting ones included"""
    tokens: int = 16_384
    """`max_tokens` of a request"""
    seconds: float = 600.0
    """from a request to the end of its answer"""
    body_bytes: int = 2 << 20


def error_response(error: ApiError) -> Response:
    """The error as an answer in OpenAI's form."""
    return Response(error.body, error.status, error.headers, "application/json")


class Gate:
    """ASGI middleware: refuses other hosts, requests without the key, and bodies that are too large or too slow.

    `hosts`: the names under which browsers may reach the server; none: any. A page of another site whose name was made
    to point here (DNS rebinding) sends its own.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, key: str | None, hosts: Collection[str] = ()) -> None:
        self.app, self.limits, self.hosts = app, limits, hosts
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            if scope["path"] not in OPEN_ROUTES:
                self._check_key(headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_read() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, receive_read, send)

    def _check_host(self, headers: Headers) -> None:
        name = headers.get("host", "").rpartition("]")
        host = name[0].lstrip("[") if name[1] else name[2].partition(":")[0]
        if self.hosts and host.lower() not in self.hosts:
            raise ApiError(
                403,
                "the request is for another host; use 127.0.0.1 or localhost, or start the server with a key "
                "(GROUNDUP_API_KEY)",
                code="host_not_allowed",
            )

    def _check_key(self, headers: Headers) -> None:
        if self._key is None:
            return
        given = headers.getlist("authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Bytes: compare_digest refuses text that is not ASCII. Headers are decoded as latin-1.
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode("latin-1"), self._key):
            raise ApiError(
                401,
                "the key is missing or wrong; send one header `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self.limits.body_bytes
        too_large = ApiError(413, f"the body is too large: at most {limit:,} bytes are accepted", code="body_too_large")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):  # complete, or the client has left
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds; send it again") from None
