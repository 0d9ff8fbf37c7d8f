"""Calibration: what a temperature does, and how far confidence is from accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.confidence import (
    HIGHEST,
    LOWEST,
    brier_score,
    chance_calibration_error,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)

LOGITS = st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=20)


@given(LOGITS, st.floats(LOWEST, HIGHEST))
def test_softmax_rows_are_distributions_that_keep_the_order(logits: list[list[float]], temperature: float) -> None:
    p = softmax(logits, temperature)
    assert p.dtype == np.float32
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    best = p[np.arange(len(p)), np.argmax(logits, axis=1)]
    assert (best >= p.max(axis=1) - 1e-6).all()


def test_a_class_that_cannot_be_gets_no_probability() -> None:
    assert softmax([[0.0, -np.inf, 0.0]]).tolist() == [[0.5, 0.0, 0.5]]


def test_huge_logits_do_not_overflow() -> None:
    assert softmax([[1e6, 0.0]], LOWEST).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        softmax([[0.0, 1.0]], temperature)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_a_scaling_of_honest_logits(factor: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4_000, 3)) * 1.5
    targets = [rng.choice(3, p=row / row.sum()) for row in softmax(honest).astype(np.float64)]
    assert fit_temperature(honest * factor, targets) == pytest.approx(factor, rel=0.1)


def test_a_temperature_is_the_best_among_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 4, 2_000)
    logits = 3 * np.eye(4)[targets] + rng.normal(size=(2_000, 4)) * 4
    found = fit_temperature(logits, targets)
    nll = [negative_log_likelihood(softmax(logits, t), targets) for t in (found * 0.8, found, found * 1.25)]
    assert nll[1] == min(nll)


def test_without_answers_the_temperature_is_one() -> None:
    assert fit_temperature(np.zeros((0, 3)), []) == pytest.approx(1.0, abs=1e-3)


def test_a_few_answers_that_are_all_right_do_not_make_the_model_certain() -> None:
    few = np.tile([2.0, 0.0], (5, 1))
    many = np.tile([2.0, 0.0], (2_000, 1))
    assert fit_temperature(few, [0] * 5) > 0.7
    assert fit_temperature(many, [0] * 2_000) < 0.4


def test_temperatures_stay_within_their_bounds() -> None:
    wrong = np.tile([50.0, 0.0], (500, 1))
    assert fit_temperature(wrong, [1] * 500) <= HIGHEST
    assert fit_temperature(-wrong, [1] * 500) >= LOWEST


def test_targets_that_are_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match="class indices below 2"):
        fit_temperature([[0.0, 1.0]], [2])
    with pytest.raises(ValueError, match="found shapes"):
        fit_temperature([[0.0, 1.0]], [0, 1])


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert expected_calibration_error([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0.0)
    assert expected_calibration_error([0.9] * 10, [False] * 10) == pytest.approx(0.9)
    assert expected_calibration_error([0.25] * 4 + [0.85] * 4, [True] * 8) == pytest.approx(0.45)


def test_calibration_error_of_nothing_is_not_a_number() -> None:
    assert np.isnan(expected_calibration_error([], []))


def test_reliability_bars_hold_every_item_once_and_skip_empty_bins() -> None:
    bars = reliability([0.0, 0.1, 0.11, 1.0], [False, True, True, True], bins=10)
    assert [(bar.low, bar.n) for bar in bars] == [(0.0, 2), (0.1, 1), (0.9, 1)]
    assert bars[0].accuracy == 0.5
    assert bars[0].confidence == pytest.approx(0.05)


def test_confidences_outside_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        reliability([1.2], [True])
    with pytest.raises(ValueError, match="one confidence for each item"):
        reliability([0.5], [True, False])


def test_likelihood_and_brier_score_of_known_predictions() -> None:
    p = [[0.5, 0.5], [1.0, 0.0]]
    assert negative_log_likelihood(p, [0, 0]) == pytest.approx(np.log(2) / 2)
    assert brier_score(p, [0, 0]) == pytest.approx(0.25)
    assert np.isfinite(negative_log_likelihood(p, [0, 1]))
    assert np.isnan(negative_log_likelihood(np.zeros((0, 2)), []))
    assert np.isnan(brier_score(np.zeros((0, 2)), []))


@pytest.mark.parametrize("n", [60, 2_000])
def test_by_chance_a_perfect_calibration_shows_as_much_error_as_is_foretold(n: int) -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1.0, n)
    seen = [expected_calibration_error(confidence, rng.random(n) < confidence) for _ in range(300)]
    assert np.mean(seen) == pytest.approx(chance_calibration_error(confidence), rel=0.1)


def test_by_chance_there_is_no_error_over_no_items() -> None:
    assert np.isnan(chance_calibration_error([]))
