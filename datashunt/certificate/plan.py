"""How many audits are worth their calls. Pure.

More audits prove a lower threshold, and each audit of a kept item is a call. The best number follows from how the
disagreement rises as confidence falls, which answers that play no part in the test tell well enough: the cost is flat
around its least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt.certificate.bounds import inside, most_misses
from datashunt.errors import CertificateError

TRIED = 80
"""Numbers of audits that are tried, evenly spaced in their logarithm."""


@dataclass(frozen=True, slots=True)
class Risk:
    """(m,) share of all items that is kept and disagrees, at the thresholds that keep 1, 2, … m of them."""

    at: NDArray[np.float64]

    @classmethod
    def of(cls, confidence: NDArray[np.floating], wrong: NDArray[np.bool_]) -> Risk:
        """As m answers show it.

        Raises:
            CertificateError: there is no answer.
        """
        if not len(confidence):
            raise CertificateError("a plan needs answers, and there is none: wait for the first fit answers")
        order = np.argsort(-confidence.astype(np.float64), kind="stable")
        return cls(wrong[order].cumsum() / len(order))

    def kept(self, risk: float) -> float:
        """The largest share of all items that can be kept at no more than this risk."""
        return float(np.searchsorted(self.at, risk, side="right") / len(self.at))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to audit: `rate`, a share of all items; `asked`, the share expected to be asked, audits included."""

    rate: float
    asked: float


def plan_audits(
    confidence: NDArray[np.floating], wrong: NDArray[np.bool_], *, items: int, alpha: float, delta: float
) -> Plan:
    """The audit rate at which the fewest items are expected to be asked, for a target `of: all` and one look.

    Args:
        confidence: (m,) of items with answers, none of which will judge.
        wrong: (m,) whether the LLM says another label.
        items: number of items that one certificate serves, from its first audit on.
        alpha: share of all items that may be kept and disagree.
        delta: chance that the promise is broken.

    Returns:
        The plan; rate 1 where auditing everything is expected to be no dearer.

    Raises:
        CertificateError: there is no answer, no item, or alpha or delta is outside (0, 1).
    """
    inside(alpha, "alpha")
    inside(delta, "delta")
    if items < 1:
        raise CertificateError(f"a certificate serves one item or more, found {items}")
    risk = Risk.of(confidence, wrong)
    best = Plan(1.0, 1.0)
    audits = np.unique(np.geomspace(1, items, TRIED).astype(np.intp))[:-1]
    for n, misses in zip(audits.tolist(), most_misses(audits, alpha, delta).tolist(), strict=True):
        rate = n / items
        kept = risk.kept((misses + 0.5) / n) if misses >= 0 else 0.0
        asked = 1.0 - kept * (1.0 - rate)
        if asked < best.asked:
            best = Plan(rate, asked)
    return best
