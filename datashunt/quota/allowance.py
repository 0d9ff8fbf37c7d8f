"""The store of the shared quota. Requests, tokens and concurrency are checked together, in one atomic step.

Slots are handed out ahead of time and in order, so that those who wait do not all come back at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import redis

from datashunt.errors import BrokerError, LLMRejected, SettingsError, tls_fault
from datashunt.quota.limits import Busy, Health, Limits, Open, Refused, Slot, Verdict
from datashunt.quota.turns import ALONE, Turn, in_turn

WINDOW_S = 60.6
"""A minute, and 1 % for requests that take unequally long to arrive."""
BURST_S = 1.0
"""How much unused allowance may be made up for at once, as time at the limit's rate."""
LATE_S = 0.3
"""How long after its time a slot may still be used: half of what the window has room for."""
STATED_S = 3600.0
"""How long limits hold that an endpoint named."""
FAILURES = 5
"""So many failures in a row open the circuit breaker of a key."""
PROBE_S = 2.0
"""How long after a failure an endpoint is tried again, by one request."""
HUNG_S = 4.0
"""How long that request may take before another one tries too."""
STOPPED_S = 30.0
"""How long after a refusal that only a person can mend an endpoint is tried again."""
_GRANTED, _BUSY, _TOO_LARGE, _OPEN = 1, 2, 3, 4


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
        self._acquire = self._script("acquire")
        self._begin = self._script("begin")
        self._settle = self._script("settle")
        self._pause = self._script("pause")
        self._stated: dict[str, tuple[Limits, float]] = {}

    def _script(self, name: str) -> Any:
        """A script behind what all of them begin with."""
        folder = files("datashunt.quota")
        return self._redis.register_script(
            folder.joinpath("common.lua").read_text("utf-8") + folder.joinpath(f"{name}.lua").read_text("utf-8")
        )

    def acquire(
        self,
        key: str,
        tokens: int,
        limits: Limits,
        *,
        max_wait_s: float,
        first_wait_s: float = 0.0,
        hold_s: float = 70.0,
        turn: Turn = ALONE,
    ) -> Slot | Refused | Busy | Open:
        """Reserve one request of so many tokens.

        The caller sleeps for the slot's `wait_s`, calls `begin` if that was more than 0, sends, and settles. A
        slot that is never settled counts for a minute at what was reserved.

        Args:
            key: whose limits these are: endpoint, key and model.
            tokens: estimate of prompt and reply together.
            limits: per minute and at once. Without limits only a pause makes anyone wait.
            max_wait_s: longest wait the caller accepts.
            first_wait_s: longest wait if nobody is before the caller, when that is longer.
            hold_s: how long a slot that is never settled counts as a request under way.
            turn: of the classifier that asks; a granted slot uses it up.

        Raises:
            LLMRejected: kind `over_token_limit`: the request alone exceeds the tokens of a minute.
            BrokerError: the store cannot be reached.
        """
        if limits.tpm is not None and tokens > limits.tpm:
            raise _too_large(tokens, limits.tpm, "llm.tpm")
        slot = uuid4().hex
        milliseconds = [round(1000 * s) for s in (max_wait_s, first_wait_s, WINDOW_S, BURST_S, hold_s)]
        arguments: list[str | int | float] = [
            slot,
            tokens,
            limits.rpm or 0,
            limits.tpm or 0,
            limits.concurrency or 0,
            *milliseconds,
            "" if turn.classifier is None else turn.classifier,
            turn.weight,
            turn.begins,
            round(1000 * HUNG_S),
        ]
        with self._reachable():
            verdict, number, *line = cast("list[int]", self._acquire(_keys(key), arguments))
        if verdict == _TOO_LARGE:
            raise _too_large(tokens, number, "the endpoint")
        if verdict == _BUSY:
            return Busy()
        if verdict == _OPEN:
            return Open(number / 1000)
        if verdict == _GRANTED:
            return Slot(slot, number / 1000, float(line[0]), bool(line[1]))
        return Refused(number / 1000, bool(line[0]))

    def begin(self, key: str, slot: Slot) -> Refused | None:
        """Whether the request may still be sent after a wait: None, or why not; then the slot was given back.

        Not while everybody pauses, not when the endpoint has failed meanwhile, and not later than `LATE_S` after the
        slot's time.

        Raises:
            BrokerError: the store cannot be reached.
        """
        with self._reachable():
            granted, pause = cast(
                "list[int]", self._begin(_keys(key), [slot.id, round(1000 * LATE_S), int(slot.probe)])
            )
        return None if granted else Refused(pause / 1000)

    def settle(self, key: str, slot: Slot, tokens_used: int | None, verdict: Verdict | None = None) -> Health:
        """Put the real usage in place of the estimate, and let all processes know whether the endpoint works.

        Args:
            key: as it was acquired with.
            slot: what was granted.
            tokens_used: None when nothing was sent: the slot is given back.
            verdict: what the request says of the endpoint, if anything. Requests that were sent before the last
                change of its health say nothing of it.

        Raises:
            BrokerError: the store cannot be reached.
        """
        wait_s = STOPPED_S if verdict == "stopped" else PROBE_S
        most = 1 if verdict == "stopped" else FAILURES
        used = -1 if tokens_used is None else tokens_used
        with self._reachable():
            open_, news = cast(
                "list[int]",
                self._settle(_keys(key), [slot.id, used, verdict or "", slot.at_ms, most, round(1000 * wait_s)]),
            )
        return Health(bool(open_), bool(news))

    def pause(self, key: str, seconds: float) -> None:
        """Grant nothing before `seconds` have passed, to anybody; a longer pause that holds is kept.

        Raises:
            BrokerError: the store cannot be reached.
        """
        with self._reachable():
            self._pause(_keys(key), ["", round(seconds * 1000)])

    def state(self, key: str, limits: Limits) -> None:
        """Let all processes know the limits that the endpoint's reply names, for `STATED_S`.

        They hold where a caller gives none. Written when they are new, and now and then.

        Raises:
            BrokerError: the store cannot be reached.
        """
        known, written_at = self._stated.get(key, (Limits(), -STATED_S))
        if limits == Limits() or (known == limits and time.monotonic() - written_at < STATED_S / 8):
            return
        name = _keys(key)[-1]
        named = {"rpm": limits.rpm, "tpm": limits.tpm}
        with self._reachable(), self._redis.pipeline() as together:
            together.delete(name)
            together.hset(name, mapping={field: value for field, value in named.items() if value is not None})
            together.expire(name, round(STATED_S))
            together.execute()
        self._stated[key] = (limits, time.monotonic())

    def turns(self, key: str, weights: Mapping[int, float]) -> list[Turn]:
        """The turns of the classifiers that share a key, the next one first.

        Args:
            key: the key.
            weights: classifier → weight.

        Raises:
            BrokerError: the store cannot be reached.
        """
        with self._reachable():
            found = cast("dict[bytes, bytes]", self._redis.hgetall(_keys(key)[4]))
        served = float(found.pop(b"served", 0.0))
        return in_turn(weights, {int(row): float(ended) for row, ended in found.items()}, served)

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
            fault = tls_fault(error)
            if fault is not None:
                raise BrokerError(
                    f"the quota store at {self._where} cannot be used ({fault}): check the address and ssl_ca_certs in"
                    " DATASHUNT_QUOTA_URL (by default the broker)"
                ) from error
            raise BrokerError(
                f"the quota store at {self._where} cannot be used ({type(error).__name__}): check that it"
                " runs, and DATASHUNT_QUOTA_URL (by default the broker)"
            ) from error


def _keys(key: str) -> list[str]:
    tag = f"datashunt:quota:{{{key}}}"
    return [tag, *(f"{tag}:{part}" for part in ("log", "sizes", "in_use", "turns", "stated"))]


def _too_large(tokens: int, tpm: int, whose: str) -> LLMRejected:
    return LLMRejected(
        f"the request needs about {tokens} tokens and {whose} allows {tpm} a minute: shorten the item or raise the"
        " limit",
        kind="over_token_limit",
    )
