"""Requests and tokens per minute over an exact sliding window. Pure: the caller says what time it is."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Excess:
    """Why a request does not fit. `limit`: `requests` or `tokens`. `never`: it is larger than the limit."""

    limit: str
    retry_after_s: float
    never: bool = False


class Window:
    """What was taken in the last `window_s` seconds, against both limits.

    A request that does not fit takes nothing. Times are seconds of any clock that never goes back.
    """

    def __init__(self, rpm: int | None, tpm: int | None, window_s: float) -> None:
        self.rpm = rpm
        self.tpm = tpm
        self.window_s = window_s
        self._taken: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def take(self, now: float, tokens: int) -> Excess | None:
        """Take one request of `tokens`, or say why not and when it would fit if nothing else came."""
        self._forget(now)
        if self.tpm is not None and tokens > self.tpm:
            return Excess("tokens", self.window_s, never=True)
        waits = {"requests": self._wait_for_a_request(now), "tokens": self._wait_for_tokens(now, tokens)}
        limit = max(waits, key=lambda name: waits[name])
        if waits[limit] > 0:
            return Excess(limit, waits[limit])
        if self.rpm is not None or self.tpm is not None:
            self._taken.append((now, tokens))
            self._tokens += tokens
        return None

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` headers for each limit there is; reset is when all of it is free again."""
        self._forget(now)
        reset = self._taken[-1][0] + self.window_s - now if self._taken else 0.0
        used = {"requests": len(self._taken), "tokens": self._tokens}
        headers = {}
        for name, limit in (("requests", self.rpm), ("tokens", self.tpm)):
            if limit is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(limit - used[name])
                headers[f"x-ratelimit-reset-{name}"] = duration(reset)
        return headers

    def _forget(self, now: float) -> None:
        while self._taken and now - self._taken[0][0] >= self.window_s:
            self._tokens -= self._taken.popleft()[1]

    def _wait_for_a_request(self, now: float) -> float:
        if self.rpm is None or len(self._taken) < self.rpm:
            return 0.0
        return self._taken[len(self._taken) - self.rpm][0] + self.window_s - now

    def _wait_for_tokens(self, now: float, tokens: int) -> float:
        if self.tpm is None:
            return 0.0
        excess = self._tokens + tokens - self.tpm
        if excess <= 0:
            return 0.0
        # Tokens that fit the limit fit the empty window: the search always ends.
        freed = accumulate(tokens for _, tokens in self._taken)
        at = next(at for (at, _), sum_ in zip(self._taken, freed, strict=True) if sum_ >= excess)
        return at + self.window_s - now


class Peak:
    """The most requests, and the most tokens, that any span of `window_s` seconds held."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_tokens = 0
        self.requests = 0
        self.tokens = 0

    def add(self, now: float, tokens: int) -> None:
        """One request of so many tokens arrived; times never go back."""
        while self._recent and now - self._recent[0][0] >= self._window_s:
            self._recent_tokens -= self._recent.popleft()[1]
        self._recent.append((now, tokens))
        self._recent_tokens += tokens
        self.requests = max(self.requests, len(self._recent))
        self.tokens = max(self.tokens, self._recent_tokens)


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up: who waits so long has waited enough."""
    return math.ceil(round(seconds * 1000, 6))


def duration(seconds: float) -> str:
    """As OpenAI writes it: `350ms`, `12.4s`, `1m0s`."""
    ms = milliseconds(seconds)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
