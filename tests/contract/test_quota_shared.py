"""What several workers and classifiers share: concurrency, turns, learned limits, pauses and lost slots."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis

from datashunt.errors import LLMRejected
from datashunt.quota import LATE_S, WINDOW_S, Busy, Limits, Quota, Refused, Slot, Turn

HOUR_S = 3600.0


@pytest.fixture
def other(valkey_url: str) -> Iterator[Quota]:
    """Another process."""
    other = Quota(valkey_url)
    yield other
    other.close()


def slot_of(quota: Quota, key: str, limits: Limits, *, tokens: int = 1, wait_s: float = HOUR_S) -> Slot:
    slot = quota.acquire(key, tokens, limits, max_wait_s=wait_s)
    assert isinstance(slot, Slot)
    return slot


def pass_by(valkey_url: str, key: str, slot: Slot, seconds: float) -> None:
    """As if the slot's time had been so many seconds earlier."""
    with redis.Redis.from_url(valkey_url) as store:
        store.zincrby(f"datashunt:quota:{{{key}}}:log", -seconds, slot.id)


# concurrency


def test_no_more_requests_are_under_way_than_may_be_at_once(quota: Quota, other: Quota, key: str) -> None:
    limits = Limits(concurrency=3)
    slots = [slot_of(one, key, limits) for one in (quota, other, quota)]
    assert other.acquire(key, 1, limits, max_wait_s=HOUR_S) == Busy()
    quota.settle(key, slots[0], 10)
    other.settle(key, slots[1], None)
    assert isinstance(other.acquire(key, 1, limits, max_wait_s=HOUR_S), Slot)
    assert isinstance(other.acquire(key, 1, limits, max_wait_s=HOUR_S), Slot)
    assert other.acquire(key, 1, limits, max_wait_s=HOUR_S) == Busy()


def test_the_slot_of_a_dead_worker_is_free_again_after_its_time(quota: Quota, key: str) -> None:
    limits = Limits(concurrency=1)
    dead = quota.acquire(key, 1, limits, max_wait_s=0, hold_s=-1.0)  # as if that time were over
    assert isinstance(dead, Slot)
    assert isinstance(quota.acquire(key, 1, limits, max_wait_s=0), Slot)


def test_the_slot_of_a_dead_worker_is_free_again_though_the_clock_was_set_back(
    quota: Quota, key: str, set_back: Callable[[float], None]
) -> None:
    limits = Limits(concurrency=1)
    assert isinstance(quota.acquire(key, 1, limits, max_wait_s=0, hold_s=0.2), Slot)
    set_back(600)
    assert quota.acquire(key, 1, limits, max_wait_s=0) == Busy()
    deadline = time.monotonic() + 10
    while quota.acquire(key, 1, limits, max_wait_s=0) == Busy():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# the line


def test_who_is_first_in_line_may_wait_longer_than_who_comes_after(quota: Quota, key: str) -> None:
    limits = Limits(rpm=10)
    first = quota.acquire(key, 1, limits, max_wait_s=1.0, first_wait_s=15.0)
    assert isinstance(first, Slot)
    assert first.wait_s == pytest.approx(WINDOW_S / 10, abs=0.2)
    second = quota.acquire(key, 1, limits, max_wait_s=1.0, first_wait_s=15.0)
    assert second == Refused(pytest.approx(2 * WINDOW_S / 10, abs=0.2), others_wait=True)


def test_a_slot_that_is_given_back_was_never_used(quota: Quota, key: str) -> None:
    limits = Limits(rpm=60, tpm=6_000)
    first = slot_of(quota, key, limits, tokens=100)
    for _ in range(20):
        quota.settle(key, slot_of(quota, key, limits, tokens=100), None)
    assert slot_of(quota, key, limits, tokens=100).wait_s - first.wait_s < 3 * WINDOW_S / 60


def test_a_slot_may_be_used_when_its_wait_is_over(quota: Quota, key: str) -> None:
    assert quota.begin(key, slot_of(quota, key, Limits(rpm=60))) is None


