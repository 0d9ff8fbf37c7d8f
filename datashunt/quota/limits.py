"""What a quota limits, and what asking for a slot brings. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["alive", "failed", "stopped"]
"""What a request says of the endpoint; `stopped`: nothing will work until a person acts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What all processes together may use with one key and model.

    Attributes:
        rpm: requests per minute. tpm: tokens per minute. None: what the endpoint's replies say, if they do.
        concurrency: requests at the same time, those included whose slot lies in the near future; None: any.
    """

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """Leave to send one request.

    Attributes:
        id: names it.
        wait_s: seconds from now.
        at_ms: the same as a time of the store's clock; what the request brings is judged by it.
        probe: the endpoint failed lately, and this request finds out whether it still does.
    """

    id: str
    wait_s: float
    at_ms: float = 0.0
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """No slot within the wait that was offered; nothing was used up. Try again in `retry_after_s` seconds.

    `others_wait`: slots of others lie in the future, so somebody will ask again without us.
    """

    retry_after_s: float
    others_wait: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """The circuit breaker is open; nothing was used up. The endpoint is tried again in `retry_after_s` seconds."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of an endpoint after a request. `open`: it is not asked now. `news`: that has just changed."""

    open: bool = False
    news: bool = False


@dataclass(frozen=True, slots=True)
class Busy:
    """As many requests are under way as may be; nothing was used up."""
