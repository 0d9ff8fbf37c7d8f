"""How a day's budget is spread: pure decisions, and whole days simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datashunt import pacing
from datashunt.day import SLOTS, counted
from datashunt.pacing import Account

ONE = Decimal(1)
seeds = st.integers(0, 2**32 - 1)


def batch_of(seed: int, items: int, audit_rate: float = 0.1) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return 1 - 0.5 * rng.beta(0.6, 2, items), rng.random(items) < audit_rate


@given(
    seeds,
    st.integers(0, 60),
    st.floats(0, 1),
    st.decimals(0, 30, places=2),
    st.lists(st.decimals(0, 3, places=2), min_size=60, max_size=60),
    st.floats(0, 1),
)
def test_no_batch_is_granted_more_than_is_free(
    seed: int, items: int, fraction: float, budget: Decimal, amounts: list[Decimal], audit_rate: float
) -> None:
    confidence, audited = batch_of(seed, items, audit_rate)
    account = Account(budget=budget, reserved=budget / 3)
    made = pacing.plan(account, fraction, confidence, audited, amounts[:items], audit_rate)
    assert sum((a for a, yes in zip(amounts, made.granted, strict=False) if yes), Decimal(0)) <= account.free
    assert not (made.granted & ~(made.escalate | audited)).any()
    assert 0 <= made.threshold <= 1
    assert 0 <= made.carry < 1


@given(seeds, st.integers(1, 60), st.integers(1, 60))
def test_the_least_confident_escalate_and_nan_before_all(seed: int, items: int, budget: int) -> None:
    confidence, _ = batch_of(seed, items)
    confidence[seed % items] = np.nan
    made = pacing.plan(Account(Decimal(budget)), 0.5, confidence, np.zeros(items, bool), [ONE] * items, 0.0)
    rank = np.where(np.isnan(confidence), -1, confidence)
    if made.escalate.any() and not made.escalate.all():
        assert rank[made.escalate].max() <= rank[~made.escalate].min()
    assert made.escalate[seed % items] or not made.escalate.any()


def test_audits_are_paid_first() -> None:
    confidence = np.array([0.5, 0.5, 0.99, 0.98])
    audited = np.array([False, False, True, True])
    made = pacing.plan(Account(Decimal(3)), 0.999, confidence, audited, [ONE] * 4, 0.05)
    assert made.granted.tolist() == [True, False, True, True]


def test_an_audited_item_escalates_by_its_own_confidence() -> None:
    confidence, audited = np.array([0.4, 0.99] + [0.8] * 8), np.array([True, True] + [False] * 8)
    made = pacing.plan(Account(Decimal(5)), 0.999, confidence, audited, [ONE] * 10, 0.2)
    assert made.escalate[:2].tolist() == [True, False]


def test_with_money_for_everything_everything_is_asked() -> None:
    confidence, audited = batch_of(1, 50)
    made = pacing.plan(Account(Decimal(100_000)), 0.5, confidence, audited, [ONE] * 50, 0.1)
    assert made.escalate[~audited].all()
    assert made.granted.all()
    assert made.threshold == 1.0


def test_without_money_those_are_named_who_would_have_been_asked() -> None:
    confidence, audited = np.linspace(0.5, 0.99, 100), np.zeros(100, bool)
    account = Account(Decimal(50), spent=Decimal(50), settled=Decimal(50), granted=Decimal(50), asked=50)
    made = pacing.plan(account, 1.0, confidence, audited, [ONE] * 100, 0.0)
    assert not made.granted.any()
    assert np.flatnonzero(made.escalate).tolist() == list(range(50))


def test_what_a_call_really_costs_decides_how_many_are_asked() -> None:
    confidence, audited = np.linspace(0.5, 0.99, 100), np.zeros(100, bool)
    settled = Account(Decimal(60), spent=Decimal(10), settled=Decimal(20), granted=Decimal(20), asked=20)
    made = pacing.plan(settled, 1.0, confidence, audited, [ONE] * 100, 0.0)
    assert made.escalate.sum() == 100  # 50 left, and a call costs half of what is reserved for it
    assert made.granted.sum() == 50  # but what may be spent at most is what counts against the cap


def test_an_outage_leaves_what_is_reserved_out_of_what_can_be_spent() -> None:
    account = Account(Decimal(10), reserved=Decimal(10), granted=Decimal(10), asked=10)
    assert account.free == 0
    assert account.calls_left(1.0) == 0.0


def test_a_lowered_budget_grants_nothing() -> None:
    confidence, audited = batch_of(2, 30)
    made = pacing.plan(Account(Decimal(5), spent=Decimal(9)), 0.5, confidence, audited, [ONE] * 30, 0.1)
    assert not made.granted.any()


def test_equal_confidences_are_asked_as_often_as_others() -> None:
    account, asked = Account(Decimal(10_000)), 0
    for n in range(100):
        made = pacing.plan(account, (n + 1) / 101, np.full(7, 0.9), np.zeros(7, bool), [ONE] * 7, 0.0)
        account = after(account, made, (n + 1) / 101, 7)
        asked += int(made.granted.sum())
    assert asked == 700
    account = Account(Decimal(70), arrivals=counted((), 0.5, 70))
    made = pacing.plan(account, 0.5, np.full(70, 0.9), np.zeros(70, bool), [ONE] * 70, 0.0)
    assert 10 < made.granted.sum() < 60


@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_has_a_lower_threshold(seed: int, one: float, other: float) -> None:
    confidence, _ = batch_of(seed, 300)
    histogram = pacing.remembered((), confidence)
    low, high = sorted((one, other))
    assert pacing.quantile(histogram, low) <= pacing.quantile(histogram, high)


@given(seeds, st.floats(0.02, 0.98))
def test_the_quantile_is_near_that_of_the_confidences(seed: int, share: float) -> None:
    confidence, _ = batch_of(seed, 2_000)
    threshold = pacing.quantile(pacing.remembered((), confidence), share)
    assert (confidence < threshold).mean() == pytest.approx(share, abs=0.03)


def test_older_confidences_fade() -> None:
    old, young = np.full(4 * pacing.HALF_LIFE_ITEMS, 0.6), np.full(pacing.HALF_LIFE_ITEMS, 0.95)
    histogram = pacing.remembered((), old)
    for part in np.split(young, 16):
        histogram = pacing.remembered(histogram.tolist(), part)
    assert histogram.sum() < len(old)
    assert pacing.remembered(histogram.tolist(), np.array([np.nan])).sum() == pytest.approx(histogram.sum())


# whole days


def after(account: Account, made: pacing.Plan, fraction: float, items: int, truth: Decimal = ONE) -> Account:
    """The account once everything that was granted is answered."""
    granted = Decimal(int(made.granted.sum()))
    return replace(
        account,
        spent=account.spent + granted * truth,
        settled=account.settled + granted,
        granted=account.granted + granted,
        asked=account.asked + int(granted),
        arrivals=counted(account.arrivals, fraction, items),
        confidences=made.confidences,
        carry=made.carry,
    )


@dataclass(frozen=True)
class Lived:
    """A day that is over. `most`: the largest share of the budget that was ever spent or reserved."""

    account: Account
    most: float
    asked: NDArray[np.bool_]
    confidence: NDArray[np.float64]

    @property
    def used(self) -> float:
        return float(self.account.spent / self.account.budget)


Rate = Callable[[NDArray[np.float64]], NDArray[np.float64]]
RATES: dict[str, Rate] = {
    "triples at noon": lambda t: np.where(t < 0.5, 1.0, 3.0),
    "even": np.ones_like,
    "most in the evening": lambda t: np.where(t > 0.8, 8.0, 1.0),
}


def live(
    seed: int,
    rate: Rate,
    *,
    items: int = 4_000,
    budget: int = 1_000,
    batch: int = 32,
    before: Account | None = None,
    truth: Decimal = ONE,
    audit_rate: float = 0.05,
) -> Lived:
    """One day of arrivals at this rate, decided about in batches; `before` is yesterday's account."""
    grid = np.linspace(0, 1, 2_001)
    heaped = np.concatenate([[0.0], np.cumsum(rate((grid[1:] + grid[:-1]) / 2))])
    rng = np.random.default_rng(seed)
    times = np.sort(np.interp(rng.random(items), heaped / heaped[-1], grid))
    confidence, audited = batch_of(seed, items, audit_rate)
    account = Account(Decimal(budget) * truth)
    if before is not None:
        account = replace(account, profile=before.arrivals, confidences=before.confidences)
    asked, most = np.zeros(items, bool), 0.0
    for start in range(0, items, batch):
        some = slice(start, min(items, start + batch))
        fraction = float(times[some][-1])
        amounts = [ONE] * len(times[some])
        made = pacing.plan(account, fraction, confidence[some], audited[some], amounts, audit_rate)
        account = after(account, made, fraction, len(amounts), truth)
        asked[some] = made.granted
        most = max(most, float(account.spent / account.budget))
    return Lived(account, most, asked, confidence)


