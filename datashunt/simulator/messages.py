"""Requests and replies of the simulation, apart from how they travel. Imports items only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from datashunt.items import Usage
from datashunt.simulator.window import milliseconds


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `headers` have lower-case names; `path` has no query, `query` the first value of each name."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    query: Mapping[str, str] = field(default_factory=dict)


class Way(Enum):
    """How a reply travels."""

    WHOLE = "whole"
    NEVER = "never"  # the client waits in vain
    RESET = "reset"  # the connection is reset instead
    HALF = "half"  # half of the bytes, then the server's side ends and the other stays open
    SLOW = "slow"  # the body dribbles


@dataclass(frozen=True, slots=True)
class Response:
    """One reply.

    Attributes:
        body: travels as JSON. content: bytes that travel instead.
        billed: the tokens that the ledger books for it, not sent. model: the one that was asked for, not sent.
        way: how it travels. slow_s: seconds from the first byte of a SLOW body to its last.
    """

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    billed: Usage | None = None
    model: str | None = None
    content: bytes | None = None
    way: Way = Way.WHOLE
    slow_s: float = 0.0

    @property
    def payload(self) -> bytes:
        """The bytes of the body."""
        if self.content is not None:
            return self.content
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()


class Refused(Exception):
    """Ends the handling of a request with this reply; never leaves the simulation."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A reply in OpenAI's error format; `kind` is its `type`."""
    body = {"error": {"message": f"simulation: {message}", "type": kind, "param": param, "code": code}}
    return Response(status, body, headers or {})


def throttled(retry_after_s: float, message: str = "limit reached", *, kind: str = "requests") -> Response:
    """A 429 that says when to come back, in seconds and in milliseconds as OpenAI does."""
    return error(429, message, kind=kind, code="rate_limit_exceeded", headers=come_back(retry_after_s))


def come_back(retry_after_s: float) -> dict[str, str]:
    """The headers that say when to come back."""
    ms = milliseconds(retry_after_s)
    return {"Retry-After": f"{ms / 1000:g}", "retry-after-ms": str(ms)}