def test_whoever_waits_when_a_pause_begins_does_not_send_after_all(quota: Quota, other: Quota, key: str) -> None:
    slots = [slot_of(quota, key, Limits(rpm=6_000)) for _ in range(3)]
    other.pause(key, 40)
    assert [quota.begin(key, slot) for slot in slots] == [Refused(pytest.approx(40, abs=1))] * 3
    with_room = Limits(rpm=6_000, concurrency=1)
    assert slot_of(other, key, with_room).wait_s == pytest.approx(40, abs=1)


def test_a_slot_whose_time_has_passed_by_is_given_back(quota: Quota, valkey_url: str, key: str) -> None:
    slot = slot_of(quota, key, Limits(concurrency=1))
    pass_by(valkey_url, key, slot, 1000 * (LATE_S + 0.1))
    assert quota.begin(key, slot) == Refused(0.0)
    assert isinstance(quota.acquire(key, 1, Limits(concurrency=1), max_wait_s=0), Slot)


def test_a_slot_of_a_store_that_was_emptied_is_not_used(quota: Quota, valkey_url: str, key: str) -> None:
    slot = slot_of(quota, key, Limits(rpm=60))
    with redis.Redis.from_url(valkey_url) as store:
        store.delete(*store.keys(f"*{key}*"))
    assert quota.begin(key, slot) == Refused(0.0)


# turns


def test_a_flood_does_not_starve_another_classifier(quota: Quota, other: Quota, key: str) -> None:
    weights = {1: 1.0, 2: 3.0}
    granted: Counter[int | None] = Counter()
    for number in range(400):
        turn = (quota, other)[number % 2].turns(key, weights)[0]
        assert isinstance(quota.acquire(key, 1, Limits(), max_wait_s=0, turn=turn), Slot)
        granted[turn.classifier] += 1
    assert granted == {1: 100, 2: 300}


def test_a_refused_request_uses_up_no_turn(quota: Quota, key: str) -> None:
    quota.pause(key, 40)
    turn = quota.turns(key, {1: 1.0})[0]
    assert isinstance(quota.acquire(key, 1, Limits(), max_wait_s=0, turn=turn), Refused)
    assert quota.turns(key, {1: 1.0}) == [Turn(1, 1.0, 0.0)]


# learned limits


def test_limits_that_one_worker_learned_hold_for_all(quota: Quota, other: Quota, key: str) -> None:
    quota.state(key, Limits(rpm=60, tpm=6_000))
    began = time.monotonic()
    waits = [slot_of(other, key, Limits(), tokens=10).wait_s for _ in range(3)]
    took_s = time.monotonic() - began
    assert waits[2] - waits[1] == pytest.approx(WINDOW_S / 60, abs=0.2 + took_s)


def test_a_limit_of_the_file_comes_before_a_learned_one(quota: Quota, key: str) -> None:
    quota.state(key, Limits(rpm=6))
    began = time.monotonic()
    waits = [slot_of(quota, key, Limits(rpm=60)).wait_s for _ in range(3)]
    took_s = time.monotonic() - began
    assert waits[2] - waits[1] == pytest.approx(WINDOW_S / 60, abs=0.2 + took_s)


def test_learned_limits_expire_and_change(quota: Quota, valkey_url: str, key: str) -> None:
    quota.state(key, Limits(rpm=6, tpm=60))
    quota.state(key, Limits(rpm=60))
    quota.state(key, Limits())  # a reply that names none says nothing
    with redis.Redis.from_url(valkey_url) as store:
        name = f"datashunt:quota:{{{key}}}:stated"
        assert store.hgetall(name) == {b"rpm": b"60"}
        assert 0 < store.ttl(name) <= 3_600
        store.delete(name)
    assert slot_of(quota, key, Limits(), tokens=10_000, wait_s=0).wait_s == 0


def test_a_request_larger_than_a_learned_minute_is_rejected(quota: Quota, key: str) -> None:
    quota.state(key, Limits(tpm=600))
    with pytest.raises(LLMRejected, match="700 tokens and the endpoint allows 600") as caught:
        quota.acquire(key, 700, Limits(), max_wait_s=HOUR_S)
    assert caught.value.kind == "over_token_limit"