@pytest.mark.parametrize("batch", [1, 32, 200])
@pytest.mark.parametrize("items", [2_000, 10_000])
@pytest.mark.parametrize("name", RATES)
def test_the_budget_is_spent_to_three_per_cent_and_never_burst(name: str, items: int, batch: int) -> None:
    first = live(items, RATES[name], items=items, batch=batch, budget=1_000)
    second = live(items + 1, RATES[name], items=items, batch=batch, budget=1_000, before=first.account)
    for day in (first, second):
        assert 0.97 <= day.used <= 1.0
        assert day.most <= 1.0


def test_calls_that_cost_less_than_reserved_leave_nothing_over() -> None:
    day = live(5, RATES["triples at noon"], budget=1_000, truth=Decimal("0.5"))
    assert 0.97 <= day.used <= 1.0


def test_yesterdays_profile_makes_the_choice_nearly_as_good_as_hindsight() -> None:
    first = live(7, RATES["triples at noon"])
    second = live(8, RATES["triples at noon"], before=first.account)

    def doubt(day: Lived) -> float:
        """Mean doubt of what was asked, as a share of that of the day's least confident."""
        best = np.sort(day.confidence)[: int(day.asked.sum())]
        return float((1 - day.confidence[day.asked]).mean() / (1 - best).mean())

    assert doubt(second) > doubt(first)
    assert doubt(second) > 0.85  # audits, a fifth of the calls, are drawn at random


def test_a_burst_cannot_be_asked_beyond_the_budget() -> None:
    confidence, audited = batch_of(9, 256)
    account, granted = Account(Decimal(100)), 0
    for _ in range(20):
        made = pacing.plan(account, 0.1, confidence, audited, [ONE] * 256, 0.1)
        account = after(account, made, 0.1, 256)
        granted += int(made.granted.sum())
    assert granted <= 100
    assert len(account.arrivals) == SLOTS
