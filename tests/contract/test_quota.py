"""The shared quota against a real server. Slots lie in the future, so a whole hour is planned in a second."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datashunt.errors import BrokerError, LLMRejected, SettingsError
from datashunt.quota import BURST_S, WINDOW_S, Limits, Quota, Refused, Slot, Turn

HOUR_S = 3600.0
Sent = list[tuple[float, int]]
"""When each request is sent (seconds) and its tokens."""


def slot_of(quota: Quota, key: str, tokens: int, limits: Limits, max_wait_s: float = HOUR_S) -> Slot:
    slot = quota.acquire(key, tokens, limits, max_wait_s=max_wait_s)
    assert isinstance(slot, Slot)
    return slot


def plan(quota: Quota, key: str, sizes: list[int], limits: Limits) -> Sent:
    """Acquire one slot for each size at once; returns when they may be sent."""
    return [(time.time() + slot_of(quota, key, size, limits).wait_s, size) for size in sizes]


def heaviest_minute(sent: Sent) -> tuple[int, int]:
    """Most requests and most tokens in any sliding 60 s."""
    sent = sorted(sent)
    times = [at for at, _ in sent]
    sums = [0, *itertools.accumulate(size for _, size in sent)]
    spans = [(start, bisect_right(times, at + 60.0)) for start, at in enumerate(times)]
    return max(end - start for start, end in spans), max(sums[end] - sums[start] for start, end in spans)


def test_without_limits_everybody_is_granted_at_once(quota: Quota, key: str) -> None:
    slots = [slot_of(quota, key, 10_000_000, Limits(), 0.0) for _ in range(20)]
    assert {slot.wait_s for slot in slots} == {0.0}
    assert len({slot.id for slot in slots}) == 20


@pytest.mark.parametrize("limits", [Limits(rpm=300), Limits(tpm=30_000), Limits(rpm=300, tpm=30_000)])
def test_the_limit_is_used_and_never_exceeded(quota: Quota, key: str, limits: Limits) -> None:
    sent = plan(quota, key, [100] * 900, limits)
    requests, tokens = heaviest_minute(sent)
    assert requests <= 300
    assert tokens <= 30_000
    lasted_s = sent[-1][0] - sent[0][0]
    assert 899 / (lasted_s / 60.0) >= 0.98 * 300


@pytest.mark.parametrize(("limits", "binding"), [(Limits(rpm=60, tpm=60_000), 60), (Limits(rpm=600, tpm=6_000), 60)])
def test_the_tighter_limit_binds(quota: Quota, key: str, limits: Limits, binding: int) -> None:
    requests, _ = heaviest_minute(plan(quota, key, [100] * 150, limits))
    assert binding * 0.97 <= requests <= binding


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rpm=st.integers(1, 200),
    tpm=st.integers(1_000, 20_000),
    sizes=st.lists(st.integers(1, 1_000), min_size=1, max_size=80),
    used=st.lists(st.floats(0.0, 1.0), min_size=80, max_size=80),
)
def test_no_mix_of_sizes_and_settlements_exceeds_a_limit(
    quota: Quota, rpm: int, tpm: int, sizes: list[int], used: list[float]
) -> None:
    key, limits, sent = uuid4().hex, Limits(rpm, tpm), []
    for size, share in zip(sizes, used, strict=False):
        slot = slot_of(quota, key, size, limits, 100 * HOUR_S)
        at, spent = time.time() + slot.wait_s, round(size * share)
        quota.settle(key, slot, spent)
        sent.append((at, spent))
    requests, tokens = heaviest_minute(sent)
    assert requests <= rpm
    assert tokens <= tpm


def test_a_store_that_remembers_nothing_starts_with_an_empty_allowance(quota: Quota, key: str) -> None:
    limits = Limits(rpm=60, tpm=6_000)
    assert slot_of(quota, key, 500, limits).wait_s == pytest.approx(5 * WINDOW_S / 60, abs=0.1)
    assert quota.acquire(uuid4().hex, 1, limits, max_wait_s=0.0) == Refused(pytest.approx(1.01, abs=0.1))


def test_an_empty_store_fills_even_if_everybody_is_refused_at_first(quota: Quota, key: str) -> None:
    limits = Limits(rpm=600)
    deadline = time.monotonic() + 20
    while isinstance(quota.acquire(key, 1, limits, max_wait_s=0.0), Refused):
        assert time.monotonic() < deadline


def test_a_refusal_uses_nothing_up(quota: Quota, key: str) -> None:
    limits = Limits(rpm=60, tpm=100_000)
    began = time.monotonic()
    first = slot_of(quota, key, 10, limits)
    for _ in range(50):
        refused = quota.acquire(key, 50_000, limits, max_wait_s=0.0)
        assert isinstance(refused, Refused)
        assert refused.retry_after_s > 0
    second = slot_of(quota, key, 10, limits)
    took_s = time.monotonic() - began
    assert second.wait_s - first.wait_s == pytest.approx(WINDOW_S / 60, abs=0.2 + took_s)


def test_what_was_reserved_too_much_comes_back(quota: Quota, key: str) -> None:
    limits = Limits(tpm=6_000)
    first = slot_of(quota, key, 5_000, limits)
    quota.settle(key, first, 50)
    assert slot_of(quota, key, 5_000, limits).wait_s - first.wait_s < 2


def test_more_than_was_reserved_is_charged_too(quota: Quota, key: str) -> None:
    limits = Limits(tpm=6_000)
    slot = slot_of(quota, key, 10, limits)
    quota.settle(key, slot, 3_010)
    assert slot_of(quota, key, 10, limits).wait_s > 25


def test_settling_a_slot_that_is_long_forgotten_changes_nothing(quota: Quota, key: str) -> None:
    limits = Limits(tpm=6_000)
    first = slot_of(quota, key, 100, limits)
    quota.settle(key, Slot("forgotten", 0.0), 6_000)
    assert slot_of(quota, key, 100, limits).wait_s - first.wait_s < 2


def test_a_request_larger_than_a_minute_is_rejected_with_both_numbers(quota: Quota, key: str) -> None:
    with pytest.raises(LLMRejected, match=r"700 tokens and llm\.tpm allows 600") as caught:
        quota.acquire(key, 700, Limits(tpm=600), max_wait_s=HOUR_S)
    assert caught.value.kind == "over_token_limit"


@pytest.mark.parametrize("limits", [Limits(), Limits(rpm=6_000)])
def test_a_pause_holds_for_everybody_and_the_longer_one_wins(
    quota: Quota, key: str, valkey_url: str, limits: Limits
) -> None:
    quota.pause(key, 40)
    quota.pause(key, 2)
    other = Quota(valkey_url)
    refused = other.acquire(key, 1, limits, max_wait_s=5)
    other.close()
    assert refused == Refused(pytest.approx(40, abs=1))
    assert slot_of(quota, key, 1, limits).wait_s == pytest.approx(40, abs=1)
    assert slot_of(quota, uuid4().hex, 1, limits).wait_s < 1


def test_many_threads_at_once_share_one_limit(quota: Quota, key: str) -> None:
    limits = Limits(rpm=120, tpm=100_000)
    with ThreadPoolExecutor(8) as threads:
        plans = threads.map(lambda _: plan(quota, key, [50] * 40, limits), range(8))
        sent = list(itertools.chain.from_iterable(plans))
    assert len(sent) == 320
    assert heaviest_minute(sent)[0] <= 120


def test_slots_are_spread_evenly_instead_of_in_bursts(quota: Quota, key: str) -> None:
    times = [at for at, _ in plan(quota, key, [1] * 200, Limits(rpm=600))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) < 2 * WINDOW_S / 600 + 0.1
    assert sum(at - times[0] < BURST_S for at in times) <= 22


def test_idle_time_buys_no_more_than_a_second_of_burst(quota: Quota, key: str, valkey_url: str) -> None:
    limits = Limits(rpm=600)
    slot_of(quota, key, 1, limits)
    with redis.Redis.from_url(valkey_url) as store:  # as if the last request were a day ago
        store.hset(f"datashunt:quota:{{{key}}}", mapping={"requests_arrival": 0, "last": 0})
    at_once = sum(slot_of(quota, key, 1, limits).wait_s <= 0.05 for _ in range(40))
    assert 1 <= at_once <= 13


def test_a_changed_limit_holds_from_the_next_request_on(quota: Quota, key: str) -> None:
    plan(quota, key, [1] * 10, Limits(rpm=6_000))
    began = time.monotonic()
    slow = plan(quota, key, [1] * 5, Limits(rpm=60))
    took_s = time.monotonic() - began
    assert slow[-1][0] - slow[0][0] == pytest.approx(4 * WINDOW_S / 60, abs=0.3 + took_s)


def test_a_store_that_was_emptied_is_used_again(quota: Quota, key: str, valkey_url: str) -> None:
    limits = Limits(rpm=60)
    slot = slot_of(quota, key, 1, limits)
    with redis.Redis.from_url(valkey_url) as store:
        store.script_flush()
        for name in store.keys(f"*{key}*"):
            store.delete(name)
    quota.settle(key, slot, 1)
    assert slot_of(quota, key, 1, limits).wait_s == pytest.approx(WINDOW_S / 60, abs=0.2)


@pytest.mark.parametrize("limits", [Limits(rpm=300), Limits(tpm=30_000), Limits(rpm=300, tpm=30_000)])
@pytest.mark.parametrize("back_s", [5.0, 600.0])
def test_the_limit_is_used_and_never_exceeded_while_the_clock_is_set_back(
    quota: Quota, key: str, limits: Limits, back_s: float, set_back: Callable[[float], None]
) -> None:
    sent = plan(quota, key, [100] * 250, limits)
    set_back(back_s)
    sent += plan(quota, key, [100] * 250, limits)
    set_back(back_s)
    sent += plan(quota, key, [100] * 250, limits)
    requests, tokens = heaviest_minute(sent)
    assert requests <= 300
    assert tokens <= 30_000
    lasted_s = sent[-1][0] - sent[0][0]
    assert 749 / (lasted_s / 60.0) >= 0.98 * 300


def test_a_pause_is_no_longer_than_it_was_when_the_clock_is_set_back(
    quota: Quota, key: str, set_back: Callable[[float], None]
) -> None:
    quota.pause(key, 40)
    set_back(600)
    assert quota.acquire(key, 1, Limits(), max_wait_s=5) == Refused(pytest.approx(40, abs=1))


def test_a_slot_that_was_granted_may_be_used_after_the_clock_was_set_back(
    quota: Quota, key: str, set_back: Callable[[float], None]
) -> None:
    slot = slot_of(quota, key, 1, Limits(rpm=60))
    set_back(600)
    slot_of(quota, key, 1, Limits(rpm=60))
    assert quota.begin(key, slot) is None


def test_nothing_is_kept_for_ever(quota: Quota, key: str, valkey_url: str) -> None:
    quota.state(key, Limits(rpm=60, tpm=600))
    quota.acquire(key, 1, Limits(), max_wait_s=HOUR_S, turn=Turn(1))
    quota.pause(f"{key}-paused", 1)
    with redis.Redis.from_url(valkey_url) as store:
        names = list(store.keys(f"*{key}*"))
        assert len(names) == 7
        assert all(0 < store.ttl(name) <= 90_000 for name in names)


def test_an_unreachable_store_is_named_without_its_password() -> None:
    quota = Quota("redis://:hush@127.0.0.1:1/0")
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1.*DATASHUNT_QUOTA_URL") as caught:
        quota.acquire("k", 1, Limits(), max_wait_s=0)
    assert "hush" not in str(caught.value)


def test_the_names_of_valkeys_schemes_are_known(valkey_url: str, key: str) -> None:
    quota = Quota(valkey_url.replace("redis://", "valkey://"))
    assert slot_of(quota, key, 1, Limits()).wait_s == 0
    quota.close()


@pytest.mark.parametrize("url", ["amqp://host//", "host:6379", ""])
def test_an_address_that_is_no_redis_is_refused_by_the_name_of_its_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="DATASHUNT_QUOTA_URL"):
        Quota(url)
