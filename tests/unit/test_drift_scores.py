"""The drift guard without labels: quiet while nothing changes, and soon loud when something does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from datashunt.drift import FALSE_ALARM, ScoreGuard
from datashunt.drift.bets import BINS, NOTHING, densities, mean, staked, starts
from datashunt.drift.conformal import CONFIDENCE_CELLS, confidence_cells, ranked, uniforms

ALARM = -math.log(FALSE_ALARM)
CALM = (4.0, 1.0, (0.6, 0.3, 0.1))
UNSURE = (2.0, 1.0, (0.6, 0.3, 0.1))
OTHER_BALANCE = (4.0, 1.0, (0.3, 0.3, 0.4))


def items(rng: np.random.Generator, n: int, kind: tuple = CALM) -> tuple[np.ndarray, np.ndarray]:
    a, b, balance = kind
    return 1 / 3 + 2 / 3 * rng.beta(a, b, n), rng.choice(3, size=n, p=balance)


def guard(reference: int = 1_000) -> ScoreGuard:
    return ScoreGuard.start(3, seed=1, reference=reference)


class TestConformal:
    def test_cells_rise_with_confidence_and_stay_inside(self) -> None:
        cells = confidence_cells(np.array([0.0, 0.5, 0.9, 0.99, 0.999999, 1.0, 1.0 + 1e-7]))
        assert (np.diff(cells) >= 0).all()
        assert cells[0] == 0
        assert cells[-1] == cells[-2] == CONFIDENCE_CELLS - 1

    def test_a_rank_is_of_all_items_so_far_itself_included(self) -> None:
        p, after = ranked(np.array([1, 2, 1]), np.array([1, 0]), np.array([0.5, 0.0]))
        assert p == pytest.approx([(1 + 0.5 * 3) / 5, 0.0])
        assert after.tolist() == [2, 3, 1]

    def test_no_items_change_no_counts(self) -> None:
        p, after = ranked(np.array([1, 2]), np.empty(0, dtype=np.intp), np.empty(0))
        assert len(p) == 0
        assert after.tolist() == [1, 2]

    def test_draws_belong_to_items_not_to_updates(self) -> None:
        whole = uniforms(5, 0, 10, 2)
        assert np.array_equal(whole[3:7], uniforms(5, 3, 4, 2))
        assert not np.array_equal(whole, uniforms(6, 0, 10, 2))

    def test_p_values_are_uniform_from_the_first_item_on(self) -> None:
        rng, early = np.random.default_rng(3), []
        for seed in range(400):
            cells = rng.choice(3, size=8, p=[0.7, 0.2, 0.1])
            early.append(ranked(np.zeros(3, dtype=np.int64), cells, uniforms(seed, 0, 8, 1)[:, 0])[0])
        for place in (0, 1, 7):
            assert kstest(np.array(early)[:, place], "uniform").pvalue > 0.001


class TestBets:
    def test_a_bet_wins_nothing_in_the_mean_while_all_is_calm(self) -> None:
        table = np.exp(densities())
        assert table.shape[0] == BINS
        assert table.mean(axis=0) == pytest.approx(np.ones(table.shape[1]))
        assert len(np.unique(table.round(9), axis=1).T) == table.shape[1]

    def test_all_that_is_ever_staked_is_one(self) -> None:
        weights = np.exp(starts(-100, 1_000_000, every=50, even=200))
        assert weights.sum() == pytest.approx(1.0, abs=0.02)
        assert weights.sum() < 1
        assert (weights[:100] == 0).all()
        assert np.flatnonzero(weights)[:3].tolist() == [100, 150, 200]

    def test_wealth_is_the_sum_over_starts(self) -> None:
        factors = np.log(np.array([[2.0], [0.5], [3.0]]))
        began = np.log(np.array([0.5, 0.25, 0.25]))
        made = np.exp(staked(np.array([NOTHING]), factors, began))
        assert made[:, 0] == pytest.approx([1.0, (1.0 + 0.25) * 0.5, (0.625 + 0.25) * 3])

    def test_a_mean_of_nothing_is_nothing(self) -> None:
        assert mean(np.full(4, NOTHING)) == pytest.approx(NOTHING)
        assert mean(np.log([[1.0, 3.0]])) == pytest.approx(np.log([2.0]))


class TestScoreGuard:
    @pytest.mark.parametrize("reference", [50, 1_000])
    def test_it_is_quiet_while_nothing_changes(self, reference: int) -> None:
        """One life in a hundred may have an alarm: six or more of a hundred and fifty have a chance of 0.4 %."""
        alarms = 0
        for seed in range(150):
            sure, said = items(np.random.default_rng(seed), 2_000)
            alarms += ScoreGuard.start(3, seed=seed, reference=reference).update(sure, said).evidence >= ALARM
        assert alarms <= 5

    @pytest.mark.parametrize("kind", [UNSURE, OTHER_BALANCE])
    def test_a_change_is_found_soon(self, kind: tuple) -> None:
        rng = np.random.default_rng(1)
        calm = guard().update(*items(rng, 5_000))
        assert calm.evidence < ALARM
        assert calm.update(*items(rng, 600, kind)).evidence >= ALARM

    def test_a_slow_change_is_found(self) -> None:
        rng = np.random.default_rng(1)
        found = guard().update(*items(rng, 2_000))
        for step in range(20):
            new = rng.random(500) < step / 20
            (old, old_said), (late, late_said) = items(rng, 500), items(rng, 500, UNSURE)
            found = found.update(np.where(new, late, old), np.where(new, late_said, old_said))
        assert found.evidence >= ALARM

    def test_nothing_is_bet_before_the_reference_is_complete(self) -> None:
        rng = np.random.default_rng(1)
        young = guard().update(*items(rng, 500)).update(*items(rng, 499, UNSURE))
        assert young.evidence == 0.0
        assert max(young.wealth[0]) < NOTHING / 2

    def test_an_alarm_stays(self) -> None:
        rng = np.random.default_rng(1)
        loud = guard(100).update(*items(rng, 1_000)).update(*items(rng, 1_000, UNSURE))
        assert loud.update(*items(rng, 2_000)).evidence >= loud.evidence

    @given(st.lists(st.integers(1, 700), max_size=8))
    def test_how_items_are_cut_makes_no_difference(self, sizes: list[int]) -> None:
        rng = np.random.default_rng(1)
        sure, said = items(rng, 1_500)
        whole = guard(200).update(sure, said)
        parts, begin = guard(200), 0
        for size in [*sizes, 1_500]:
            parts = parts.update(sure[begin : begin + size], said[begin : begin + size])
            begin += size
        assert (parts.items, parts.confidence, parts.labels) == (whole.items, whole.confidence, whole.labels)
        assert parts.evidence == pytest.approx(whole.evidence)
        assert np.array(parts.wealth) == pytest.approx(np.array(whole.wealth))

    def test_it_survives_a_database(self) -> None:
        rng = np.random.default_rng(1)
        seen = guard(100).update(*items(rng, 300))
        read = ScoreGuard.from_json(json.loads(json.dumps(seen.to_json(), allow_nan=False)))
        assert read == seen
        more = items(rng, 100)
        assert read.update(*more) == seen.update(*more)

    def test_a_state_of_another_version_is_refused(self) -> None:
        stored = guard().to_json()
        for wrong in ({}, {**stored, "more": 1}, {**stored, "wealth": [[0.0]]}, {**stored, "confidence": [1]}):
            with pytest.raises(ValueError, match="start a new one"):
                ScoreGuard.from_json(wrong)

    @pytest.mark.parametrize(
        ("sure", "said", "message"),
        [
            ([0.5], [0, 1], "one confidence and one label for each item"),
            ([1.5], [0], r"must lie in \[0, 1\], found 1.5"),
            ([math.nan], [0], "found nan"),
            ([0.5], [3], "indices below 3, found 3 to 3"),
            ([0.5], [-1], "indices below 3"),
        ],
    )
    def test_what_cannot_be_is_refused(self, sure: list[float], said: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            guard().update(sure, said)

    def test_a_guard_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected one label or more"):
            ScoreGuard.start(0, seed=1)
