"""How a day's budget is spread over the day's items, least confident first. Pure; imports day only.

A batch is some of the E items that are still expected today. With money for C more calls, the share C / E of them
may be asked: those whose confidence lies below that quantile of the recent ones. Each batch decides anew, so what a
forecast got wrong is spread over the rest of the day. docs/budget.md says what follows from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from datashunt.day import expected_after

BINS = 256
"""Bins of the histogram of confidences, of equal width in log-odds from -4 (0.018) to 12 (0.999994)."""
HALF_LIFE_ITEMS = 4096
"""Items after which a confidence counts half."""
HASTE = 0.95
"""Share of the expected items that is counted on: so nothing is left over when somewhat fewer come."""

_EDGES = np.concatenate([[0.0], 1 / (1 + np.exp(-np.linspace(-4, 12, BINS - 1))), [1.0]])


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of a day's budget; amounts are in its unit, USD or calls.

    Attributes:
        budget: what may be spent.
        spent: what settled calls cost. reserved: what open ones may still cost, at most.
        settled: what had been reserved for the settled calls.
        granted: everything that was ever reserved, for `asked` asks.
        arrivals: (SLOTS,) items decided about, by slot. profile: the same of an earlier day. Both may be empty.
        confidences: (BINS,) recent confidences, the younger the more weight; empty while there are none.
        carry: the fraction of a call that rounding kept back, in [0, 1).
    """

    budget: Decimal
    spent: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    settled: Decimal = Decimal(0)
    granted: Decimal = Decimal(0)
    asked: int = 0
    arrivals: Sequence[int] = ()
    profile: Sequence[int] = ()
    confidences: Sequence[float] = ()
    carry: float = 0.0

    @property
    def free(self) -> Decimal:
        """What is neither spent nor reserved; below 0 when the budget was lowered, or an estimate was too low."""
        return self.budget - self.spent - self.reserved

    @property
    def truth(self) -> float:
        """What a call costs as a share of what was reserved for it."""
        return float(self.spent / self.settled) if self.settled > 0 and self.spent > 0 else 1.0

    def calls_left(self, usual: float) -> float:
        """Calls for which there is money, at this usual reservation for one."""
        left = float(self.budget - self.spent) - self.truth * float(self.reserved)
        return max(0.0, left) / (usual * self.truth)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which of n items are asked.

    Attributes:
        escalate: (n,) True where the item's own confidence is too low today.
        granted: (n,) True where there is money for asking it, of those that escalate or are audited.
        threshold: items below it escalate. Among equals, and for whole numbers, the rank decides.
        confidences, carry: what the next batch's account begins with.
    """

    escalate: NDArray[np.bool_]
    granted: NDArray[np.bool_]
    threshold: float
    confidences: list[float]
    carry: float


def plan(
    account: Account,
    fraction: float,
    confidence: NDArray[np.float64],
    audited: NDArray[np.bool_],
    amounts: Sequence[Decimal],
    audit_rate: float,
) -> Plan:
    """Share out what there is: audits first, then the least confident of the batch.

    Args:
        account: of the day, before this batch.
        fraction: how much of the day is over, in [0, 1].
        confidence: (n,) of the items; nan (no model, or one that broke down) comes before all others.
        audited: (n,) whether the item was drawn for the audit.
        amounts: what asking each item costs at most, in the account's unit.
        audit_rate: share of all items that is drawn.
    """
    histogram = remembered(account.confidences, confidence)
    share = share_asked(account, fraction, amounts, audit_rate)
    rank = np.where(np.isfinite(confidence), confidence, -1.0)
    threshold = quantile(histogram, share)
    chance = chances(histogram, share, confidence)
    exact = float(chance[~audited].sum()) + account.carry
    escalate = audited & (rank < threshold)
    order = np.flatnonzero(~audited)[np.argsort(rank[~audited], kind="stable")]
    count = min(int(exact + 1e-9), len(order))
    escalate[order[:count]] = True
    return Plan(
        escalate,
        affordable(account.free, amounts, escalate | audited, np.lexsort((rank, ~audited))),
        threshold,
        histogram.tolist(),
        min(max(exact - count, 0.0), 0.999),
    )


def share_asked(account: Account, fraction: float, amounts: Sequence[Decimal], audit_rate: float) -> float:
    """The share of the items not audited for which there is money, once the audits of all that are expected are paid.

    When not even one call can be paid, it is the share that the whole day's budget has of the whole day's items:
    who would have been asked, had the money lasted.
    """
    usual = float(account.granted / account.asked) if account.asked else float(sum(amounts)) / max(1, len(amounts))
    if usual <= 0 or audit_rate >= 1:
        return 1.0
    after = expected_after(account.arrivals, account.profile, fraction)
    if float(account.free) >= usual:
        calls, items = account.calls_left(usual), len(amounts) + HASTE * after
    else:
        calls = float(account.budget) / (usual * account.truth)
        items = sum(account.arrivals) + len(amounts) + after
    return min(1.0, max(0.0, (calls / max(items, 1.0) - audit_rate) / (1 - audit_rate)))


def chances(histogram: NDArray[np.float64], share: float, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) 1 below the quantile's bin, 0 above it, and between them the part of the bin that the share takes."""
    found = np.ones(len(confidence))
    finite = np.isfinite(confidence)
    part = histogram / max(float(histogram.sum()), 1e-300)
    before = np.cumsum(part) - part
    inside = np.clip((share - before) / np.where(part > 0, part, 1.0), 0.0, 1.0)
    found[finite] = inside[_bins(confidence[finite])]
    return found


def affordable(
    free: Decimal, amounts: Sequence[Decimal], wanted: NDArray[np.bool_], order: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """(n,) True for the wanted items that the free money pays for, in this order; exact to the last digit."""
    granted = np.zeros(len(amounts), dtype=np.bool_)
    for row in order.tolist():
        if wanted[row] and amounts[row] <= free:
            free -= amounts[row]
            granted[row] = True
    return granted


def remembered(histogram: Sequence[float], confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """(BINS,) the histogram with this batch added, after what was in it has faded."""
    finite = confidence[np.isfinite(confidence)]
    before: NDArray[np.float64] = np.asarray(histogram or [0.0] * BINS, dtype=np.float64)
    faded: NDArray[np.float64] = before * 0.5 ** (len(finite) / HALF_LIFE_ITEMS)
    return faded + np.bincount(_bins(finite), minlength=BINS)


def quantile(histogram: NDArray[np.float64], share: float) -> float:
    """The confidence below which this share of the histogram lies: 0 for nothing, 1 for all, or if it is empty."""
    heaped = np.concatenate([[0.0], np.cumsum(histogram)])
    if share >= 1 or heaped[-1] <= 0:
        return 1.0
    return float(np.interp(share * heaped[-1], heaped, _EDGES)) if share > 0 else 0.0


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.clip(np.searchsorted(_EDGES, confidence, side="right") - 1, 0, BINS - 1)
