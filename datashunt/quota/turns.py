"""Whose turn it is of those who share one key: start-time fair queueing. Pure.

A classifier's next request begins where its last one ended in virtual time, and ends 1 / weight later; the one
that begins first is served first. Whoever had nothing to ask begins where the service is: its share went to the
others, and it neither owes nor is owed anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one classifier, in requests of weight 1.

    Attributes:
        classifier: row of the classifier; None when it shares its key with no other.
        weight: its share is its weight among those that have something to ask.
        begins: virtual time at which its next request begins.
    """

    classifier: int | None = None
    weight: float = 1.0
    begins: float = 0.0


ALONE = Turn()
"""The turn of a classifier that shares its key with no other."""


def in_turn(weights: Mapping[int, float], ended: Mapping[int, float], served: float) -> list[Turn]:
    """The turns of classifiers that share a key, the next one first.

    Args:
        weights: classifier → weight, more than 0.
        ended: classifier → virtual time at which its last request ended; without an entry it had none.
        served: virtual time of the service: where the request began that was served last.
    """
    turns = [Turn(row, weight, max(served, ended.get(row, 0.0))) for row, weight in weights.items()]
    return sorted(turns, key=lambda turn: (turn.begins, turn.classifier))
