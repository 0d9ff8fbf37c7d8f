"""Which items a rule asks first, on batches where that can be said by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.backtest import asking
from datashunt.backtest.asking import RULES, Batch


def batch(probabilities: Any, committee: Any = None, features: Any = None, draws: Any = None) -> Batch:
    p = np.array(probabilities, dtype=np.float64)
    return Batch(
        probabilities=p,
        committee=p if committee is None else np.array(committee, dtype=np.float64),
        features=np.eye(len(p)) if features is None else np.array(features, dtype=np.float64),
        draws=np.linspace(0.0, 0.9, len(p)) if draws is None else np.array(draws),
    )


def first(rule: str, made: Batch) -> int:
    return int(RULES[rule](made).argmax())


@given(st.sampled_from(sorted(RULES)), st.integers(1, 20), st.integers(2, 7), st.integers(0, 1_000))
def test_each_rule_gives_every_item_a_finite_urgency(rule: str, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = batch(rng.dirichlet(np.ones(k), n), rng.dirichlet(np.ones(k), n), rng.normal(size=(n, 5)))
    urgency = RULES[rule](made)
    assert urgency.shape == (n,)
    assert np.isfinite(urgency).all()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_model_that_rules_a_label_out_is_no_trouble(rule: str) -> None:
    assert np.isfinite(RULES[rule](batch([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]))).all()


def test_confidence_asks_the_least_confident() -> None:
    assert asking.confidence(batch([[0.9, 0.1, 0.0], [0.4, 0.3, 0.3]])).tolist() == pytest.approx([0.1, 0.6])


def test_margin_asks_where_two_labels_are_close_though_others_are_less_confident() -> None:
    made = batch([[0.48, 0.47, 0.05], [0.4, 0.2, 0.2]])
    assert asking.margin(made).tolist() == pytest.approx([0.99, 0.8])
    assert (first("margin", made), first("confidence", made)) == (0, 1)


def test_entropy_asks_where_all_labels_are_possible() -> None:
    made = batch([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    assert asking.entropy(made).tolist() == pytest.approx([np.log(2), 1.5 * np.log(2)])
    assert first("entropy", made) == 1


def test_disagreement_asks_where_the_first_bundle_says_otherwise() -> None:
    made = batch([[0.8, 0.2], [0.8, 0.2]], [[0.8, 0.2], [0.2, 0.8]])
    urgency = asking.disagreement(made)
    assert urgency[0] == pytest.approx(0.2)
    assert urgency[1] == pytest.approx(0.2 + 0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5))


def test_random_is_as_the_items_ids_have_it() -> None:
    assert first("random", batch([[0.5, 0.5], [0.9, 0.1]], draws=[0.1, 0.7])) == 1


class TestDiversity:
    @given(st.integers(1, 20), st.integers(0, 1_000))
    def test_gives_ranks_and_the_largest_to_the_least_confident(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        made = batch(rng.dirichlet(np.ones(3), n), features=rng.normal(size=(n, 4)))
        ranks = asking.diversity(made)
        assert sorted(ranks) == list(range(1, n + 1))
        assert ranks.argmax() == asking.confidence(made).argmax()

    def test_prefers_an_unlike_item_to_a_less_confident_twin(self) -> None:
        made = batch([[0.5, 0.5], [0.51, 0.49], [0.8, 0.2]], features=[[1, 0], [2, 0], [0, 1]])
        assert asking.diversity(made).tolist() == [3, 1, 2]

    def test_opposite_features_are_no_likeness(self) -> None:
        made = batch([[0.5, 0.5], [0.6, 0.4], [0.7, 0.3]], features=[[1, 0], [-1, 0], [0, 1]])
        assert asking.diversity(made).tolist() == [3, 2, 1]

    def test_items_without_features_or_doubt_get_ranks_too(self) -> None:
        made = batch([[1.0, 0.0]] * 3, features=np.zeros((3, 2)))
        assert sorted(asking.diversity(made)) == [1, 2, 3]
