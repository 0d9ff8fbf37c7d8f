"""Requests and replies of the simulation, apart from how they travel. Imports items only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datashunt.items import Usage
from datashunt.simulator.window import milliseconds


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `headers` have lower-case names; `path` has no query."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One reply; `body` travels as JSON. `billed`: the tokens that the ledger books for it, not sent."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    billed: Usage | None = None


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
    ms = milliseconds(retry_after_s)
    headers = {"Retry-After": f"{ms / 1000:g}", "retry-after-ms": str(ms)}
    return error(429, message, kind=kind, code="rate_limit_exceeded", headers=headers)
