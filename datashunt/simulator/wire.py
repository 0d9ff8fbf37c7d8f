"""HTTP/1.1 of one connection, on asyncio. Imports nothing of datashunt but its siblings.

A protocol instead of a thread or task per connection: a reply that waits is a timer, so hundreds of them wait
at no cost. Only what JSON APIs use: bodies with a Content-Length, keep-alive, no chunked requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl

from datashunt.simulator.messages import Refused, Request, Response, Way, error

MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024
UPLOAD = "/v1/files"
MAX_UPLOAD = 200 * 1024 * 1024 + MAX_HEAD
"""Bytes of a form that uploads a file; the file itself may have 200 MiB."""

PIECE_S = 0.05
"""Time between two pieces of a body that dribbles."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)

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
        self._stuck = False

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
        if len(self._buffer) > MAX_HEAD + MAX_UPLOAD:
            self._transport.abort()
        elif not self._busy:
            self._next()

    def finish(self) -> None:
        """Close after the reply that is under way, or now if there is none, or none that ends."""
        self._last = True
        if self._stuck:
            self._transport.abort()
        elif not self._busy:
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
        if self._transport.is_closing():
            return
        if response.way is not Way.WHOLE:
            self._stuck = True
            self._spoiled(response)
            return
        self._transport.write(render(response, last=self._last))
        self._done()

    def _done(self) -> None:
        self._busy = False
        if self._last:
            self._transport.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._next)

    def _spoiled(self, response: Response) -> None:
        """Let the reply go its way; the connection is of no use until it is over, if ever."""
        if response.way is Way.RESET:
            # Linger off: the kernel sends a reset instead of an orderly end.
            connection: socket.socket = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self._transport.abort()
        elif response.way is Way.HALF:
            rendered = render(response, last=self._last)
            self._transport.write(rendered[: len(rendered) - len(response.payload) // 2 - 1])
            with contextlib.suppress(OSError):  # the client left just now
                self._transport.write_eof()
        elif response.way is Way.SLOW:
            payload = response.payload
            self._transport.write(render(response, last=self._last).removesuffix(payload))
            size = max(1, round(len(payload) * PIECE_S / response.slow_s))
            self._dribble(payload, size, response.slow_s * size / max(1, len(payload)))

    def _dribble(self, rest: bytes, size: int, pause_s: float) -> None:
        if self._transport.is_closing():
            return
        if not rest:
            self._stuck = False
            self._done()
            return
        self._transport.write(rest[:size])
        asyncio.get_running_loop().call_later(pause_s, self._dribble, rest[size:], size, pause_s)


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
    path, _, query = words[1].partition("?")
    start, length = end + 4, _body_length(headers, MAX_UPLOAD if path == UPLOAD else MAX_BODY)
    if len(buffer) < start + length:
        return None
    body = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return Request(words[0], path, headers, body, dict(reversed(parse_qsl(query))))


def render(response: Response, *, last: bool) -> bytes:
    """The reply as bytes; `last` announces that the connection closes after it."""
    body = response.payload
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **response.headers}
    head = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if last:
        head.append("Connection: close")
    return "\r\n".join((*head, "", "")).encode("latin-1") + body


def _body_length(headers: dict[str, str], most: int) -> int:
    if "transfer-encoding" in headers:
        raise Refused(error(411, "expected a body with a Content-Length"))
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Refused(error(400, "expected a Content-Length in bytes"))
    if len(length) > 12 or int(length) > most:
        raise Refused(error(413, f"expected a body of at most {most} bytes"))
    return int(length)
