"""Simulated lives of classifiers, many at a time: what the audits of a bundle show, where its true risks are known.

A bundle is a distribution over cells: a level of confidence, what the small model says, what the LLM says. Targets see
a cell as they see an item, so that the risk of each threshold is exact, and counts of cells take the place of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt.certificate import Answers, Target

LEVELS = np.linspace(0.97, 0.31, 12)
"""Confidences, which are the thresholds, too."""

RARE, COMMON, OTHER = 0, 1, 2
PAIRS = ((COMMON, COMMON), (COMMON, OTHER), (COMMON, RARE), (RARE, COMMON), (RARE, RARE))
"""What the small model says, and what the LLM does."""

CELLS = Answers(
    np.repeat(LEVELS, len(PAIRS)),
    np.tile([said for said, _ in PAIRS], len(LEVELS)),
    np.tile([truth for _, truth in PAIRS], len(LEVELS)),
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle: the chance (m,) of each cell."""

    chance: Floats

    def risk(self, target: Target) -> Floats:
        """(t,) share of the scope that really misses, at each threshold; 0 where nothing is in scope."""
        scope, missed = (self.chance @ flags for flags in target.tally(CELLS, LEVELS))
        return np.divide(missed, scope, out=np.zeros_like(missed), where=scope > 0)

    def broken(self, targets: Sequence[Target]) -> NDArray[np.bool_]:
        """(t,) at which thresholds the promise does not hold."""
        return np.any([self.risk(target) > target.allowed for target in targets], axis=0)

    def drawn(self, rng: np.random.Generator, audits: int, *shape: int) -> Counts:
        """(*shape, m) counts of cells among so many audited items."""
        return rng.multinomial(audits, self.chance, size=shape)


def tallied(target: Target, counts: Counts) -> tuple[Counts, Counts]:
    """(…, t) in scope, and missing, at each threshold, of counts (…, m) of cells."""
    scope, missed = target.tally(CELLS, LEVELS)
    return counts @ scope.astype(np.int64), counts @ missed.astype(np.int64)


def rising(rng: np.random.Generator, scale: float) -> Floats:
    """Disagreement (levels,) that rises as confidence falls, steeper or less."""
    return np.minimum(scale * (1.02 - LEVELS) ** rng.uniform(0.7, 2.0), 0.95)


def flat(rng: np.random.Generator, scale: float) -> Floats:  # noqa: ARG001 - takes the place of `rising`
    """A teacher that says something else now and then, whatever the item."""
    return np.full(len(LEVELS), min(scale, 0.95))


def hardest(rng: np.random.Generator, targets: Sequence[Target], curve: object, rare: float) -> Bundle:
    """A bundle that just breaks the promise from a random threshold on: by a two hundredth of what is allowed.

    Args:
        rng: draws the levels' shares, the curve and the threshold.
        targets: the first one decides where the promise breaks.
        curve: `rising` or `flat`.
        rare: share of the items that are the rare label.
    """
    assert callable(curve)
    shares = rng.dirichlet(np.full(len(LEVELS), 4.0))
    place, seed = int(rng.integers(2, len(LEVELS))), int(rng.integers(2**32))
    low, high = 0.0, 20.0
    for _ in range(50):
        scale = (low + high) / 2
        bundle = _bundle(shares, curve(np.random.default_rng(seed), scale), rare)
        low, high = (low, scale) if bundle.risk(targets[0])[place] > 1.005 * targets[0].allowed else (scale, high)
    return _bundle(shares, curve(np.random.default_rng(seed), high), rare)


def _bundle(shares: Floats, wrong: Floats, rare: float) -> Bundle:
    """Of the rare label, the small model misses as often as it is wrong; of what it says is rare, so much is not."""
    cells = np.stack(
        [
            (1 - rare) * (1 - wrong),
            (1 - rare) * wrong * 0.9,
            rare * wrong,
            (1 - rare) * wrong * 0.1,
            rare * (1 - wrong),
        ],
        axis=1,
    )
    return Bundle((shares[:, None] * cells).ravel())
