"""What a backtest asks in each batch: a fixed threshold, a number of calls, or a certified threshold. Pure.

With a number of calls the questions are spread over the stream by one curve: of C calls left for R items left, a
batch of b gets C · (1 - ((R - b) / R) ** FRONT). FRONT = 1 spreads them evenly; more asks more in the beginning,
where an answer also teaches for longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRONT = 1.5
"""How much earlier than evenly calls are spent (benchmarks.quality: front)."""
AUDIT_SHARE = 0.1
"""Largest part of a limited number of calls that goes to audits once a bundle serves."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Calls that may still be made, and items that are still to come, this batch included."""

    calls: int
    items: int

    def quota(self, batch: int, front: float = FRONT) -> int:
        """How many items of a batch are asked while a bundle serves; every call is spent at the end."""
        if batch >= self.items:
            return min(self.calls, batch)
        share = 1.0 - ((self.items - batch) / self.items) ** front
        return min(int(round(self.calls * share)), batch)

    def audit_rate(self, policy_rate: float) -> float:
        """The policy's rate, or less where audits would eat more than their part of the calls."""
        return min(policy_rate, AUDIT_SHARE * self.calls / max(1, self.items))


def threshold_for(confidence: NDArray[np.float64], audited: NDArray[np.bool_], quota: int) -> float:
    """The threshold under which `quota` items of a batch are asked, the audited ones among them.

    Args:
        confidence: (n,) of the small model.
        audited: (n,) who is asked whatever the confidence.
        quota: items to ask; of equal confidences fewer are asked rather than more.

    Returns:
        A threshold in [0, inf].
    """
    escalated = max(0, quota - int(audited.sum()))
    others = np.sort(confidence[~audited])
    return float(others[escalated]) if escalated < len(others) else float("inf")
