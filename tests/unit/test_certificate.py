"""Exact binomial bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from datashunt import shunt
from datashunt.certificate import audits_needed, choose_threshold, lifetime_share, upper_bound


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.01, 0.5))
def test_at_the_bound_so_few_errors_have_probability_delta(errors: int, more: int, delta: float) -> None:
    n = errors + more
    bound = upper_bound(errors, n, delta)
    if errors == n:
        assert bound == 1.0
    else:
        assert errors / n < bound < 1
        assert binom.cdf(errors, n, bound) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [10, 100, 1_000])
def test_the_bound_fails_at_most_delta_of_the_time(rate: float, n: int) -> None:
    fails = sum(binom.pmf(k, n, rate) for k in range(n + 1) if upper_bound(k, n, 0.1) < rate)
    assert fails <= 0.1


def test_nothing_seen_proves_nothing() -> None:
    assert upper_bound(0, 0, 0.1) == 1.0


@pytest.mark.parametrize(("alpha", "audits"), [(0.005, 460), (0.05, 45), (0.5, 4), (0.1, 22)])
def test_audits_without_a_miss_that_prove_a_rate(alpha: float, audits: int) -> None:
    assert audits_needed(alpha, 0.1) == audits
    assert upper_bound(0, audits, 0.1) <= alpha < upper_bound(0, audits - 1, 0.1)


def test_an_exact_count_is_not_rounded_up() -> None:
    assert audits_needed(0.5, 0.25) == 2


@pytest.mark.parametrize("call", [(1, 0, 0.1), (-1, 5, 0.1), (0, 5, 0.0), (0, 5, 1.0)])
def test_impossible_counts_and_deltas_are_refused(call: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        upper_bound(*call)


@pytest.mark.parametrize("call", [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 1.5)])
def test_impossible_targets_are_refused(call: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        audits_needed(*call)


def lives(rng: np.random.Generator, *, n: int = 400, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Held-out items whose disagreement falls with confidence, down to `base`."""
    confidence = rng.uniform(0.3, 1.0, n)
    return confidence, rng.random(n) < base + 0.5 * (1.0 - confidence)


def true_risk(threshold: float, base: float) -> float:
    """Mean of base + 0.5 (1 - c) over confidences uniform in [threshold, 1]."""
    return base + 0.25 * (1.0 - max(threshold, 0.3))


CANDIDATES = [1.0 - step / 20 for step in range(1, 15)]


@pytest.mark.parametrize("base", [0.0, 0.05, 0.09])
def test_a_chosen_threshold_breaks_its_promise_at_most_delta_of_the_time(base: float) -> None:
    rng = np.random.default_rng(3)
    lives_lived, broken = 1_000, 0
    for _ in range(lives_lived):
        confidence, wrong = lives(rng, base=base)
        choice = choose_threshold(CANDIDATES, confidence, wrong, alpha=0.1, delta=0.1)
        broken += choice is not None and true_risk(choice.threshold, base) > 0.1
    assert broken / lives_lived <= 0.1 + 3 * (0.09 / lives_lived) ** 0.5


def test_a_threshold_is_chosen_where_the_risk_is_low() -> None:
    confidence, wrong = lives(np.random.default_rng(4), n=4_000, base=0.0)
    choice = choose_threshold(CANDIDATES, confidence, wrong, alpha=0.1, delta=0.1)
    assert choice is not None
    assert 0.6 <= choice.threshold <= 0.75
    assert choice.k / choice.n < 0.1


def test_too_few_held_out_items_certify_nothing() -> None:
    confidence = np.full(audits_needed(0.05, 0.1) - 1, 0.99)
    assert choose_threshold([0.5], confidence, confidence < 0, alpha=0.05, delta=0.1) is None


def test_a_threshold_between_two_float32_keeps_what_the_shunt_would_keep() -> None:
    above = np.float32(0.9)
    below = np.nextafter(above, np.float32(0))
    threshold = float(below) + (float(above) - float(below)) / 4  # float32 would round it down to `below`
    probabilities = np.array([[below, 1 - below]] * 10 + [[above, 1 - above]] * 50, dtype=np.float32)
    confidence = probabilities.max(axis=1)
    choice = choose_threshold([threshold], confidence, confidence < 0, alpha=0.1, delta=0.1)
    assert choice is not None
    assert choice.n == shunt.decide(probabilities, threshold).keep.sum() == 50


def test_the_shares_of_all_renewals_are_one_in_all() -> None:
    assert sum(lifetime_share(i) for i in range(1, 100_000)) == pytest.approx(1.0, abs=1e-4)
