"""How a number of calls is spread: never more than there are, all of them in the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.backtest.spending import (
    AUDIT_SHARE,
    FEWEST_NEW,
    GROWTH,
    LEARNING,
    Budget,
    fast_calls,
    new_answers_due,
    threshold_for,
)

counts = st.integers(0, 5_000)
urgencies = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60)


def spend(calls: int, items: int, batch: int, fast: int) -> list[int]:
    """What each batch of a stream gets, when each spends its quota."""
    spent = []
    while items:
        quota = Budget(calls, items, fast).quota(min(batch, items))
        spent.append(quota)
        calls, items, fast = calls - quota, max(0, items - batch), max(0, fast - quota)
    return spent


class TestQuota:
    @given(counts, st.integers(1, 3_000), st.integers(1, 256), counts)
    def test_all_calls_are_spent_over_a_stream_or_every_item_is_asked(
        self, calls: int, items: int, batch: int, fast: int
    ) -> None:
        assert sum(spend(calls, items, batch, fast)) == min(calls, items)

    @given(counts, st.integers(1, 3_000), st.integers(1, 256), counts)
    def test_no_batch_gets_more_than_it_has_items_or_there_are_calls(
        self, calls: int, items: int, batch: int, fast: int
    ) -> None:
        quota = Budget(calls, items, fast).quota(min(batch, items))
        assert 0 <= quota <= min(calls, batch)

    def test_without_fast_calls_they_are_spread_evenly(self) -> None:
        assert spend(calls=200, items=1_000, batch=100, fast=0) == [20] * 10

    def test_fast_calls_come_first_half_a_batch_at_a_time_and_the_rest_is_even(self) -> None:
        assert spend(calls=200, items=1_000, batch=100, fast=120) == [50, 50, 20, 11, 12, 11, 12, 11, 12, 11]

    def test_no_more_than_their_share_of_all_calls_is_fast(self) -> None:
        assert fast_calls(1_000, labels=7) == 850
        assert fast_calls(2_000, labels=7) == 7 * LEARNING
        assert fast_calls(1_000, labels=2, per_label=0) == 0

    def test_nothing_is_left_to_ask_without_calls(self) -> None:
        assert Budget(0, 100).quota(50) == 0


class TestAuditRate:
    @given(counts, st.integers(0, 5_000), st.floats(0.0, 1.0), st.integers(1, 256))
    def test_exceeds_neither_the_policys_nor_the_part_for_audits(
        self, calls: int, items: int, policy: float, batch: int
    ) -> None:
        rate = Budget(calls, items).audit_rate(policy, batch)
        assert 0 <= rate <= policy
        assert rate * max(items, 1) <= AUDIT_SHARE * calls * (1 + 1e-9)

    def test_is_the_policys_where_there_are_calls_enough(self) -> None:
        assert Budget(5_000, 10_000).audit_rate(0.01, 128) == 0.01

    @pytest.mark.parametrize("calls", [0, 1, 20])
    def test_is_nothing_where_a_batch_of_audits_might_take_what_is_left(self, calls: int) -> None:
        assert Budget(calls, 20).audit_rate(0.05, 100 if calls else 1) == 0.0


class TestNewAnswersDue:
    @given(st.integers(1, 10_000), counts)
    def test_lies_within_its_bounds(self, policy: int, learned: int) -> None:
        due = new_answers_due(policy, learned, fast_ended=False)
        assert due >= learned // GROWTH
        assert due >= min(policy, FEWEST_NEW)
        assert due <= max(policy, learned // GROWTH)

    @pytest.mark.parametrize(
        ("policy", "learned", "due"),
        [(200, 0, FEWEST_NEW), (30, 0, 30), (200, 150, FEWEST_NEW), (200, 1_200, 400)],
    )
    def test_is_few_answers_or_a_third_of_what_is_known(self, policy: int, learned: int, due: int) -> None:
        assert new_answers_due(policy, learned, fast_ended=False) == due

    def test_are_few_once_the_fast_calls_are_made(self) -> None:
        assert new_answers_due(200, 900, fast_ended=True) == FEWEST_NEW
        assert new_answers_due(30, 900, fast_ended=True) == 30


class TestThreshold:
    @given(urgencies, st.data())
    def test_never_more_than_the_quota_are_asked_and_fewer_only_for_ties_or_audits(
        self, values: list[float], data: st.DataObject
    ) -> None:
        urgency = np.array(values)
        audited = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
        quota = data.draw(st.integers(0, len(values) + 5))
        limit = threshold_for(urgency, audited, quota)
        escalated = int((~audited & (urgency > limit)).sum())
        room = max(0, quota - int(audited.sum()))
        assert escalated <= room
        tied = int((~audited & (urgency == limit)).sum())
        assert escalated + tied > room or escalated == int((~audited).sum())

    @given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60, unique=True), st.integers(0, 70))
    def test_without_ties_exactly_the_quota_is_asked_the_most_urgent_first(
        self, values: list[float], quota: int
    ) -> None:
        urgency = np.array(values)
        limit = threshold_for(urgency, np.zeros(len(values), dtype=bool), quota)
        asked = sorted(urgency[urgency > limit])
        expected = sorted(values)[max(0, len(values) - quota) :]
        assert asked == expected

    def test_of_equal_urgencies_none_is_asked_when_not_all_may_be(self) -> None:
        urgency = np.full(4, 0.5)
        assert threshold_for(urgency, np.zeros(4, dtype=bool), 2) == 0.5
        assert threshold_for(urgency, np.zeros(4, dtype=bool), 4) == float("-inf")
