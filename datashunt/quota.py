"""The LLM quota that all processes and hosts share: one Lua script on Redis or Valkey. Imports errors only.

Requests and tokens are checked together, in one atomic step, on the server's clock. Slots are handed out
ahead of time and in order, so that those who wait do not all come back at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import cast
from urllib.parse import urlsplit
from uuid import uuid4

import redis

from datashunt.errors import BrokerError, LLMRejected, SettingsError

WINDOW_S = 60.6
"""A minute, and 1 % for requests that take unequally long to arrive."""
BURST_S = 1.0
"""How much unused allowance may be made up for at once, as time at the limit's rate."""

_SETTLE = """
-- KEYS as for a slot. ARGV: slot id, tokens used.
local reserved = redis.call('HGET', KEYS[3], ARGV[1])
if reserved then
  local more = ARGV[2] - reserved
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'tokens', more)
  if redis.call('HEXISTS', KEYS[1], 'tokens_arrival') == 1 then
    redis.call('HINCRBYFLOAT', KEYS[1], 'tokens_arrival', more * redis.call('HGET', KEYS[1], 'per_token'))
  end
end
"""
_PAUSE = """
-- KEYS as for a slot. ARGV: milliseconds.
local clock = redis.call('TIME')
local till = clock[1] * 1000 + clock[2] / 1000 + ARGV[1]
if till > tonumber(redis.call('HGET', KEYS[1], 'paused') or 0) then
  redis.call('HSET', KEYS[1], 'paused', string.format('%.3f', till))
  redis.call('PEXPIRE', KEYS[1], 86400000 + ARGV[1])
end
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens per minute, all processes together; None: no limit."""

    rpm: int | None = None
    tpm: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """Leave to send one request, `wait_s` seconds from now."""

    id: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """No slot within the wait that was offered; nothing was used up. Try again in `retry_after_s` seconds."""

    retry_after_s: float


class Quota:
    """The shared allowance. Safe for threads; connects when first used."""

    def __init__(self, url: str) -> None:
        """Args: url: redis://, rediss://, valkey://, valkeys:// or unix://.

        Raises:
            SettingsError: it is no such URL.
        """
        self._where = urlsplit(url).hostname or "the given socket"
        try:
            # redis-py speaks to Valkey too, but does not know the names of its schemes.
            self._redis = redis.Redis.from_url(
                "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url,
                socket_timeout=10.0,
                socket_connect_timeout=5.0,
                health_check_interval=30,
            )
        except ValueError:
            raise SettingsError(
                "DATASHUNT_QUOTA_URL (or the broker's, which stands in for it): expected redis://host:port/0"
                " or valkey://host:port/0"
            ) from None
        self._acquire = self._redis.register_script(files("datashunt").joinpath("quota.lua").read_text("utf-8"))
        self._settle = self._redis.register_script(_SETTLE)
        self._pause = self._redis.register_script(_PAUSE)

    def acquire(self, key: str, tokens: int, limits: Limits, *, max_wait_s: float) -> Slot | Refused:
        """Reserve one request of so many tokens.

        The caller sleeps for the slot's `wait_s`, sends, and settles. A slot that is never settled counts for
        a minute at what was reserved.

        Args:
            key: whose limits these are: endpoint, key and model.
            tokens: estimate of prompt and reply together.
            limits: per minute. Without limits only a pause makes anyone wait.
            max_wait_s: longest wait the caller accepts.

        Raises:
            LLMRejected: kind `over_token_limit`: the request alone exceeds the tokens of a minute.
            BrokerError: the store cannot be reached.
        """
        if limits.tpm is not None and tokens > limits.tpm:
            raise LLMRejected(
                f"the request needs about {tokens} tokens and llm.tpm allows {limits.tpm} a minute: shorten"
                " the item or raise the limit",
                kind="over_token_limit",
            )
        slot = uuid4().hex
        arguments: list[str | int] = [
            slot,
            tokens,
            limits.rpm or 0,
            limits.tpm or 0,
            round(max_wait_s * 1000),
            round(WINDOW_S * 1000),
            round(BURST_S * 1000),
        ]
        with self._reachable():
            granted, wait_ms = cast("list[int]", self._acquire(_keys(key), arguments))
        return Slot(slot, wait_ms / 1000) if granted else Refused(wait_ms / 1000)

    def settle(self, key: str, slot: Slot, tokens_used: int) -> None:
        """Put the real usage in place of the estimate; 0 when nothing was sent.

        Raises:
            BrokerError: the store cannot be reached.
        """
        with self._reachable():
            self._settle(_keys(key), [slot.id, tokens_used])

    def pause(self, key: str, seconds: float) -> None:
        """Grant nothing before `seconds` have passed, to anybody; a longer pause that holds is kept.

        Raises:
            BrokerError: the store cannot be reached.
        """
        with self._reachable():
            self._pause(_keys(key), [round(seconds * 1000)])

    def ping(self) -> None:
        """Reach the store once.

        Raises:
            BrokerError: it cannot be reached.
        """
        with self._reachable():
            self._redis.ping()

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise BrokerError(
                f"the quota store at {self._where} cannot be used ({type(error).__name__}): check that it"
                " runs, and DATASHUNT_QUOTA_URL (by default the broker)"
            ) from error


def _keys(key: str) -> list[str]:
    tag = f"datashunt:quota:{{{key}}}"
    return [tag, f"{tag}:log", f"{tag}:sizes"]
