"""A batch: items that are all there. The promise is about them, not about what they were drawn from. Pure.

Of N items, at most α N are to be kept, unaudited and in disagreement with the LLM. Go down from the surest item.
Each disagreement is audited with chance r, whatever the items are, since the draws know neither texts nor scores. Stop
before the (c + 1)-th audited one. More than α N unaudited ones lie above that place iff at most c of the first
⌊α N⌋ + 1 + c disagreements are audited, so that the promise is broken with probability

    P(Bin(⌊α N⌋ + 1 + c, r) ≤ c)

exactly: of one event, however many thresholds there are, and however the disagreement changes over the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from datashunt.certificate.bounds import inside, upper_bound
from datashunt.certificate.plan import Risk
from datashunt.errors import CertificateError


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How to audit a batch: keep until more than `misses` audited items disagree.

    Attributes:
        rate: share of the items that is audited, in (0, 1].
        misses: audited and kept items that may disagree; -1: keep nothing.
        asked: share of the items that is expected to be asked, audits included.
    """

    rate: float
    misses: int
    asked: float


def batch_rate(misses: int, *, items: int, alpha: float, delta: float) -> float:
    """The least audit rate at which so many audited items may disagree: P(Bin(⌊α N⌋ + 1 + c, rate) ≤ c) = δ.

    Raises:
        CertificateError: misses is negative, there is no item, or alpha or delta is outside (0, 1).
    """
    _check(items, alpha)
    if misses < 0:
        raise CertificateError(f"expected 0 misses or more, found {misses}")
    return upper_bound(misses, _broken_at(misses, items, alpha), delta)


def batch_misses(*, items: int, rate: float, alpha: float, delta: float) -> int:
    """How many audited items may disagree at a given audit rate; -1 if it is too low to keep anything.

    Raises:
        CertificateError: there is no item, or rate, alpha or delta is outside (0, 1).
    """
    _check(items, alpha)
    inside(rate, "the audit rate")
    inside(delta, "delta")
    tried = np.arange(items + 1)
    broken = binom.cdf(tried, math.floor(alpha * items) + 1 + tried, rate)
    # The chance grows with c: of one more disagreement, the audited ones may be one more.
    return int(np.searchsorted(broken, delta * (1 + 1e-9), side="right")) - 1


def batch_threshold(confidence: NDArray[np.floating], wrong: NDArray[np.bool_], misses: int) -> float:
    """The lowest threshold at which at most so many audited items are kept and disagree.

    Args:
        confidence: (n,) of the audited items.
        wrong: (n,) whether the LLM says another label.
        misses: as planned before their answers; negative keeps nothing.

    Returns:
        0.0 if all may be kept; above 1, so that nothing is, if nothing may.
    """
    if misses < 0:
        return math.inf
    disagreeing = np.sort(confidence[wrong].astype(np.float64))[::-1]
    if len(disagreeing) <= misses:
        return 0.0
    return float(np.nextafter(disagreeing[misses], np.inf))


def plan_batch(
    confidence: NDArray[np.floating], wrong: NDArray[np.bool_], *, items: int, alpha: float, delta: float
) -> BatchPlan:
    """The audit rate, and how many audited items may disagree, with which the fewest items are expected to be asked.

    Args:
        confidence: (m,) of items with answers that are not of the batch.
        wrong: (m,) whether the LLM says another label.
        items: of the batch.
        alpha: share of the batch that may differ from what the LLM says.
        delta: chance that more do.

    Raises:
        CertificateError: there is no answer, no item, or alpha or delta is outside (0, 1).
    """
    _check(items, alpha)
    risk = Risk.of(confidence, wrong)
    best = BatchPlan(1.0, -1, 1.0)
    for misses in range(items):
        rate = batch_rate(misses, items=items, alpha=alpha, delta=delta)
        if rate >= best.asked:
            break  # the audits alone cost as much
        kept = risk.kept((misses + 1) / rate / items)
        asked = 1.0 - kept * (1.0 - rate)
        if asked < best.asked:
            best = BatchPlan(rate, misses, asked)
    return best


def _broken_at(misses: int, items: int, alpha: float) -> int:
    return math.floor(alpha * items) + 1 + misses


def _check(items: int, alpha: float) -> None:
    inside(alpha, "alpha")
    if items < 1:
        raise CertificateError(f"a batch has one item or more, found {items}")
