"""What a quota limits, and what asking for a slot brings. Pure data."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Leave to send one request, `wait_s` seconds from now."""

    id: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """No slot within the wait that was offered; nothing was used up. Try again in `retry_after_s` seconds.

    `others_wait`: slots of others lie in the future, so somebody will ask again without us.
    """

    retry_after_s: float
    others_wait: bool = False


@dataclass(frozen=True, slots=True)
class Busy:
    """As many requests are under way as may be; nothing was used up."""
