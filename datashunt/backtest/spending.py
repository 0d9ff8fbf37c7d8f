"""How a limited number of calls is spread over a stream. Pure; numpy only.

An answer does two things: it replaces a doubtful label, and it teaches. The first answers teach most, and the earlier
they come the longer they do; later ones are worth most where the small model still doubts. So the first calls are made
fast, half of each batch, until there are enough to learn from, and the others are spread evenly over what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEARNING = 150
"""Answers for each label, cold start included, that are asked for fast."""
LEARNING_SHARE = 0.85
"""Largest part of all calls that is made fast."""
LEARNING_RATE = 0.5
"""Part of each batch that is asked meanwhile."""
AUDIT_SHARE = 0.1
"""Largest part of the calls left that goes to audits once a bundle serves."""
GROWTH = 3
"""A distillation is due when the answers grew by a third: fewer new ones teach little and cost as much time."""
FEWEST_NEW = 50
"""New answers below which no distillation is worth its time."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Calls that may still be made, and items that are still to come, this batch included.

    `fast`: those of the calls that are made fast, to learn from.
    """

    calls: int
    items: int
    fast: int = 0

    def quota(self, batch: int) -> int:
        """How many items of a batch are asked while a bundle serves; every call is spent at the end."""
        if batch >= self.items:
            return min(self.calls, batch)
        even = int(self.calls * batch / self.items + 0.5)
        return min(max(even, min(self.fast, int(batch * LEARNING_RATE + 0.5))), self.calls, batch)

    def audit_rate(self, policy_rate: float, batch: int) -> float:
        """The policy's rate, or less where audits would eat more than their part of the calls; 0 near the end."""
        rate = min(policy_rate, AUDIT_SHARE * self.calls / max(1, self.items))
        return rate if self.calls > 4 * rate * batch else 0.0


def fast_calls(max_calls: int, labels: int, per_label: int = LEARNING) -> int:
    """How many of all calls are made fast."""
    return min(int(LEARNING_SHARE * max_calls), labels * per_label)


def new_answers_due(policy_due: int, learned: int, *, fast_ended: bool) -> int:
    """After how many new answers a distillation is due.

    Args:
        policy_due: what the classifier file says.
        learned: answers that the last one learned from.
        fast_ended: whether the last of the fast calls were made since: what comes after is slow, and not waited for.
    """
    fewest = min(policy_due, FEWEST_NEW)
    return fewest if fast_ended else max(fewest, learned // GROWTH)


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
