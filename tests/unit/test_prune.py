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
    assert prune.calibrate(probabilities[:99], labels[:99], 0.99) is None
    assert prune.calibrate(probabilities, labels, 0.99) == probabilities[np.arange(100), labels].min()


@pytest.mark.parametrize("skill", [0.3, 1.0, 3.0])
def test_the_llms_own_label_stays_offered_as_often_as_promised(skill: float) -> None:
    """Coverage is exact on average over calibrations: all trials together are one large binomial sample."""
    rng = np.random.default_rng(7)
    coverage, trials, fresh = 0.9, 150, 40
    covered = 0
    for _ in range(trials):
        probabilities, labels = sample(rng, 60 + fresh, skill=skill)
        cut = prune.calibrate(probabilities[:60], labels[:60], coverage)
        assert cut is not None
        covered += prune.offered(probabilities[60:], cut)[np.arange(fresh), labels[60:]].sum()
    # Items of one trial share its cut, whose coverage varies as Beta(55, 6): deviation 0.038 a trial.
    slack = 4 * (0.038 / trials**0.5) * trials * fresh
    assert covered >= binom.ppf(1e-4, trials * fresh, coverage) - slack


def test_equal_weights_are_no_weights_and_a_heavy_answer_is_worth_itself() -> None:
    probabilities, labels = sample(np.random.default_rng(1), 60)
    assert prune.calibrate(probabilities, labels, 0.9, np.full(60, 7.0)) == prune.calibrate(probabilities, labels, 0.9)
    assert prune.worth(np.array([4.0, 1.0, 1.0])) == 1.5
    assert prune.calibrate(probabilities[:30], labels[:30], 0.9, np.array([4.0] + [1.0] * 29)) is None  # worth 8.25


def test_the_promise_is_kept_where_some_items_are_drawn_more_often() -> None:
    """Half of the items are drawn nine times as often, and their labels are those that a model finds easily."""
    rng = np.random.default_rng(11)
    k, covered, naive, fresh = 8, 0.0, 0.0, 2_000
    for _ in range(60):

        def drawn(n: int, easy: float) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
            known = rng.random(n) < easy
            belief = rng.dirichlet([0.3] * k, size=n)
            labels = np.array([rng.choice(k, p=row) for row in belief])
            labels = np.where(known, belief.argmax(axis=1), rng.integers(k, size=n) * ~known + labels * known)
            return belief, labels, known

        probabilities, labels, known = drawn(400, 0.9)
        weights = np.where(known, 1.0, 9.0)
        later, said, _ = drawn(fresh, 0.5)
        for weighs, total in ((weights, "covered"), (None, "naive")):
            cut = prune.calibrate(probabilities, labels, 0.8, weighs)
            assert cut is not None
            share = prune.offered(later, cut)[np.arange(fresh), said].mean() / 60
            covered, naive = (covered + share, naive) if total == "covered" else (covered, naive + share)
    assert covered >= 0.79
    assert naive < 0.75


def test_a_label_is_offered_up_to_its_reach_and_no_further() -> None:
    probabilities, labels = sample(np.random.default_rng(5), 50)
    rows = np.arange(50)
    for row, (reach, label) in enumerate(zip(prune.reach(probabilities, labels), labels, strict=True)):
        assert prune.offered(probabilities, reach)[row, label]
        assert (reach > 1.0) == prune.offered(probabilities, np.nextafter(reach, 9.0))[rows, labels][row]


def test_answers_among_the_two_most_probable_do_not_lower_the_cut() -> None:
    """They are offered whatever the cut, so it has to pay for the others alone."""
    probabilities = np.array([[0.5, 0.3, 0.15, 0.05]] * 9 + [[0.4, 0.3, 0.2, 0.1]])
    assert prune.calibrate(probabilities, np.array([0, 1] * 4 + [2, 3]), 0.8) == 0.15
    everything = prune.calibrate(probabilities, np.array([0, 1] * 5), 0.8)
    assert everything is not None
    assert prune.offered(probabilities, everything).sum(axis=1).max() == 2


def test_the_sets_get_smaller_as_the_model_gets_better() -> None:
    rng = np.random.default_rng(3)
    sizes = []
    for noise in (0.8, 0.3):
        truth = rng.dirichlet([0.1] * 8, size=400)
        labels = truth.argmax(axis=1)
        belief = (1 - noise) * truth + noise * rng.dirichlet([0.3] * 8, size=400)
        cut = prune.calibrate(belief[:200], labels[:200], 0.95)
        assert cut is not None
        sizes.append(prune.offered(belief[200:], cut).sum())
    assert sizes[1] < sizes[0]


def test_at_least_two_labels_are_offered_the_most_probable_ones() -> None:
    made = prune.offered(np.array([[0.01, 0.9, 0.02, 0.07], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]), 2.0)
    assert made.tolist() == [[False, True, False, True], [True, True, False, False], [True, True, False, False]]


def test_sure_items_are_offered_fewer_labels_than_doubtful_ones() -> None:
    assert prune.offered(np.array([[0.8, 0.1, 0.07, 0.03], [0.4, 0.3, 0.2, 0.1]]), 0.1).sum(axis=1).tolist() == [2, 4]


def test_of_no_items_nothing_is_offered() -> None:
    assert prune.offered(np.zeros((0, 3), np.float32), 0.1).shape == (0, 3)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.integers(2, 9), st.integers(1, 20))
def test_every_label_at_the_cut_is_offered_and_the_most_probable_two(seed: int, cut: float, k: int, n: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet([0.5] * k, n)
    before = probabilities.copy()
    made = prune.offered(probabilities, cut)
    assert (made.sum(axis=1) == np.maximum(2, (probabilities >= cut).sum(axis=1))).all()
    assert made[probabilities >= cut].all()
    assert made[np.arange(n), probabilities.argmax(axis=1)].all()
    assert (probabilities == before).all()


def test_the_priors_name_each_label_with_two_decimals() -> None:
    said = prune.priors(np.array([[0.666, 0.334], [1.0, 0.0]], np.float32), ("good", "bad"))
    assert said == [{"good": 0.67, "bad": 0.33}, {"good": 1.0, "bad": 0.0}]
