"""The promotion gate and the figures of a model card."""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy.stats import multinomial

from datashunt.certificate import upper_bound
from datashunt.evaluate import difference_lower, evaluation, judge, tolerated_loss

LABELS = ("no", "yes", "maybe")


def predictions(chosen: NDArray[np.intp], k: int = 3, confidence: float = 0.9) -> NDArray[np.float64]:
    p = np.full((len(chosen), k), (1 - confidence) / (k - 1))
    p[np.arange(len(chosen)), chosen] = confidence
    return p


def wrong(answers: ArrayLike, count: int, start: int = 0) -> NDArray[np.intp]:
    """The answers, but `count` of them wrong from `start` on."""
    out = np.array(answers)
    out[start : start + count] = (out[start : start + count] + 1) % 3
    return out


def test_a_clearly_better_challenger_is_promoted() -> None:
    answers = np.arange(200) % 3
    verdict = judge(predictions(answers), predictions(wrong(answers, 60)), answers, LABELS)
    assert verdict.promote
    assert verdict.agreement_challenger == 1.0
    assert verdict.agreement_incumbent == 0.7
    assert verdict.difference_lower > 0.2


def test_a_clearly_worse_challenger_is_not() -> None:
    answers = np.arange(200) % 3
    verdict = judge(predictions(wrong(answers, 60)), predictions(answers), answers, LABELS)
    assert not verdict.promote
    assert "may lose up to" in verdict.reason


def test_what_is_tolerated_shrinks_with_the_answers_down_to_the_margin() -> None:
    assert tolerated_loss(100, 0.01) == pytest.approx(0.15)
    assert tolerated_loss(100, 0.01, served=False) == pytest.approx(0.1)
    assert tolerated_loss(1_000_000, 0.01) == 0.01
    assert tolerated_loss(0, 0.01) == 0.01


@pytest.mark.parametrize("n", [60, 600])
def test_a_challenger_that_only_ties_passes(n: int) -> None:
    answers = np.arange(n) % 3
    verdict = judge(predictions(answers), predictions(answers), answers, LABELS)
    assert verdict.promote
    assert verdict.margin == pytest.approx(1.5 * n**-0.5)


def test_a_challenger_under_which_the_answers_are_less_likely_is_rejected_though_it_agrees_as_often() -> None:
    answers = np.arange(300) % 3
    sure, unsure = predictions(answers, confidence=0.9), predictions(answers, confidence=0.6)
    assert judge(sure, unsure, answers, LABELS).promote
    verdict = judge(unsure, sure, answers, LABELS)
    assert not verdict.promote
    assert "less likely" in verdict.reason


def test_a_challenger_that_may_be_unlucky_passes_and_one_that_may_not_does_not() -> None:
    answers = np.arange(60) % 3
    incumbent = predictions(wrong(answers, 8))
    passed = judge(predictions(wrong(answers, 12, start=8)), incumbent, answers, LABELS)
    assert passed.promote
    assert passed.difference_lower < -tolerated_loss(60, 0.01, served=False)
    assert not judge(predictions(wrong(answers, 20, start=8)), incumbent, answers, LABELS).promote


def test_too_few_judge_answers_say_how_many_are_missing() -> None:
    answers = np.arange(12) % 3
    verdict = judge(predictions(answers), None, answers, LABELS, majority=0)
    assert not verdict.promote
    assert "only 12 judge answers: 18 more" in verdict.reason


def test_without_judge_answers_nothing_is_promoted() -> None:
    verdict = judge(np.zeros((0, 3)), None, [], LABELS)
    assert not verdict.promote
    assert verdict.n == 0
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["agreement_challenger"] is None


def test_the_first_bundle_is_measured_against_the_majority_label() -> None:
    answers = np.array([0] * 50 + [1] * 30 + [2] * 20)
    good = judge(predictions(wrong(answers, 10)), None, answers, LABELS, majority=0)
    assert good.promote
    assert good.agreement_incumbent == 0.5
    poor = judge(predictions(wrong(answers, 60)), None, answers, LABELS, majority=0)
    assert not poor.promote
    assert poor.margin == pytest.approx(0.1)


def test_a_label_that_got_much_worse_vetoes_an_overall_gain() -> None:
    answers = np.array([0] * 300 + [1] * 60)
    incumbent = predictions(wrong(answers, 120))
    challenger = predictions(wrong(answers, 30, start=300))
    verdict = judge(challenger, incumbent, answers, LABELS)
    assert verdict.difference_lower > 0
    assert not verdict.promote
    assert "on 'yes'" in verdict.reason


