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
    steps = FINE if all(target.monotone for target in targets) else STEPS
    shares = np.arange(1, steps + 1) / steps
    grid = np.unique(np.quantile(fit.confidence.astype(np.float64), 1.0 - shares))[::-1]
    return grid[_start(targets, fit, grid, judged, delta) :]


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


def _start(targets: Sequence[Target], fit: Answers, grid: NDArray[np.float64], judged: int, delta: float) -> int:
    chances = np.ones(len(grid))
    for target in targets:
        if not target.monotone:
            scope, missed = (flags.sum(axis=0) for flags in target.tally(fit, grid))
            chances *= chance(scope, missed, seen=len(fit), judged=judged, allowed=target.allowed, delta=delta)
    return int(chances.argmax())
