"""Which texts rounded weights may decide otherwise, and what a bundle's card says of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datashunt.small import rounding
from datashunt.small.bundle import BundleInfo, model_card

INFO = BundleInfo(
    labels=("a", "b"), temperature=1.0, recipe="head", threshold=0.8, base="x", max_tokens=8, created_at="2026-01-01"
)


def decided(probabilities: NDArray[np.float64], threshold: float) -> list[int]:
    kept = probabilities.max(axis=1) >= threshold
    return np.where(kept, probabilities.argmax(axis=1), -1).tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.floats(1e-4, 0.05), st.integers(2, 9))
def test_what_is_beyond_doubt_is_decided_alike_however_probabilities_move(
    seed: int, threshold: float, near: float, labels: int
) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.dirichlet(np.full(labels, 0.3), 200)
    rounded = exact + rng.uniform(-near, near, exact.shape)
    sure = ~rounding.doubtful(rounded, threshold, near, 2 * near)
    assert decided(exact[sure], threshold) == decided(rounded[sure], threshold)


def test_doubt_is_near_the_threshold_or_between_two_labels_that_are_kept() -> None:
    rounded = np.array([[0.81, 0.19], [0.9, 0.1], [0.7, 0.3], [0.505, 0.495], [np.nan, np.nan]])
    assert rounding.doubtful(rounded, 0.8, 0.02, 0.04).tolist() == [True, False, False, False, True]
    assert rounding.doubtful(rounded, 0.0, 0.02, 0.04).tolist() == [False, False, False, True, True]
    assert rounding.doubtful(np.zeros((0, 3)), 0.8, 0.02, 0.04).tolist() == []


def test_a_single_label_leaves_no_doubt() -> None:
    assert rounding.doubtful(np.ones((3, 1)), 0.8, 0.02, 0.04).tolist() == [False] * 3


def test_the_worst_threshold_counts() -> None:
    exact = np.tile([[0.9, 0.1]], (200, 1))
    rounded = exact.copy()
    rounded[:10] = [0.79, 0.21]
    found = rounding.measure(exact, rounded)
    assert (found["n"], found["changed"]) == (200, 0.05)
    assert found["near"] == pytest.approx(0.11)
    assert found["apart"] == 0.0
    assert found["changed_beyond"] == 0.0


def test_few_texts_that_move_far_are_not_reckoned_with_but_counted() -> None:
    exact = np.tile([[0.9, 0.1]], (2_000, 1))
    rounded = exact.copy()
    rounded[:2] = [0.6, 0.4]
    found = rounding.measure(exact, rounded)
    assert found["near"] == 0.0
    assert found["changed_beyond"] == 0.001
    rounded[2] = [0.6, 0.4]
    assert rounding.measure(exact, rounded)["near"] == pytest.approx(0.3)


def test_labels_that_change_places_are_all_reckoned_with() -> None:
    exact = np.tile([[0.53, 0.47]], (2_000, 1))
    rounded = exact.copy()
    rounded[0] = [0.46, 0.54]
    found = rounding.measure(exact, rounded)
    assert found["apart"] == pytest.approx(0.08)
    assert rounding.doubtful(rounded, 0.0, found["near"], found["apart"]).all()
    assert found["changed_beyond"] == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 1_500))
def test_no_more_decisions_change_than_may_on_the_measured_texts(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.dirichlet([0.5, 0.5, 0.5], count)
    found = rounding.measure(exact, exact + rng.normal(0.0, 0.02, exact.shape))
    assert found["changed_beyond"] <= rounding.MOST_CHANGED


@pytest.mark.parametrize(
    ("change", "allowed"),
    [({}, True), ({"n": 99}, False), ({"changed_beyond": 0.002}, False), ({"again": 0.3}, False)],
)
def test_a_bundle_passes_with_enough_texts_few_changes_and_little_to_score_again(
    change: dict[str, float], allowed: bool
) -> None:
    found = {"n": 500, "near": 0.01, "apart": 0.02, "changed": 0.01, "changed_beyond": 0.0, "again": 0.05}
    assert rounding.passes({**found, **change}) is allowed


def test_nothing_measured_does_not_pass() -> None:
    assert not rounding.passes({})


def test_a_model_that_broke_down_does_not_pass_and_can_be_written_down() -> None:
    found = rounding.measure(np.full((200, 2), np.nan), np.full((200, 2), np.nan))
    assert found["near"] == 1.0
    assert not rounding.passes(found)


def test_the_card_says_what_bf16_changes() -> None:
    found = {"n": 500.0, "near": 0.01, "apart": 0.02, "changed": 0.004, "changed_beyond": 0.0, "again": 0.05}
    assert "| bf16 | not measured: a CPU scores it in fp32 |" in model_card(INFO)
    card = model_card(BundleInfo(**{**{n: getattr(INFO, n) for n in INFO.__slots__}, "rounding": found}))
    assert "may be used on a CPU: at worst it changes 0.40% of the decisions of 500 texts, 0.00% where those" in card
    assert "(5.0% of the texts at most)" in card
