"""One look at a number of independent draws: exact binomial bounds, and how many draws a target needs.

Source: Clopper, Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*
(Biometrika 26, 1934).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom

from datashunt.errors import CertificateError

MOST_AUDITS = 10_000_000
"""Where the search for a number of audits ends."""


def inside(value: float, name: str) -> float:
    """The value, if it is a number inside (0, 1).

    Raises:
        CertificateError: it is not; the message names it.
    """
    if not 0 < value < 1:
        raise CertificateError(f"{name} must lie inside (0, 1), found {value}")
    return value


def upper_bound(errors: int, n: int, delta: float) -> float:
    """The exact (Clopper-Pearson) one-sided upper bound of a rate.

    With probability ≥ 1 - delta over n independent draws, the true rate is at most this.

    Args:
        errors: draws that disagreed.
        n: draws; 0 gives 1.0, since nothing is known.
        delta: chance in (0, 1) that the bound fails.

    Raises:
        CertificateError: a count or delta is out of range.
    """
    inside(delta, "delta")
    if not 0 <= errors <= n:
        raise CertificateError(f"expected 0 ≤ errors ≤ n, found {errors} errors in {n}")
    if errors == n:
        return 1.0
    return float(beta.ppf(1.0 - delta, errors + 1, n - errors))


def most_misses(n: ArrayLike, allowed: float, delta: float) -> NDArray[np.intp]:
    """The most misses among n draws that still prove a rate ≤ allowed: the largest k with P(Bin(n, allowed) ≤ k) ≤ δ.

    k misses pass iff `upper_bound(k, n, delta) ≤ allowed`; this asks for one quantile instead of one bound each.

    Args:
        n: numbers of draws, any shape.
        allowed: share in (0, 1) that may miss.
        delta: chance in (0, 1) that more than `allowed` passes.

    Returns:
        The same shape; -1 where even no miss would be too few draws.

    Raises:
        CertificateError: allowed or delta is outside (0, 1).
    """
    inside(allowed, "the allowed share")
    inside(delta, "delta")
    draws = np.asarray(n, dtype=np.intp)
    least = binom.ppf(delta, draws, allowed)  # the least k with P(≤ k) ≥ delta: too many, unless they are equal
    exact = binom.cdf(least, draws, allowed) <= delta * (1 + 1e-9)
    return np.asarray(np.where(exact & (draws > 0), least, least - 1), dtype=np.intp)


def audits_needed(allowed: float, delta: float, misses: int = 0) -> int:
    """The fewest draws that prove a rate ≤ allowed although so many of them miss.

    Without a miss the least n with (1 - allowed)ⁿ ≤ delta: 460 for 0.5 % at delta = 0.1, and for a recall of 95 %,
    where 5 % of the positives may be missed, 45 positives.

    Raises:
        CertificateError: allowed or delta is outside (0, 1), or misses is negative.
    """
    inside(allowed, "the allowed share")
    inside(delta, "delta")
    if misses < 0:
        raise CertificateError(f"expected 0 misses or more, found {misses}")
    if misses == 0:
        return math.ceil(math.log(delta) / math.log1p(-allowed) - 1e-9)
    return _least(lambda n: bool(most_misses(n, allowed, delta) >= misses), misses + 1)


def audits_likely(allowed: float, delta: float, rate: float, power: float = 0.9) -> int:
    """A number of draws at which a true rate below the allowed one is proven with probability ≥ power.

    Args:
        allowed: share in (0, 1) that may miss.
        delta: chance in (0, 1) that more than `allowed` passes.
        rate: share in [0, allowed) that really misses.
        power: wanted probability in (0, 1) of a proof.

    Raises:
        CertificateError: a share is out of range, or rate is so close to allowed that ten million are too few.
    """
    inside(power, "power")
    if not 0 <= rate < allowed:
        raise CertificateError(
            f"a rate of {rate} cannot be proven to be at most {allowed}: raise the target, or the agreement"
        )
    least = audits_needed(allowed, delta)
    return _least(lambda n: bool(binom.cdf(most_misses(n, allowed, delta), n, rate) >= power), least)


def _least(holds: Callable[[int], bool], start: int) -> int:
    """The least n from start on at which a condition holds that, once it holds, nearly always does: by doubling."""
    low, high = start - 1, start
    while not holds(high):
        if high > MOST_AUDITS:
            raise CertificateError("more than ten million audits would be needed: the target is too close")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
