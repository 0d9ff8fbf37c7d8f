"""Whose turn it is: shares follow the weights of those who have something to ask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datashunt.quota import in_turn

WEIGHTS = st.dictionaries(st.integers(1, 6), st.floats(0.1, 10.0), min_size=2, max_size=6)


class Service:
    """Serves whoever's turn it is of those that have something to ask, and counts."""

    def __init__(self, weights: dict[int, float]) -> None:
        self.weights = weights
        self.ended: dict[int, float] = {}
        self.served = 0.0
        self.grants = dict.fromkeys(weights, 0)

    def serve(self, asking: set[int]) -> int:
        turns = in_turn(self.weights, self.ended, self.served)
        turn = next(one for one in turns if one.classifier in asking)
        assert turn.classifier is not None
        self.served = max(self.served, turn.begins)
        self.ended[turn.classifier] = turn.begins + 1 / turn.weight
        self.grants[turn.classifier] += 1
        return turn.classifier


@given(WEIGHTS)
def test_grants_are_in_proportion_to_the_weights(weights: dict[int, float]) -> None:
    service = Service(weights)
    for _ in range(300):
        service.serve(set(weights))
    virtual = [service.grants[row] / weight for row, weight in weights.items()]
    assert max(virtual) - min(virtual) <= 2 / min(weights.values())


@given(WEIGHTS, st.integers(1, 500))
def test_whoever_was_idle_gets_its_share_from_now_on_and_no_more(weights: dict[int, float], alone: int) -> None:
    service = Service(weights)
    late, *others = sorted(weights)
    for _ in range(alone):
        service.serve(set(others))
    before = dict(service.grants)
    for _ in range(200):
        service.serve(set(weights))
    virtual = [(service.grants[row] - before[row]) / weight for row, weight in weights.items()]
    assert max(virtual) - min(virtual) <= 4 / min(weights.values())
    assert service.grants[late] > 0


@given(WEIGHTS)
def test_what_the_idle_leave_is_used_by_the_others(weights: dict[int, float]) -> None:
    only = min(weights)
    service = Service(weights)
    assert [service.serve({only}) for _ in range(20)] == [only] * 20


def test_of_equals_the_older_classifier_is_first() -> None:
    assert [turn.classifier for turn in in_turn({7: 1.0, 3: 1.0}, {}, 0.0)] == [3, 7]