@pytest.mark.parametrize(("lost", "promoted"), [(7, True), (12, False)])
def test_a_label_may_lose_what_the_incumbent_may_owe_to_luck(lost: int, promoted: bool) -> None:
    answers = np.array([0] * 240 + [1] * 120)
    challenger = predictions(wrong(answers, lost, start=240))
    verdict = judge(challenger, predictions(wrong(answers, 60)), answers, LABELS)
    assert difference_lower(lost, 0, 120, 0.05) > 0.01, "more than the margin, and proven"
    assert verdict.promote is promoted
    assert ("on 'yes'" in verdict.reason) is not promoted


def test_a_rare_label_is_reported_and_not_judged() -> None:
    answers = np.array([0] * 300 + [1] * 29)
    challenger = predictions(wrong(answers, 29, start=300))
    verdict = judge(challenger, predictions(wrong(answers, 120)), answers, LABELS)
    assert verdict.promote
    assert not verdict.labels["yes"].judged
    assert verdict.labels["yes"].n == 29
    assert verdict.labels["yes"].challenger == 0.0
    assert verdict.labels["maybe"].n == 0


@lru_cache
def least_gain(n: int, margin: float, delta: float) -> list[int]:
    """For each count of items lost, the least count of items won that passes the gate (n + 1: none does)."""
    won = range(n + 1)
    return [bisect_left(won, True, key=lambda b: difference_lower(b, lost, n, delta) >= -margin) for lost in range(n)]


@pytest.mark.parametrize("n", [25, 40])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2])
def test_a_challenger_worse_by_the_margin_passes_at_most_delta_of_the_time(n: int, share: float) -> None:
    margin, delta = 0.05, 0.1
    chances = [share, share + margin, 1 - 2 * share - margin]
    passing = sum(
        multinomial.pmf([won, lost, n - won - lost], n, chances)
        for lost, least in enumerate(least_gain(n, margin, delta))
        for won in range(least, n - lost + 1)
    )
    assert passing <= delta


def test_the_lower_limit_rises_with_gains_and_falls_with_losses() -> None:
    limits = [difference_lower(better, 10, 200, 0.1) for better in (0, 5, 10, 20)]
    assert limits == sorted(limits)
    limits = [difference_lower(10, worse, 200, 0.1) for worse in (0, 5, 10, 20)]
    assert limits == sorted(limits, reverse=True)


def test_the_lower_limit_lies_below_the_estimate_and_nears_it_with_more_answers() -> None:
    wide, narrow = difference_lower(12, 8, 100, 0.1), difference_lower(120, 80, 1_000, 0.1)
    assert wide < narrow < 0.04


@pytest.mark.parametrize(
    ("better", "worse", "n", "limit"),
    [
        (0, 5, 5, -1.0),
        (5, 0, 5, 2 * 0.1**0.2 - 1),  # a gain of d comes with at most (1 + d) / 2 items that only the first gets right
        (0, 0, 5, 0.1**0.2 - 1),
        (1, 0, 1, 2 * 0.1 - 1),
    ],
)
def test_extreme_counts_have_the_limit_that_can_be_computed_by_hand(
    better: int, worse: int, n: int, limit: float
) -> None:
    assert limit - 1e-4 <= difference_lower(better, worse, n, 0.1) <= limit


def test_probabilities_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected probabilities of shape"):
        judge(np.zeros((3, 2)), None, [0, 1, 0], LABELS)


def test_an_evaluation_counts_what_is_kept_and_how_much_of_it_disagrees() -> None:
    answers = np.array([0] * 6 + [1] * 4)
    sure = predictions(wrong(answers[:5], 1), confidence=0.95)
    unsure = predictions(answers[5:], confidence=0.5)
    card = evaluation(np.concatenate([sure, unsure]), answers, LABELS, 0.9)
    assert card["n"] == 10
    assert card["agreement"] == 0.9
    assert (card["kept"], card["coverage"], card["kept_disagreement"]) == (5, 0.5, 0.2)
    assert card["kept_disagreement_upper"] == upper_bound(1, 5, 0.1)
    assert card["labels"]["no"] == {"n": 6, "recall": 5 / 6, "precision": 1.0, "ece": None}
    assert card["labels"]["maybe"] == {"n": 0, "recall": None, "precision": None, "ece": None}
    assert sum(bar["n"] for bar in card["reliability"]) == 10


def test_a_label_with_enough_answers_has_its_own_calibration_error() -> None:
    answers = np.array([0] * 40 + [1] * 10)
    card = evaluation(predictions(wrong(answers, 8), confidence=0.9), answers, LABELS, 0.5)
    assert card["labels"]["no"]["ece"] == pytest.approx(0.1)  # 32 chosen, all right
    assert card["labels"]["yes"]["ece"] is None


def test_an_evaluation_on_nothing_is_valid_json_without_figures() -> None:
    card = json.loads(json.dumps(evaluation(np.zeros((0, 3)), [], LABELS, 0.9), allow_nan=False))
    assert card["agreement"] is None
    assert card["ece"] is None
    assert card["kept_disagreement_upper"] == 1.0
