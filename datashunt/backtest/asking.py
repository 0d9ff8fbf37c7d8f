"""Which items of a batch are worth a question, when questions are limited. Pure; numpy only.

Each rule gives every item an urgency; those with the largest are asked. `confidence` is what the product does; the
others are compared with it in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Batch:
    """What a rule may look at.

    Attributes:
        probabilities: (n, k) of the incumbent.
        committee: (n, k) of the first bundle that served.
        features: (n, d) the incumbent's pooled features.
        draws: (n,) uniform in [0, 1), of the items' ids.
    """

    probabilities: Floats
    committee: Floats
    features: Floats
    draws: Floats


def confidence(batch: Batch) -> Floats:
    """1 - the largest probability."""
    return np.asarray(1.0 - batch.probabilities.max(axis=1))


def margin(batch: Batch) -> Floats:
    """1 - (largest - second largest probability)."""
    ordered = np.sort(batch.probabilities, axis=1)
    return np.asarray(1.0 - (ordered[:, -1] - ordered[:, -2]))


def entropy(batch: Batch) -> Floats:
    """Shannon's, in nats."""
    p = np.maximum(batch.probabilities, _TINY)
    return np.asarray(-(p * np.log(p)).sum(axis=1))


def disagreement(batch: Batch) -> Floats:
    """Jensen-Shannon divergence of incumbent and first bundle in nats, added to 1 - confidence."""
    p, q = np.maximum(batch.probabilities, _TINY), np.maximum(batch.committee, _TINY)
    mean = (p + q) / 2
    divergence = ((p * np.log(p / mean)).sum(axis=1) + (q * np.log(q / mean)).sum(axis=1)) / 2
    return np.asarray(confidence(batch) + divergence)


def diversity(batch: Batch) -> Floats:
    """Least confidence, discounted by likeness to items that come first: greedy, by cosine of the features.

    The urgencies are ranks: n for the first item chosen, 1 for the last.
    """
    unit = batch.features / np.maximum(np.linalg.norm(batch.features, axis=1, keepdims=True), _TINY)
    doubt = confidence(batch)
    nearest = np.zeros(len(unit))
    ranks = np.zeros(len(unit))
    for rank in range(len(unit), 0, -1):
        score = np.where(ranks > 0, -np.inf, doubt * (1.0 - np.clip(nearest, 0.0, 1.0)))
        chosen = int(score.argmax())
        ranks[chosen] = rank
        nearest = np.maximum(nearest, unit @ unit[chosen])
    return ranks


def random(batch: Batch) -> Floats:
    """Whatever comes."""
    return batch.draws


RULES: dict[str, Callable[[Batch], Floats]] = {
    rule.__name__: rule for rule in (confidence, margin, entropy, disagreement, diversity, random)
}
