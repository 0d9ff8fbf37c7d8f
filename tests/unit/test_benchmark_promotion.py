"""The benchmark of the promotion gate: what a chain is, what a label is proven to lose, and what came true."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks import promotion
from benchmarks.promotion import Challenge, chain, challenge, compared, gate

NAMES = ("bad", "fair", "good")


def sure_of(labels: np.ndarray) -> np.ndarray:
    return np.float32(0.05 + 0.85 * np.eye(3)[labels])


def measured(measures: list) -> dict[str, float]:
    return {one.name: one.value for one in measures}


@pytest.fixture
def trade() -> Challenge:
    """Trades fourteen of sixty `bad` answers for twenty of thirty `fair` ones; is right in all that came later."""
    said = np.repeat([0, 0, 1, 2], 30)
    incumbent, challenger = said.copy(), said.copy()
    challenger[:14] = 1
    incumbent[60:80] = 2
    later = np.array([0, 1, 2, 2])
    wrong = np.array([0, 1, 2, 0])
    return challenge((sure_of(challenger), sure_of(incumbent), said), (sure_of(later), sure_of(wrong), later), NAMES)


def test_a_label_is_proven_to_lose_what_the_exact_limit_says(trade: Challenge) -> None:
    assert trade.verdict.labels["bad"].n == 60
    assert 0.1 < trade.lost["bad"] < 14 / 60
    assert trade.lost["fair"] < 0 <= trade.verdict.agreement_challenger - trade.verdict.agreement_incumbent
    assert trade.turned_away(0.0) == ["bad"]
    assert trade.turned_away(0.5) == ["bad"]
    assert trade.turned_away(1.5) == []
    assert not trade.verdict.promote, "as the gate itself sees it"
    assert "on 'bad'" in trade.verdict.reason


def test_what_came_true_is_of_later_items_only(trade: Challenge) -> None:
    assert trade.gain == 0.25
    assert trade.recall == {"bad": 0.0, "fair": 0.0, "good": 0.5}
    assert measured(compared([trade], 0.0)) == {"away_0": 1, "better_0": 1.0, "gain_0": 0.25, "recall_0": 0.0}
    assert measured(compared([trade], 1.5)) == {"away_1.5": 0}
    assert measured(gate([trade])) == {"challengers": 1, "gain": 0.25, "rejected": 1, "rejected_gain": 0.25}


def test_a_label_of_which_nothing_came_has_no_recall() -> None:
    said = np.zeros(40, dtype=np.intp)
    one = challenge((sure_of(said), sure_of(said), said), (sure_of(said[:3]), sure_of(said[:3]), said[:3]), NAMES)
    assert list(one.lost) == ["bad"], "the others have no thirty answers"
    assert one.recall["bad"] == 0.0
    assert math.isnan(one.recall["good"])


def test_a_chain_is_heads_that_learn_ever_more_and_judge_what_they_did_not_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    said = rng.integers(0, 3, 2_000)
    features = torch.from_numpy(np.float32(np.eye(3)[said] + rng.normal(0, 0.7, (2_000, 3))))
    learned = promotion._learned
    seen: list[set[int]] = []

    def spied(features: torch.Tensor, said: np.ndarray, k: int, train: np.ndarray, fit: np.ndarray) -> object:
        head = learned(features, said, k, train, fit)
        seen.append({*train.tolist(), *fit.tolist()})

        def scored(items: np.ndarray) -> np.ndarray:
            assert not seen[-1] & {*items.tolist()}
            return head(items)

        return scored

    monkeypatch.setattr(promotion, "_learned", spied)
    found = list(chain(features, said, NAMES, 0, (300, 400, 533)))
    assert [len(one) for one in seen] == sorted(len(one) for one in seen)
    assert seen[0] < seen[1] < seen[2]
    assert len(found) == 2
    assert all(one.verdict.agreement_challenger > 0.6 for one in found)
    assert all(abs(one.gain) < 0.1 for one in found)
