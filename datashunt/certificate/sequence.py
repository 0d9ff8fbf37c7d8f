"""Which thresholds are tried, and in what order: decided by `fit` answers alone, which may be looked at freely. Pure.

Learn-then-Test with a fixed sequence tests one threshold after another at full δ until one fails. Where all targets are
monotone, so is the test: the sequence may be as fine as one likes. Where the scope of a target depends on the
threshold, the strictest ones keep too few items for any proof, and the sequence would end before it began. So it starts
where the fit answers say that a proof is likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from datashunt.certificate.answers import Answers
from datashunt.certificate.bounds import most_misses
from datashunt.certificate.targets import Target

STEPS, FINE = 50, 400
"""Thresholds: one for each fiftieth of what the fit answers would keep; for each four hundredth if all are monotone."""


def thresholds(targets: Sequence[Target], fit: Answers, *, judged: int, delta: float) -> NDArray[np.float64]:
    """The thresholds to try, strictest first.

    Args:
        targets: all that must be kept.
        fit: answers that play no part in the test.
        judged: number of answers that will.
        delta: of the test.

    Returns:
        (t,) falling confidences; none without fit answers.

    Raises:
        CertificateError: delta is outside (0, 1).
    """
    if not len(fit):
        return np.empty(0)
    grid = _grid(targets, fit)
    return grid[int(_chances(targets, fit, grid, judged, delta).argmax()) :]


def soonest(targets: Sequence[Target], fit: Answers, *, delta: float, power: float, least: int, most: int) -> int:
    """The fewest answers, by doubling, with which a proof is likely at some threshold; to plan the sequence for.

    Planned for many answers, all thresholds look alike, and the strictest, whose scope fills slowly, would come first.

    Args:
        targets: all that must be kept.
        fit: answers that play no part in the test.
        delta: of the test.
        power: how likely is likely.
        least: from so many on.
        most: no more than these.

    Raises:
        CertificateError: delta is outside (0, 1).
    """
    grid = _grid(targets, fit) if len(fit) else np.empty(0)
    judged = least
    while judged < most and len(grid) and _chances(targets, fit, grid, judged, delta).max() < power:
        judged *= 2
    return min(judged, most)


def chance(
    scope: ArrayLike, missed: ArrayLike, *, seen: int, judged: int, allowed: float, delta: float
) -> NDArray[np.float64]:
    """How likely a test of other answers is to pass, as far as the fit answers tell.

    The rate of misses is taken half a miss higher than it was seen: no miss among few is not no miss at all.

    Args:
        scope: fit answers in scope, any shape.
        missed: those of them that miss, the same shape.
        seen: all fit answers.
        judged: all answers of the test.
        allowed: share of the scope that may miss.
        delta: of the test.

    Returns:
        Probabilities of the same shape.

    Raises:
        CertificateError: allowed or delta is outside (0, 1).
    """
    in_scope, misses = np.asarray(scope, dtype=np.float64), np.asarray(missed, dtype=np.float64)
    n = np.round(judged * in_scope / seen).astype(np.intp)
    rate = (misses + 0.5) / (in_scope + 1.0)
    return np.asarray(binom.cdf(most_misses(n, allowed, delta), n, rate), dtype=np.float64)


def _grid(targets: Sequence[Target], fit: Answers) -> NDArray[np.float64]:
    steps = FINE if all(target.monotone for target in targets) else STEPS
    shares = np.arange(1, steps + 1) / steps
    return np.unique(np.quantile(fit.confidence.astype(np.float64), 1.0 - shares))[::-1]


def _chances(
    targets: Sequence[Target], fit: Answers, grid: NDArray[np.float64], judged: int, delta: float
) -> NDArray[np.float64]:
    """How likely the test is to pass at each threshold, as far as the targets depend on it; 1 where none does."""
    chances = np.ones(len(grid))
    for target in targets:
        if not target.monotone:
            scope, missed = (flags.sum(axis=0) for flags in target.tally(fit, grid))
            chances *= chance(scope, missed, seen=len(fit), judged=judged, allowed=target.allowed, delta=delta)
    return chances
