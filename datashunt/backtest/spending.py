"""How a limited number of calls is spread over a stream. Pure; numpy only.

Of C calls left for R items left, a batch of b gets C · (1 - ((R - b) / R) ** front). A front of 1 spreads them
evenly; more asks more in the beginning, where an answer also teaches for longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRONT = 4.0
"""How much earlier than evenly calls are spent."""
AUDIT_SHARE = 0.1
"""Largest part of the calls left that goes to audits once a bundle serves."""
LESSONS = 8
"""The first distillations are due at the latest when an eighth of all calls brought new answers."""
GROWTH = 4
"""Later ones are due when the answers grew by a quarter: another tenth teaches little and costs as much time."""
FEWEST_NEW = 50
"""New answers below which no distillation is worth its time."""


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
        return min(int(self.calls * share + 0.5), batch)

    def audit_rate(self, policy_rate: float, batch: int) -> float:
        """The policy's rate, or less where audits would eat more than their part of the calls; 0 near the end."""
        rate = min(policy_rate, AUDIT_SHARE * self.calls / max(1, self.items))
        return rate if self.calls > 4 * rate * batch else 0.0


def new_answers_due(max_calls: int, policy_due: int, learned: int) -> int:
    """After how many new answers a distillation is due, of so many calls in all and answers learned before."""
    return max(min(policy_due, max(FEWEST_NEW, max_calls // LESSONS)), learned // GROWTH)


def threshold_for(urgency: NDArray[np.float64], audited: NDArray[np.bool_], quota: int) -> float:
    """The urgency above which items of a batch are asked, so that `quota` are, the audited ones among them.

    Args:
        urgency: (n,) the larger, the more it is worth a question.
        audited: (n,) who is asked whatever the urgency.
        quota: items to ask; of equal urgencies fewer are asked rather than more.

    Returns:
        The largest urgency that is kept; -inf where all are asked.
    """
    escalated = max(0, quota - int(audited.sum()))
    others = np.sort(urgency[~audited])[::-1]
    return float(others[escalated]) if escalated < len(others) else float("-inf")
