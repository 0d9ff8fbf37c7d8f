"""HTTP/1.1 of one connection, on asyncio. Imports nothing of datashunt but its siblings.

A protocol instead of a thread or task per connection: a reply that waits is a timer, so hundreds of them wait
at no cost. Only what JSON APIs use: bodies with a Content-Length, keep-alive, no chunked requests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from datashunt.simulator.messages import Refused, Request, Response, error

MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024

Send = Callable[[Response], None]
Answer = Callable[[Request, Send], None]
"""Answers a request by calling `Send` once, at once or later, in the loop's thread."""


class Connection(asyncio.Protocol):
    """Reads requests one after the other, and writes each reply before it looks at the next request."""

    def __init__(self, answer: Answer, connections: set[Connection]) -> None:
        self._answer = answer
        self._connections = connections
        self._buffer = bytearray()
        self._busy = False
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone; a reply still to come goes nowhere."""
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._buffer += data
        if len(self._buffer) > MAX_HEAD + MAX_BODY:
            self._transport.abort()
        elif not self._busy:
            self._next()

    def finish(self) -> None:
        """Close after the reply that is under way, or now if there is none."""
        self._last = True
        if not self._busy:
            self._transport.close()

    def abort(self) -> None:
        """Close now, whatever is under way."""
        self._transport.abort()

    def _next(self) -> None:
        try:
            request = take(self._buffer)
        except Refused as refused:
            self._last = True
            self._send(refused.response)
            return
        if request is not None:
            self._busy = True
            self._last |= request.headers.get("connection", "").lower() == "close"
            self._answer(request, self._send)

    def _send(self, response: Response) -> None:
        self._busy = False
        if self._transport.is_closing():
            return
        self._transport.write(render(response, last=self._last))
        if self._last:
            self._transport.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._next)


def take(buffer: bytearray) -> Request | None:
    """Cut the first request off the buffer; None while it is not complete.

    Raises:
        Refused: with the reply to send before closing, when these bytes can become no request.
    """
    end = buffer.find(b"\r\n\r\n")
    if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
        raise Refused(error(431, f"expected at most {MAX_HEAD} bytes of headers"))
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1":
        raise Refused(error(400, "expected a request of HTTP/1.1"))
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    start, length = end + 4, _body_length(headers)
    if len(buffer) < start + length:
        return None
    body = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return Request(words[0], words[1].partition("?")[0], headers, body)


def render(response: Response, *, last: bool) -> bytes:
    """The reply as bytes; `last` announces that the connection closes after it."""
    body = json.dumps(response.body, ensure_ascii=False, separators=(",", ":")).encode()
    head = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    if last:
        head.append("Connection: close")
    return "\r\n".join((*head, "", "")).encode("latin-1") + body


def _body_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refused(error(411, "expected a body with a Content-Length"))
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Refused(error(400, "expected a Content-Length in bytes"))
    if len(length) > 12 or int(length) > MAX_BODY:
        raise Refused(error(413, f"expected a body of at most {MAX_BODY} bytes"))
    return int(length)
