"""Any number of looks, and any propensity: a bet against the claim that too many miss.

Start with a wealth of 1 and stake a part of it on every audited item in scope: an agreement wins, a miss loses. While
the claim "the rate is at least β" is true no strategy wins on average, so that the wealth ever reaches 1 / δ with
probability at most δ (Ville's inequality), however often and whenever one looks. With weight w in (0, 1] of an answer,

    K_n = mean over stakes s of  Π_i (1 + s / (1 - β) · w_i · (β - miss_i))

which for w = 1 is a mixture of likelihood ratios of the rates (1 - s) β against β.
Source: Waudby-Smith, Ramdas, *Estimating means of bounded random variables by betting* (arXiv 2010.09686), sections 4
and 5; the weights make the bet one on all items, not on the audited ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datashunt.certificate.bounds import inside
from datashunt.certificate.targets import Tally
from datashunt.errors import CertificateError

STAKES = np.geomspace(0.05, 0.95, 12)
"""Parts of the largest stake that ruins nobody. Small ones win where the rate is close to β, large ones soon."""

FINE_STAKES = np.geomspace(0.0005, 0.95, 40)
"""The same for a bound of any share, also of one close to 1, against which only small stakes win."""
FOUND_TO = 1e-6

HALVED_TO = 1e-4
"""A bound is found this exactly, as a part of itself; what is returned is disproved in any case."""

Floats = NDArray[np.float64]


def log_wealth(misses: ArrayLike, n: ArrayLike, allowed: float) -> Floats:
    """The logarithm of K after n answers of equal propensity, of which so many missed.

    Args:
        misses: how many missed.
        n: how many answers are in scope, of the same shape or one that broadcasts.
        allowed: β in (0, 1).

    Raises:
        CertificateError: allowed is outside (0, 1).
    """
    won, lost = _odds(allowed)
    k, count = np.asarray(misses, dtype=np.float64), np.asarray(n, dtype=np.float64)
    k, count = np.broadcast_arrays(k, count)
    # one stake at a time: the counts of many lives are large
    total = np.full(k.shape, -np.inf)
    for up, down in zip(won, lost, strict=True):
        total = np.logaddexp(total, (count - k) * up + k * down)
    return np.asarray(total - np.log(len(STAKES)))


def share_bound(misses: int, n: int, delta: float) -> float:
    """The least rate that is disproved: with probability ≥ 1 - delta the true one is below it at any number of looks.

    The wealth only grows with the rate that is bet against, so that all higher ones are disproved too.

    Args:
        misses: how many missed.
        n: how many answers there are.
        delta: in (0, 1).

    Returns:
        In (0, 1]; 1 where nothing is disproved.

    Raises:
        CertificateError: delta is outside (0, 1), or there are more misses than answers.
    """
    inside(delta, "delta")
    if not 0 <= misses <= n:
        raise CertificateError(f"expected 0 ≤ misses ≤ n, found {misses} misses in {n}")
    low, high = misses / n if n else 1.0, 1.0
    while high - low > HALVED_TO * high:
        middle = (low + high) / 2
        low, high = (low, middle) if log_wealth(misses, n, middle) >= -np.log(delta) else (middle, high)
    return high


def share_bound_weighted(missed: NDArray[np.bool_], weight: NDArray[np.floating], delta: float) -> float:
    """The same after these answers, which need not have the same propensity, and at this one look.

    Args:
        missed: (n,) which of them miss.
        weight: (n,) in (0, 1], the least propensity that any item has, over that of this one.
        delta: in (0, 1).

    Returns:
        In (0, 1]; 1 where nothing is disproved.

    Raises:
        CertificateError: delta is outside (0, 1), or a weight outside (0, 1].
    """
    inside(delta, "delta")
    if len(weight) and not (weight.min() > 0 and weight.max() <= 1):
        raise CertificateError(f"weights must lie in (0, 1], found {weight.min()} to {weight.max()}")
    kinds, which = np.unique(weight.astype(np.float64), return_inverse=True)  # rates are few, answers many
    lost, n = np.bincount(which, missed, len(kinds)), np.bincount(which, minlength=len(kinds))

    def disproved(rate: float) -> bool:
        staked = FINE_STAKES[:, None] / (1.0 - rate) * kinds
        wealth = (n - lost) @ np.log1p(staked * rate).T + lost @ np.log1p(-staked * (1.0 - rate)).T
        return bool(np.logaddexp.reduce(wealth) - np.log(len(FINE_STAKES)) >= -np.log(delta))

    low, high = 0.0, 1.0
    while high - low > FOUND_TO:
        middle = (low + high) / 2
        low, high = (low, middle) if disproved(middle) else (middle, high)
    return high


def log_wealth_weighted(tally: Tally, weight: NDArray[np.floating], allowed: float) -> Floats:
    """The logarithm of K after each of n answers, at each of t thresholds: (n, t).

    Args:
        tally: scope and misses, (n, t).
        weight: (n, 1) or (n, t) in (0, 1], the least propensity that any item has, over that of this one.
        allowed: β in (0, 1).

    Raises:
        CertificateError: allowed is outside (0, 1).
    """
    inside(allowed, "the allowed share")
    total = np.full(tally.scope.shape, -np.inf)
    for stake in STAKES / (1.0 - allowed):
        won = np.log1p(stake * weight * allowed)
        lost = np.log1p(-stake * weight * (1.0 - allowed))
        steps = np.where(tally.missed, lost, won) * tally.scope
        total = np.logaddexp(total, steps.cumsum(axis=0))
    return np.asarray(total - np.log(len(STAKES)))


def _odds(allowed: float) -> tuple[Floats, Floats]:
    inside(allowed, "the allowed share")
    return np.log1p(STAKES * allowed / (1.0 - allowed)), np.log1p(-STAKES)
