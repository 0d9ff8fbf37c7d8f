"""What past traffic would have been at another threshold: share kept, calls, cost, disagreement. Pure.

Imports errors and certificate. The audits are a random sample of the items at any threshold, so that what they say of
the items above it is an exact binomial sample; only what is expected of days to come supposes that these are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datashunt.certificate import (
    Answers,
    Certificate,
    NotYet,
    OfAll,
    OfKept,
    audits_needed,
    certify,
    thresholds,
    upper_bound,
)
from datashunt.errors import UsageError

INTERVAL_DELTA = 0.05
"""The intervals of disagreement are exact two-sided ones of 95 %."""

SHOWN = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Thresholds of the table."""

POINTS = 200
"""Points of the curve."""


class Scope(StrEnum):
    """What a disagreement is a share of."""

    KEPT = "kept"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one bundle scored, and what the LLM said of the audited of those items.

    Attributes:
        confidence: (n,) of all items scored, rising; n ≥ 1.
        days: that they came in, > 0.
        audits: the answers, all of one propensity; a truth of -1 disagrees with everything.
        judges: (m,) which of them are judge answers; the others are fit.
        audit_rate: share of all items that is audited, in (0, 1].
        calls_per_ask: requests that one ask took, retries included.
        usd_per_call: USD of one request; 0 where it costs nothing or nobody knows its price.
    """

    confidence: NDArray[np.float64]
    days: float
    audits: Answers
    judges: NDArray[np.bool_]
    audit_rate: float
    calls_per_ask: float
    usd_per_call: float

    @property
    def per_day(self) -> float:
        """Items a day."""
        return len(self.confidence) / self.days

    def part(self, judges: bool) -> Answers:
        """The judge answers, or the fit ones."""
        which, audits = self.judges == judges, self.audits
        return Answers(audits.confidence[which], audits.said[which], audits.truth[which])


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold. Shares are fractions of 1.

    Attributes:
        threshold: the lowest confidence that is kept; infinite where nothing is.
        kept: share of all items.
        calls, usd: a day, audits included.
        audited, differ: audits in scope, and those of them that are kept and in which the LLM says another label.
        low, high: limits of the share that differs, exact, of 95 %.
    """

    threshold: float
    kept: float
    calls: float
    usd: float
    audited: int
    differ: int
    low: float
    high: float

    @property
    def disagreement(self) -> float:
        """The share that differs, as the audits show it; nan without any."""
        return self.differ / self.audited if self.audited else math.nan

    def to_json(self) -> dict[str, Any]:
        """The point as JSON values; what is unknown or infinite is null."""
        values = {name: getattr(self, name) for name in self.__slots__} | {"disagreement": self.disagreement}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def at(traffic: Traffic, threshold: float, of: Scope = Scope.KEPT) -> Point:
    """What this threshold would have made of the traffic; `of`: what the disagreement is a share of."""
    kept = 1.0 - float(np.searchsorted(traffic.confidence, threshold)) / len(traffic.confidence)
    asked = 1.0 - kept * (1.0 - traffic.audit_rate)
    calls = asked * traffic.per_day * traffic.calls_per_ask
    over = traffic.audits.kept(np.array([threshold]))[:, 0]
    audited = int(over.sum()) if of is Scope.KEPT else len(over)
    differ = int((over & (traffic.audits.said != traffic.audits.truth)).sum())
    return Point(
        threshold=threshold,
        kept=kept,
        calls=calls,
        usd=calls * traffic.usd_per_call,
        audited=audited,
        differ=differ,
        low=1.0 - upper_bound(audited - differ, audited, INTERVAL_DELTA / 2),
        high=upper_bound(differ, audited, INTERVAL_DELTA / 2),
    )


def table(traffic: Traffic, more: Iterable[float], of: Scope = Scope.KEPT) -> list[Point]:
    """A point for each threshold of SHOWN and for these, rising."""
    return [at(traffic, threshold, of) for threshold in sorted({*SHOWN, *more})]


def curve(traffic: Traffic, of: Scope = Scope.KEPT) -> list[Point]:
    """Points at evenly spaced shares kept, the strictest first."""
    shares = np.linspace(0.0, 1.0, min(POINTS, len(traffic.confidence)), endpoint=False)[::-1]
    found = np.unique(np.quantile(traffic.confidence, shares, method="lower"))[::-1]
    return [at(traffic, float(threshold), of) for threshold in found]


def certified(traffic: Traffic, alpha: float, delta: float, of: Scope = Scope.KEPT) -> Certificate | NotYet:
    """The threshold that one exact look at the judge answers would certify, chosen by the fit answers.

    It is hypothetical: these answers have been looked at before, and a promise of its own needs fresh ones.

    Raises:
        CertificateError: alpha or delta is outside (0, 1).
        UsageError: there is no fit or no judge answer.
    """
    target = OfKept(alpha) if of is Scope.KEPT else OfAll(alpha)
    least = audits_needed(alpha, delta)
    fit, judge = traffic.part(judges=False), traffic.part(judges=True)
    if not len(fit) or not len(judge):
        raise UsageError(
            f"there are {len(fit)} fit and {len(judge)} judge answers: α = {alpha:g} at δ = {delta:g} needs at least"
            f" one and {least} of them, none in disagreement; wait, or raise policy.audit_rate"
        )
    tried = thresholds([target], fit, judged=len(judge), delta=delta)
    return certify([target], tried, judge, delta=delta)


def affordable(traffic: Traffic, calls_per_day: float) -> float:
    """The threshold that spends so many calls a day on the least confident items; infinite if they reach for all.

    Raises:
        UsageError: the audits alone take more.
    """
    rate = traffic.audit_rate
    asked = calls_per_day / (traffic.per_day * traffic.calls_per_ask)
    if asked >= 1.0:
        return math.inf
    if asked < rate:
        audits = rate * traffic.per_day * traffic.calls_per_ask
        raise UsageError(
            f"the budget is {calls_per_day:,.1f} calls a day, and auditing {rate:.1%} of {traffic.per_day:,.0f} items a"
            f" day takes {audits:,.1f}: raise the budget, or lower policy.audit_rate"
        )
    escalated = math.floor((asked - rate) / (1.0 - rate) * len(traffic.confidence) + 1e-9)
    return float(traffic.confidence[escalated])
