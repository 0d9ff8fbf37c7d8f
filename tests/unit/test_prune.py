from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from datashunt import prune


def sample(
    rng: np.random.Generator, n: int, k: int = 6, skill: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities of an imperfect model, and labels drawn from other, true ones."""
    truth = rng.dirichlet([0.3] * k, size=n)
    labels = np.array([rng.choice(k, p=row) for row in truth])
    belief = truth**skill + 0.02
    return belief / belief.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(("coverage", "answers"), [(0.99, 100), (0.9, 10), (0.95, 20), (0.5, 2)])
def test_a_cut_needs_one_answer_more_than_it_may_miss(coverage: float, answers: int) -> None:
    assert prune.needed(coverage) == answers


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 1.5])
def test_a_coverage_that_is_none_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="inside"):
        prune.needed(coverage)


def test_too_few_answers_give_no_cut_and_one_more_gives_one() -> None:
    probabilities, labels = sample(np.random.default_rng(1), 100)
    assert prune.calibrate(probabilities[:99], labels[:99]) is None
    assert prune.calibrate(probabilities, labels) is not None


@pytest.mark.parametrize("skill", [0.3, 1.0, 3.0])
def test_the_llms_own_label_stays_offered_as_often_as_promised(skill: float) -> None:
    """Coverage is exact on average over calibrations: all trials together are one large binomial sample."""
    rng = np.random.default_rng(7)
    coverage, trials, fresh = 0.9, 150, 40
    covered = 0
    for _ in range(trials):
        probabilities, labels = sample(rng, 60 + fresh, skill=skill)
        cut = prune.calibrate(probabilities[:60], labels[:60], coverage)
        for p, label in zip(probabilities[60:], labels[60:], strict=True):
            offered = prune.candidates(p, cut)
            covered += offered is None or label in offered
    # Items of one trial share its cut, whose coverage varies as Beta(55, 6): deviation 0.038 a trial.
    slack = 4 * (0.038 / trials**0.5) * trials * fresh
    assert covered >= binom.ppf(1e-4, trials * fresh, coverage) - slack


def test_the_sets_get_smaller_as_the_model_gets_better() -> None:
    rng = np.random.default_rng(3)
    sizes = []
    for noise in (0.8, 0.3):
        truth = rng.dirichlet([0.1] * 8, size=400)
        labels = truth.argmax(axis=1)
        belief = (1 - noise) * truth + noise * rng.dirichlet([0.3] * 8, size=400)
        cut = prune.calibrate(belief[:200], labels[:200], 0.95)
        sizes.append(sum(len(prune.candidates(p, cut) or p) for p in belief[200:]))
    assert sizes[1] < sizes[0]


def test_with_no_cut_all_labels_are_offered() -> None:
    assert prune.candidates(np.array([0.9, 0.05, 0.05]), None) is None


def test_at_least_two_labels_are_offered_the_most_probable_ones() -> None:
    assert prune.candidates(np.array([0.01, 0.9, 0.02, 0.07]), 0.95) == (1, 3)


def test_a_set_of_all_labels_is_no_pruning() -> None:
    assert prune.candidates(np.array([0.4, 0.3, 0.3]), 0.1) is None


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.integers(2, 9))
def test_candidates_are_in_order_and_hold_every_label_at_the_cut(seed: int, cut: float, k: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet([0.5] * k)
    offered = prune.candidates(probabilities, cut)
    indices = tuple(range(k)) if offered is None else offered
    assert list(indices) == sorted(set(indices))
    assert len(indices) >= 2
    assert set(np.flatnonzero(probabilities >= cut)) <= set(indices)
    assert int(probabilities.argmax()) in indices


def test_the_prior_names_each_label_with_two_decimals() -> None:
    said = prune.prior(np.array([0.666, 0.334], np.float32), ("good", "bad"))
    assert said == {"good": 0.67, "bad": 0.33}
