"""Finite-sample bounds on how often kept items disagree with the LLM, and the threshold they allow. Numpy and scipy.

Source: Clopper, Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*
(Biometrika 26, 1934).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta


def upper_bound(errors: int, n: int, delta: float) -> float:
    """The exact (Clopper-Pearson) one-sided upper bound of a rate.

    With probability ≥ 1 - delta over n independent draws, the true rate is at most this.

    Args:
        errors: draws that disagreed.
        n: draws; 0 gives 1.0, since nothing is known.
        delta: chance in (0, 1) that the bound fails.

    Raises:
        ValueError: a count or delta is out of range.
    """
    _check_delta(delta)
    if not 0 <= errors <= n:
        raise ValueError(f"expected 0 ≤ errors ≤ n, found {errors} errors in {n}")
    if errors == n:
        return 1.0
    return float(beta.ppf(1.0 - delta, errors + 1, n - errors))


def audits_needed(alpha: float, delta: float) -> int:
    """How many audits, none of them in disagreement, prove a rate ≤ alpha with probability ≥ 1 - delta.

    The least n with (1 - alpha)ⁿ ≤ delta: 460 for alpha = 0.5 % at delta = 0.1.

    Raises:
        ValueError: alpha or delta is outside (0, 1).
    """
    _check_delta(delta)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), found {alpha}")
    return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), found {delta}")


@dataclass(frozen=True, slots=True)
class Choice:
    """A certified threshold: of the items kept at it, at most `alpha` disagree, with probability ≥ 1 - delta.

    n, k: held-out items kept at it, and those that disagreed.
    """

    threshold: float
    alpha: float
    delta: float
    n: int
    k: int


def choose_threshold(
    candidates: Sequence[float],
    confidence: NDArray[np.floating],
    wrong: NDArray[np.bool_],
    *,
    alpha: float,
    delta: float,
) -> Choice | None:
    """The lowest threshold that can be certified: Learn-then-Test with a fixed sequence.

    The candidates are tried from the strictest on, each with the exact binomial test of "more than `alpha` of the
    kept disagree" at level delta, until one fails; so the chance that a wrong one is chosen is at most delta.
    Source: Angelopoulos, Bates, Candès, Jordan, Lei, *Learn then Test* (arXiv 2110.01052), section 2.3.

    Args:
        candidates: thresholds chosen without these items, strictest first.
        confidence: (n,) of held-out items drawn like those that will be kept.
        wrong: (n,) whether the LLM says another label.
        alpha: largest share of the kept that may disagree.
        delta: chance in (0, 1) that the promise is broken.

    Raises:
        ValueError: alpha or delta is outside (0, 1).
    """
    least = audits_needed(alpha, delta)
    chosen = None
    confidence = confidence.astype(np.float64)  # as `shunt.decide` compares: tested is what would be kept
    for threshold in candidates:
        kept = confidence >= threshold
        n, k = int(kept.sum()), int((kept & wrong).sum())
        if n < least:
            continue  # no outcome could pass: decided by the confidences alone
        if upper_bound(k, n, delta) > alpha:
            break
        chosen = Choice(threshold, alpha, delta, n, k)
    return chosen


def lifetime_share(renewal: int) -> float:
    """The part of δ that the i-th certificate of a classifier may spend, i from 1: 6 / (π² i²), in all 1."""
    return 6.0 / (math.pi * renewal) ** 2
