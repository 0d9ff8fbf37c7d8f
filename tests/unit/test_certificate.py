"""Exact binomial bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from datashunt.certificate import audits_needed, upper_bound


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
