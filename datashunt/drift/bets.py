"""Bets against calm, and the wealth of whoever places them. Pure; numpy only.

A bet multiplies the wealth by a factor whose mean is ≤ 1 while nothing changes. Nobody knows when a change will begin:
wealth is put aside, γ_j of it is staked from the j-th start on, and what is staked is

    M_n = Σ_{j ≤ n} γ_j Π_{i = j..n} L_i = (M_{n−1} + γ_n) L_n,   Σ γ_j = 1

which with what is still put aside is a martingale. So P(M ever ≥ 1 / δ) ≤ δ, and a change after j starts costs
ln (1 / γ_j) of evidence, not the losses of all bets before it. These are the Shiryaev-Roberts sums of Shin, Ramdas,
Rinaldo, *E-detectors* (arXiv 2203.03532), with weights, so that a life is bounded instead of the mean time to a false
alarm; for conformal p-values: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman, *Retrain or not retrain* (arXiv
2102.10439).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOTHING = -1e9
"""The logarithm of no wealth, which JSON can hold."""

BINS = 16
ODDS = (1 / 2, 4 / 5, 5 / 4, 2.0)
RAMPS = (-0.9, -0.5, 0.5, 0.9)

Floats = NDArray[np.float64]


def densities() -> Floats:
    """(BINS, b) logarithms of b densities on [0, 1], each constant on the sixteenths: bets on a p-value.

    An interval of a half, quarter, eighth or sixteenth holds more or less than its share, at odds of ODDS; or the
    density rises or falls steadily.
    """
    shapes = []
    middles = (np.arange(BINS) + 0.5) / BINS
    for parts in (2, 4, 8, 16):
        share = 1.0 / parts
        for part in range(parts if parts > 2 else 1):  # the second half is the first, at the inverse odds
            inside = np.floor(middles * parts) == part
            for odds in ODDS:
                held = odds * share / (odds * share + 1.0 - share)
                shapes.append(np.where(inside, held / share, (1.0 - held) / (1.0 - share)))
    shapes += [1.0 + slope * (2.0 * middles - 1.0) for slope in RAMPS]
    return np.asarray(np.log(np.stack(shapes, axis=1)))


def starts(first: int, items: int, *, every: int, even: int) -> Floats:
    """(items,) ln γ of the places from `first` on; NOTHING where none starts, and before place 0.

    γ_i = h / ((h + i) (h + i + 1)) for the i-th start, i from 0: they sum to 1, and about the first h are even.

    Args:
        first: of the places, counted from where starts begin; negative before it.
        items: number of places.
        every: places from one start to the next.
        even: h.
    """
    places = first + np.arange(items)
    i = np.maximum(places, 0) // every
    weights = np.log(even) - np.log(even + i) - np.log(even + i + 1.0)
    return np.where((places >= 0) & (places % every == 0), weights, NOTHING)


def staked(before: Floats, log_factors: Floats, log_starts: Floats) -> Floats:
    """The logarithm of M of each bet after each item: (n, b).

    Args:
        before: (b,) ln M before them.
        log_factors: (n, b) ln L.
        log_starts: (n,) ln γ.
    """
    total = log_factors.cumsum(axis=0)
    entered = log_starts[:, None] - (total - log_factors)
    return np.asarray(total + np.logaddexp.accumulate(np.vstack([before, entered]), axis=0)[1:])


def mean(log_wealth: Floats) -> Floats:
    """The logarithm of the mean of exp over the last axis."""
    highest = log_wealth.max(axis=-1, keepdims=True)
    return np.asarray(highest[..., 0] + np.log(np.exp(log_wealth - highest).mean(axis=-1)))
