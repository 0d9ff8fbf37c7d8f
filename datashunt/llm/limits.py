"""The rate limits that an endpoint names in the headers of its replies. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from datashunt.items import RateLimits

LARGEST = 1_000_000_000
"""As in a classifier's file; what is more is no limit."""


def stated_limits(headers: Mapping[str, str]) -> RateLimits:
    """OpenAI's `x-ratelimit-limit-requests` and `-tokens`, taken as limits per minute.

    Args:
        headers: of the response; names in lower case, or a mapping that does not mind. What is no whole number
            of at least 1 is passed over.
    """
    return RateLimits(_whole(headers, "requests"), _whole(headers, "tokens"))


def _whole(headers: Mapping[str, str], limit: str) -> int | None:
    text = headers.get(f"x-ratelimit-limit-{limit}", "").strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
    return number if 1 <= number <= LARGEST else None
