"""Finite-sample bounds on how often kept items disagree with the LLM. Imports scipy only.

Source: Clopper, Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*
(Biometrika 26, 1934).
"""

from __future__ import annotations

import math

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
