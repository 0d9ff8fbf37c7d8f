"""Exact binomial bounds, and how many draws a target needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from datashunt.certificate import audits_likely, audits_needed, most_misses, upper_bound
from datashunt.certificate.bounds import inside
from datashunt.errors import CertificateError, UsageError


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


@given(st.integers(0, 2_000), st.floats(0.001, 0.6), st.floats(1e-6, 0.5))
def test_one_more_than_the_most_misses_would_pass_too_often(n: int, allowed: float, delta: float) -> None:
    most = int(most_misses(n, allowed, delta))
    assert -1 <= most < max(n, 1)
    if most >= 0:
        assert binom.cdf(most, n, allowed) <= delta * (1 + 1e-8)
    if n:
        assert binom.cdf(most + 1, n, allowed) > delta


@given(st.integers(1, 400), st.floats(0.01, 0.5), st.floats(0.001, 0.4))
def test_so_many_misses_pass_as_the_bound_lets_pass(n: int, allowed: float, delta: float) -> None:
    most = int(most_misses(n, allowed, delta))
    if most >= 0:
        assert upper_bound(most, n, delta) <= allowed + 1e-9
    assert upper_bound(most + 1, n, delta) > allowed - 1e-9


def test_misses_are_counted_in_any_shape() -> None:
    n = np.array([[0, 21, 22], [37, 38, 1_000]])
    assert most_misses(n, 0.1, 0.1).tolist() == [[-1, -1, 0], [0, 1, 87]]


@pytest.mark.parametrize(("n", "allowed", "delta", "most"), [(2, 0.5, 0.25, 0), (15, 0.5, 0.5, 7), (1, 0.5, 0.5, 0)])
def test_a_probability_of_exactly_delta_passes(n: int, allowed: float, delta: float, most: int) -> None:
    assert most_misses(n, allowed, delta) == most


@pytest.mark.parametrize(("alpha", "audits"), [(0.005, 460), (0.05, 45), (0.5, 4), (0.1, 22)])
def test_audits_without_a_miss_that_prove_a_rate(alpha: float, audits: int) -> None:
    assert audits_needed(alpha, 0.1) == audits
    assert upper_bound(0, audits, 0.1) <= alpha < upper_bound(0, audits - 1, 0.1)


def test_an_exact_count_is_not_rounded_up() -> None:
    assert audits_needed(0.5, 0.25) == 2


@given(st.integers(0, 40), st.floats(0.005, 0.4), st.floats(0.0005, 0.4))
def test_with_misses_just_so_many_audits_are_needed(misses: int, allowed: float, delta: float) -> None:
    needed = audits_needed(allowed, delta, misses)
    assert most_misses(needed, allowed, delta) >= misses > most_misses(needed - 1, allowed, delta)


@pytest.mark.parametrize(("rate", "power"), [(0.0, 0.9), (0.02, 0.9), (0.03, 0.5), (0.03, 0.99)])
def test_at_the_likely_number_of_audits_a_proof_is_likely(rate: float, power: float) -> None:
    n = audits_likely(0.05, 0.1, rate, power)
    assert n >= audits_needed(0.05, 0.1)
    assert binom.cdf(most_misses(n, 0.05, 0.1), n, rate) >= power


def test_no_miss_at_all_needs_no_luck() -> None:
    assert audits_likely(0.05, 0.1, 0.0) == 45


def test_more_misses_or_more_certainty_need_more_audits() -> None:
    assert 45 < audits_likely(0.05, 0.1, 0.02) < audits_likely(0.05, 0.1, 0.03) < audits_likely(0.05, 0.01, 0.03)
    assert audits_likely(0.05, 0.1, 0.02, 0.5) < audits_likely(0.05, 0.1, 0.02, 0.9)


@pytest.mark.parametrize("call", [(1, 0, 0.1), (-1, 5, 0.1), (6, 5, 0.1)])
def test_impossible_counts_are_refused(call: tuple[int, int, float]) -> None:
    with pytest.raises(CertificateError, match=f"found {call[0]} errors in {call[1]}"):
        upper_bound(*call)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_zero_and_one_is_refused_by_name(wrong: float) -> None:
    for call in (
        lambda: upper_bound(0, 5, wrong),
        lambda: most_misses(5, 0.1, wrong),
        lambda: audits_needed(0.1, wrong),
        lambda: inside(wrong, "delta"),
    ):
        with pytest.raises(CertificateError, match=rf"^delta must lie inside \(0, 1\), found {wrong}$"):
            call()
    for call in (lambda: most_misses(5, wrong, 0.1), lambda: audits_needed(wrong, 0.1)):
        with pytest.raises(CertificateError, match=r"^the allowed share must lie inside"):
            call()


def test_a_share_inside_is_handed_back() -> None:
    assert inside(0.25, "delta") == 0.25


def test_what_cannot_be_planned_is_said() -> None:
    with pytest.raises(CertificateError, match=r"^expected 0 misses or more, found -1"):
        audits_needed(0.1, 0.1, -1)
    with pytest.raises(CertificateError, match=r"^power must lie inside"):
        audits_likely(0.1, 0.1, 0.0, 1.0)
    for rate in (0.1, -0.01):
        with pytest.raises(CertificateError, match=f"a rate of {rate} cannot be proven to be at most 0.1"):
            audits_likely(0.1, 0.1, rate)
    with pytest.raises(
        CertificateError, match=r"^more than ten million audits would be needed: the target is too close$"
    ):
        audits_likely(0.1, 0.1, 0.09999)


def test_these_errors_are_the_callers() -> None:
    assert issubclass(CertificateError, UsageError)
