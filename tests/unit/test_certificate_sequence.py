"""Which thresholds are tried, and where the sequence starts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from datashunt.certificate import Answers, LabelAlpha, OfAll, OfKept, certify, soonest, thresholds
from datashunt.certificate.choice import Certificate
from datashunt.certificate.sequence import STEPS, chance
from datashunt.errors import CertificateError


def fit(n: int, wrong_below: float = 0.0) -> Answers:
    """n confidences evenly over (0, 1]; every one below `wrong_below` disagrees, and each fiftieth."""
    confidence = np.arange(1, n + 1) / n
    wrong = (confidence < wrong_below) | (np.arange(n) % 50 == 0)
    return Answers(confidence, np.zeros(n, dtype=int), wrong.astype(int))


def test_thresholds_fall_and_end_where_all_fit_answers_are_kept() -> None:
    for targets in ([OfAll(0.1)], [OfKept(0.5)], [OfAll(0.1), OfKept(0.5)]):
        grid = thresholds(targets, fit(1_000), judged=500, delta=0.1)
        assert (np.diff(grid) < 0).all()
        assert grid[-1] == pytest.approx(0.001)


def test_monotone_targets_are_tried_from_the_strictest_on_in_fine_steps() -> None:
    grid = thresholds([OfAll(0.1)], fit(2_000), judged=500, delta=0.1)
    assert len(grid) == 400
    assert grid[0] == pytest.approx(1 - 1 / 400, abs=0.001)


def test_others_in_fewer_steps_from_where_a_proof_is_likeliest() -> None:
    answers = fit(2_000, wrong_below=0.4)
    grid = thresholds([OfKept(0.1)], answers, judged=500, delta=0.1)
    kept = 1 - grid[0]
    assert 0.3 < kept < 0.62
    assert len(grid) == round(STEPS * (1 - kept)) + 1
    whole = np.unique(np.quantile(answers.confidence, 1 - np.arange(1, STEPS + 1) / STEPS))[::-1]
    scope, missed = (flags.sum(axis=0) for flags in OfKept(0.1).tally(answers, whole))
    chances = chance(scope, missed, seen=2_000, judged=500, allowed=0.1, delta=0.1)
    assert grid.tolist() == whole[chances.argmax() :].tolist()


def test_a_second_target_moves_the_start() -> None:
    answers = fit(2_000, wrong_below=0.4)
    one = thresholds([OfKept(0.1)], answers, judged=500, delta=0.1)
    both = thresholds([OfKept(0.1), LabelAlpha(1, 0.021)], answers, judged=500, delta=0.1)
    assert both[0] > one[0]
    turned = thresholds([LabelAlpha(1, 0.021), OfKept(0.1)], answers, judged=500, delta=0.1)
    assert turned.tolist() == both.tolist()
    assert thresholds([OfKept(0.1), OfAll(0.5)], answers, judged=500, delta=0.1).tolist() == one.tolist()


def test_early_noise_does_not_end_the_sequence_before_it_began() -> None:
    """One miss among the surest, where few are kept: the strictest threshold could not pass, and another does."""
    confidence = np.arange(1, 401) / 400
    judge = Answers(confidence, np.zeros(400, dtype=int), (confidence > 0.999).astype(int))
    targets = [OfKept(0.05)]
    found = certify(targets, thresholds(targets, judge, judged=400, delta=0.1), judge, delta=0.1)
    assert isinstance(found, Certificate)
    assert not isinstance(certify(targets, np.array([0.95, 0.05]), judge, delta=0.1), Certificate)


def test_without_fit_answers_there_is_nothing_to_try() -> None:
    assert thresholds([OfAll(0.1)], fit(0), judged=100, delta=0.1).shape == (0,)


def test_the_chance_is_that_of_the_exact_test_at_the_rate_seen() -> None:
    found = chance(np.array([80, 0]), np.array([2, 0]), seen=100, judged=200, allowed=0.1, delta=0.1)
    assert found[0] == pytest.approx(binom.cdf(10, 160, 2.5 / 81))
    assert found[1] == 0.0


def test_a_delta_that_cannot_be_is_refused() -> None:
    with pytest.raises(CertificateError, match=r"^delta must lie inside"):
        thresholds([OfKept(0.1)], fit(100), judged=100, delta=0.0)


def test_a_sequence_is_planned_for_the_fewest_answers_that_are_likely_to_prove_anything() -> None:
    sure = Answers(np.linspace(0.98, 0.99, 60), np.zeros(60, dtype=int), np.zeros(60, dtype=int))
    few = soonest([OfKept(0.2)], sure, delta=0.05, power=0.9, least=25, most=300)
    assert few == 25
    widest = thresholds([OfKept(0.2)], sure, judged=few, delta=0.05)[0]
    assert (sure.confidence >= widest).mean() > 0.5
    assert soonest([OfKept(0.01)], sure, delta=0.05, power=0.9, least=25, most=300) == 300
    nothing = Answers(np.empty(0), np.empty(0, dtype=int), np.empty(0, dtype=int))
    assert soonest([OfKept(0.2)], nothing, delta=0.05, power=0.9, least=25, most=300) == 25
    assert soonest([OfAll(0.2)], sure, delta=0.05, power=0.9, least=25, most=300) == 25


def test_a_sequence_is_planned_by_doubling() -> None:
    sure = Answers(np.linspace(0.98, 0.99, 60), np.zeros(60, dtype=int), np.zeros(60, dtype=int))
    for alpha, planned in ((0.2, 25), (0.12, 50), (0.08, 100), (0.05, 200), (0.03, 400)):
        assert soonest([OfKept(alpha)], sure, delta=0.05, power=0.9, least=25, most=10_000) == planned
        likely = [chance(60, 0, seen=60, judged=n, allowed=alpha, delta=0.05) >= 0.9 for n in (planned // 2, planned)]
        assert likely == [False, True]


def test_a_sequence_needs_no_more_answers_once_a_proof_is_just_likely_enough() -> None:
    sure = Answers(np.linspace(0.98, 0.99, 60), np.zeros(60, dtype=int), np.zeros(60, dtype=int))
    assert soonest([OfAll(0.2)], sure, delta=0.05, power=1.0, least=25, most=300) == 25
