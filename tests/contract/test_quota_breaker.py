"""The circuit breaker of the shared quota, against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from datashunt.quota import FAILURES, Health, Limits, Open, Quota, Slot, Verdict, allowance

OPENED, STILL_OPEN = Health(open=True, news=True), Health(open=True)
CLOSED, STILL_CLOSED = Health(news=True), Health()


def acquired(quota: Quota, key: str) -> Slot | Open:
    found = quota.acquire(key, 10, Limits(), max_wait_s=60)
    assert isinstance(found, Slot | Open)
    return found


def slot_of(quota: Quota, key: str) -> Slot:
    """A slot, as soon as there is one."""
    deadline = time.monotonic() + 10
    while isinstance(found := acquired(quota, key), Open):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def call(quota: Quota, key: str, verdict: Verdict) -> Health:
    return quota.settle(key, slot_of(quota, key), 10, verdict)


def fail(quota: Quota, key: str) -> None:
    """Fail until nobody may ask any more."""
    assert [call(quota, key, "failed") for _ in range(FAILURES)] == [STILL_CLOSED] * (FAILURES - 1) + [OPENED]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint is tried again at once."""
    monkeypatch.setattr(allowance, "PROBE_S", 0.01)


def test_failures_in_a_row_open_it_for_all_processes(quota: Quota, key: str, valkey_url: str) -> None:
    fail(quota, key)
    other = Quota(valkey_url)
    found = acquired(other, key)
    other.close()
    assert isinstance(found, Open)
    assert 0 < found.retry_after_s <= allowance.PROBE_S
    assert isinstance(acquired(quota, uuid4().hex), Slot)


def test_a_reply_between_failures_begins_the_count_again(quota: Quota, key: str) -> None:
    for _ in range(3):
        assert {call(quota, key, "failed") for _ in range(FAILURES - 1)} == {STILL_CLOSED}
        assert call(quota, key, "alive") == STILL_CLOSED


def test_one_refusal_that_only_a_person_can_mend_opens_it_for_longer(quota: Quota, key: str) -> None:
    assert call(quota, key, "stopped") == OPENED
    found = acquired(quota, key)
    assert isinstance(found, Open)
    assert found.retry_after_s == pytest.approx(allowance.STOPPED_S, abs=1)


@pytest.mark.usefixtures("soon")
def test_one_request_tries_the_endpoint_again(quota: Quota, key: str) -> None:
    fail(quota, key)
    probe = slot_of(quota, key)
    assert probe.probe
    with ThreadPoolExecutor(8) as threads:
        assert {type(found) for found in threads.map(lambda _: acquired(quota, key), range(40))} == {Open}
    assert quota.settle(key, probe, 10, "failed") == STILL_OPEN


@pytest.mark.usefixtures("soon")
def test_its_reply_closes_it_at_once(quota: Quota, key: str) -> None:
    fail(quota, key)
    assert call(quota, key, "alive") == CLOSED
    found = acquired(quota, key)
    assert isinstance(found, Slot)
    assert not found.probe
    assert call(quota, key, "failed") == STILL_CLOSED


def test_a_request_that_hangs_is_joined_by_another(quota: Quota, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "PROBE_S", 0.01)
    monkeypatch.setattr(allowance, "HUNG_S", 0.05)
    fail(quota, key)
    first, second = slot_of(quota, key), slot_of(quota, key)
    assert first.probe
    assert second.probe


@pytest.mark.usefixtures("soon")
def test_a_slot_given_back_lets_another_try(quota: Quota, key: str) -> None:
    fail(quota, key)
    assert quota.settle(key, slot_of(quota, key), None) == STILL_OPEN
    found = acquired(quota, key)
    assert isinstance(found, Slot)
    assert found.probe


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("verdict", ["alive", "failed"])
def test_what_was_sent_before_a_change_says_nothing_of_it(quota: Quota, key: str, verdict: Verdict) -> None:
    early = [slot_of(quota, key) for _ in range(FAILURES)]
    fail(quota, key)
    assert quota.settle(key, early.pop(), 10, verdict) == STILL_OPEN
    assert call(quota, key, "alive") == CLOSED
    assert {quota.settle(key, slot, 10, verdict) for slot in early} == {STILL_CLOSED}
    assert call(quota, key, "failed") == STILL_CLOSED


@pytest.mark.usefixtures("soon")
def test_an_endpoint_is_tried_again_and_believed_though_the_clock_was_set_back(
    quota: Quota, key: str, set_back: Callable[[float], None]
) -> None:
    fail(quota, key)
    set_back(600)
    assert call(quota, key, "alive") == CLOSED
    set_back(600)
    fail(quota, key)


def test_slots_granted_ahead_are_not_used_once_it_is_open(quota: Quota, key: str) -> None:
    ahead = slot_of(quota, key)
    fail(quota, key)
    assert quota.begin(key, ahead) is not None
