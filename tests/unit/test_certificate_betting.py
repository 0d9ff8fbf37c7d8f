"""Betting: its wealth, and that looking all the time breaks no promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from datashunt.certificate import most_misses
from datashunt.certificate.betting import (
    FINE_STAKES,
    STAKES,
    log_wealth,
    log_wealth_weighted,
    share_bound,
    share_bound_weighted,
)
from datashunt.certificate.targets import Tally
from datashunt.errors import CertificateError

NEEDED = -math.log(0.1)


def tally(misses: np.ndarray, scope: np.ndarray | None = None) -> Tally:
    scope = np.ones(misses.shape, dtype=bool) if scope is None else scope
    return Tally(scope, misses & scope)


def test_before_the_first_answer_the_wealth_is_one() -> None:
    assert log_wealth(0, 0, 0.1) == pytest.approx(0.0)


def test_the_wealth_is_the_mean_over_the_stakes_of_products() -> None:
    by_hand = np.mean([(1 + s / 0.9 * 0.1) ** 7 * (1 - s) ** 2 for s in STAKES])
    assert np.exp(log_wealth(2, 9, 0.1)) == pytest.approx(by_hand)


@pytest.mark.parametrize("allowed", [0.01, 0.1, 0.5])
def test_the_next_answer_neither_wins_nor_loses_in_the_mean_if_just_so_many_miss(allowed: float) -> None:
    before, n = np.exp(log_wealth(3, 40, allowed)), 41
    after = (1 - allowed) * np.exp(log_wealth(3, n, allowed)) + allowed * np.exp(log_wealth(4, n, allowed))
    assert after == pytest.approx(before)


@given(st.integers(0, 50), st.integers(0, 500), st.floats(0.01, 0.5))
def test_an_agreement_wins_and_a_miss_loses(misses: int, more: int, allowed: float) -> None:
    n = misses + more
    assert log_wealth(misses, n + 1, allowed) > log_wealth(misses, n, allowed) > log_wealth(misses + 1, n + 1, allowed)


def test_counts_may_have_any_shapes_that_fit() -> None:
    assert log_wealth(np.zeros((3, 1)), np.arange(4), 0.1).shape == (3, 4)


def test_looking_often_costs_little() -> None:
    n, delta = 1_340, 0.00115
    allowed = max(k for k in range(67) if log_wealth(k, n, 0.05) >= -math.log(delta))
    assert allowed == 36
    assert most_misses(n, 0.05, delta) == 43


@pytest.mark.parametrize("rate", [0.05, 0.06])
def test_however_often_one_looks_a_false_promise_passes_at_most_delta_of_the_time(rate: float) -> None:
    rng = np.random.default_rng(5)
    lives = 2_000
    misses = rng.random((600, lives)) < rate
    wealth = log_wealth(misses.cumsum(axis=0), np.arange(1, 601)[:, None], 0.05)
    ever = (wealth >= NEEDED).any(axis=0).mean()
    assert 0.01 * (rate == 0.05) < ever <= 0.1


def test_a_promise_that_holds_by_far_passes() -> None:
    misses = np.random.default_rng(6).random((600, 200)) < 0.01
    wealth = log_wealth(misses.cumsum(axis=0), np.arange(1, 601)[:, None], 0.05)
    assert (wealth >= NEEDED).any(axis=0).mean() > 0.99


class TestTheBoundOfAShare:
    def test_is_the_least_rate_that_is_disproved(self) -> None:
        for misses, n in ((0, 100), (3, 250), (90, 100)):
            bound = share_bound(misses, n, 0.1)
            assert log_wealth(misses, n, bound) >= NEEDED
            assert log_wealth(misses, n, bound * 0.999) < NEEDED

    def test_is_all_where_nothing_is_known(self) -> None:
        assert share_bound(0, 0, 0.1) == share_bound(5, 5, 0.1) == 1.0

    def test_holds_at_all_looks_together(self) -> None:
        rng = np.random.default_rng(9)
        lives, rate, looks = 400, 0.02, np.array([50, 100, 200, 400, 800])
        misses = (rng.random((800, lives)) < rate).cumsum(axis=0)[looks - 1]
        broken = [
            any(share_bound(int(k), int(n), 0.1) < rate for k, n in zip(life, looks, strict=True)) for life in misses.T
        ]
        assert np.mean(broken) <= 0.1

    def test_of_weighted_answers_is_that_of_all_items(self) -> None:
        missed = np.arange(400) % 20 == 0
        plain = share_bound_weighted(missed, np.ones(400), 0.1)
        assert plain == pytest.approx(share_bound(20, 400, 0.1), abs=0.01)
        heavy = share_bound_weighted(missed, np.where(missed, 1.0, 0.25), 0.1)
        light = share_bound_weighted(missed, np.where(missed, 0.25, 1.0), 0.1)
        assert light < plain < heavy
        assert share_bound_weighted(np.zeros(0, np.bool_), np.ones(0), 0.1) == 1.0

    @pytest.mark.parametrize("kinds", [(1.0,), (0.25,), (0.1, 0.4, 1.0)])
    def test_of_weighted_answers_is_where_the_mean_of_the_products_reaches_one_over_delta(
        self, kinds: tuple[float, ...]
    ) -> None:
        rng = np.random.default_rng(10)
        missed, weight = rng.random(300) < 0.1, rng.choice(kinds, 300)

        def lacking(rate: float) -> float:
            products = np.prod(1 + FINE_STAKES[:, None] / (1 - rate) * weight * (rate - missed), axis=1)
            return float(np.log(products.mean()) - NEEDED)

        bound = share_bound_weighted(missed, weight, 0.1)
        exact = brentq(lacking, missed.mean() / 2, 0.7, xtol=1e-12)
        assert exact <= bound <= exact + 2e-6

    def test_grows_with_each_miss_and_falls_with_delta_and_with_each_agreement(self) -> None:
        for bound in (
            share_bound,
            lambda k, n, delta: share_bound_weighted(np.arange(n) < k, np.ones(n), delta),
        ):
            bounds = [bound(misses, 200, 0.1) for misses in range(0, 200, 20)]
            assert bounds == sorted(set(bounds))
            assert bound(5, 200, 0.01) > bound(5, 200, 0.1) > bound(5, 200, 0.5)
            assert bound(5, 100, 0.1) > bound(5, 200, 0.1) > bound(5, 400, 0.1)

    def test_is_found_to_a_ten_thousandth_of_itself(self) -> None:
        for misses, n in ((0, 5_000), (40, 60)):
            bound = share_bound(misses, n, 0.05)
            exact = brentq(lambda rate, k=misses, of=n: log_wealth(k, of, rate) + math.log(0.05), 1e-9, 1 - 1e-9)
            assert exact <= bound <= exact * (1 + 2e-4)

    @pytest.mark.parametrize("delta", [0.0, 1.0])
    def test_needs_a_delta_that_can_be(self, delta: float) -> None:
        for call in (
            lambda: share_bound(0, 1, delta),
            lambda: share_bound_weighted(np.zeros(1, bool), np.ones(1), delta),
        ):
            with pytest.raises(CertificateError, match=r"^delta must lie inside \(0, 1\)"):
                call()

    @pytest.mark.parametrize("weight", [0.0, 1.5])
    def test_of_a_weight_that_cannot_be_is_refused(self, weight: float) -> None:
        with pytest.raises(CertificateError, match=rf"^weights must lie in \(0, 1\], found {weight} to {weight}$"):
            share_bound_weighted(np.ones(1, np.bool_), np.full(1, weight), 0.1)

    def test_of_more_misses_than_answers_is_refused(self) -> None:
        with pytest.raises(CertificateError, match=r"^expected 0 ≤ misses ≤ n, found 2 misses in 1$"):
            share_bound(2, 1, 0.1)
        with pytest.raises(CertificateError, match="found -1 misses in 1"):
            share_bound(-1, 1, 0.1)


class TestWeights:
    def test_of_one_are_no_weights(self) -> None:
        rng = np.random.default_rng(7)
        misses, scope = rng.random((50, 3)) < 0.1, rng.random((50, 3)) < 0.8
        weighted = log_wealth_weighted(tally(misses, scope), np.ones((50, 1)), 0.1)
        plain = log_wealth((misses & scope).cumsum(axis=0), scope.cumsum(axis=0), 0.1)
        assert weighted == pytest.approx(plain)

    def test_make_a_bet_smaller(self) -> None:
        wealth = log_wealth_weighted(tally(np.array([[False, True]])), np.array([[0.25]]), 0.1)
        won, lost = 0.25 * 0.1 / 0.9, -0.25
        assert np.exp(wealth) == pytest.approx(np.array([[np.mean(1 + won * STAKES), np.mean(1 + lost * STAKES)]]))

    def test_what_is_out_of_scope_changes_nothing(self) -> None:
        scope = np.array([[True], [False], [False]])
        wealth = log_wealth_weighted(tally(np.ones((3, 1), dtype=bool), scope), np.full((3, 1), 0.5), 0.1)
        assert wealth[0] == wealth[1] == wealth[2]

    def test_undo_that_some_items_are_audited_more_often(self) -> None:
        """A third of the items miss three times as often and are audited five times as often: 5 % of all miss."""
        rng = np.random.default_rng(8)
        n, lives = 500, 1_500
        often = rng.random((n, lives)) < 5 / 7
        misses = rng.random((n, lives)) < np.where(often, 0.09, 0.03)
        wealth = log_wealth_weighted(tally(misses), np.where(often, 0.2, 1.0), 0.05)
        assert (wealth >= NEEDED).any(axis=0).mean() <= 0.1
        hidden = rng.random((n, lives)) < np.where(often, 0.01, 0.2)  # 13.7 % of all, of which the audits show 6.4 %
        naive = log_wealth(hidden.cumsum(axis=0), np.arange(1, n + 1)[:, None], 0.13)
        weighed = log_wealth_weighted(tally(hidden), np.where(often, 0.2, 1.0), 0.13)
        assert (naive >= NEEDED).any(axis=0).mean() > 0.9
        assert (weighed >= NEEDED).any(axis=0).mean() <= 0.1


@pytest.mark.parametrize("allowed", [0.0, 1.0])
def test_a_share_that_cannot_be_is_refused(allowed: float) -> None:
    with pytest.raises(CertificateError, match=r"^the allowed share must lie inside"):
        log_wealth(0, 1, allowed)
    with pytest.raises(CertificateError, match=r"^the allowed share must lie inside"):
        log_wealth_weighted(tally(np.zeros((1, 1), dtype=bool)), np.ones((1, 1)), allowed)
