"""The lowest threshold that `judge` answers prove, or how many of them are missing. Pure.

Source: Angelopoulos, Bates, Candès, Jordan, Lei, *Learn then Test* (arXiv 2110.01052), section 2.3. All targets must
pass at a threshold: the largest of valid p-values is a valid one for "some target is broken" (intersection-union), so
several targets cost no part of δ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datashunt.certificate.answers import LEAST_PROPENSITY, Answers
from datashunt.certificate.betting import log_wealth, log_wealth_weighted
from datashunt.certificate.bounds import audits_needed, inside, most_misses
from datashunt.certificate.targets import OfAll, Tally, Target
from datashunt.errors import CertificateError

EXACT = "learn-then-test, exact binomial, fixed sequence"
BETTING = "learn-then-test, betting, fixed sequence"
MOST_CELLS = 1_000_000
"""Answers times thresholds that are looked at together: they take some 60 MB."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of one target at one threshold: n answers in its scope, of which k miss."""

    target: Target
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """At this threshold all targets are kept, with probability ≥ 1 - delta.

    Attributes:
        threshold: the lowest confidence that is kept.
        delta: chance that the promise is broken.
        findings: one for each target, in their order.
        method: how it was proven.
    """

    threshold: float
    delta: float
    findings: tuple[Finding, ...]
    method: str


@dataclass(frozen=True, slots=True)
class NotYet:
    """No threshold is proven.

    Attributes:
        finding: of the target that lacks most, at the first threshold of the sequence.
        missing: so many more audits, at least: as many as bring enough items of its scope if none of those misses.
    """

    finding: Finding
    missing: int

    def __str__(self) -> str:
        return (
            f"not yet: {self.missing} more audits at least before {self.finding.target}"
            f" (so far {self.finding.n} of its items, {self.finding.k} of them miss)"
        )


def certify(
    targets: Sequence[Target], thresholds: NDArray[np.float64], judge: Answers, *, delta: float
) -> Certificate | NotYet:
    """One look at answers of equal propensity; the tightest. Their number must not depend on what they say.

    Args:
        targets: all that must be kept.
        thresholds: (t,) chosen without these answers, strictest first (`certificate.thresholds`).
        judge: answers drawn like the items that will be kept, none of which decided what the bundle is.
        delta: chance in (0, 1) that the promise is broken.

    Raises:
        CertificateError: there is no target or threshold, propensities differ, or delta is outside (0, 1).
    """
    _check(targets, thresholds, delta)
    if not judge.one_rate:
        raise CertificateError("these answers were audited at several rates: use certify_anytime, which weighs them")

    def passes(target: Target, tally: Tally) -> NDArray[np.bool_]:
        misses = tally.missed.sum(axis=0)
        return np.asarray(misses <= most_misses(tally.scope.sum(axis=0), target.allowed, delta))

    return _chosen(targets, thresholds, judge, passes, delta, EXACT)


def certify_anytime(
    targets: Sequence[Target],
    thresholds: NDArray[np.float64],
    judge: Answers,
    *,
    delta: float,
    floor: float | None = None,
) -> Certificate | NotYet:
    """As many looks as one likes, whenever one likes, at answers of any propensity.

    Args:
        targets: all that must be kept.
        thresholds: (t,) chosen without these answers, strictest first; the same at each look.
        judge: all answers so far, in the order in which they came.
        delta: chance in (0, 1) that the promise is ever broken.
        floor: the least propensity that any item has, fixed before the first answer; then every answer weighs
            floor / propensity. None: LEAST_PROPENSITY where propensities differ, and no weights where all are equal,
            which supposes that those of all items are.

    Raises:
        CertificateError: there is no target or threshold, a propensity is below floor, or delta is outside (0, 1).
    """
    _check(targets, thresholds, delta)

    def passes(target: Target, tally: Tally) -> NDArray[np.bool_]:
        return np.asarray((_log_wealth(target, tally, judge, floor) >= -math.log(delta)).any(axis=0))

    return _chosen(targets, thresholds, judge, passes, delta, BETTING)


def proven(passed: ArrayLike) -> NDArray[np.intp]:
    """How many thresholds of a fixed sequence are proven: those before the first that fails.

    Args:
        passed: (..., t) whether each passes, in the order of the sequence.

    Returns:
        (...): 0 to t.
    """
    return np.asarray(np.logical_and.accumulate(passed, axis=-1).sum(axis=-1), dtype=np.intp)


def _log_wealth(target: Target, tally: Tally, judge: Answers, floor: float | None) -> NDArray[np.float64]:
    if judge.propensity is None or (floor is None and judge.one_rate):
        return log_wealth(tally.missed.cumsum(axis=0), tally.scope.cumsum(axis=0), target.allowed)
    floor, least = LEAST_PROPENSITY if floor is None else floor, judge.propensity.min(initial=1.0)
    if not 0 < floor <= least:
        raise CertificateError(f"an item was audited with propensity {least}, less than the floor of {floor}")
    return log_wealth_weighted(tally, (floor / judge.propensity)[:, None], target.allowed)


def _chosen(
    targets: Sequence[Target],
    thresholds: NDArray[np.float64],
    judge: Answers,
    passes: Callable[[Target, Tally], NDArray[np.bool_]],
    delta: float,
    method: str,
) -> Certificate | NotYet:
    """Go down the sequence in blocks, up to the first threshold that fails: memory does not grow with its length."""
    passing, first = 0, np.zeros(0, dtype=np.bool_)
    findings: tuple[Finding, ...] = ()
    size = max(1, MOST_CELLS // max(len(judge), 1))
    for start in range(0, len(thresholds), size):
        block = slice(start, start + size)
        tallies = [_of_block(target, block).tally(judge, thresholds[block]) for target in targets]
        passed = np.array([passes(target, tally) for target, tally in zip(targets, tallies, strict=True)])
        more = int(proven(passed.all(axis=0)))
        if more or not start:
            findings = _findings(targets, tallies, max(more - 1, 0))
        if not start:
            first = passed[:, 0]
        passing += more
        if more < passed.shape[1]:
            break
    if passing:
        return Certificate(float(thresholds[passing - 1]), delta, findings, method)
    lacking = [
        NotYet(finding, _missing(finding, len(judge), delta))
        for finding, passed_first in zip(findings, first, strict=True)
        if not passed_first
    ]
    return max(lacking, key=lambda one: one.missing)


def _of_block(target: Target, block: slice) -> Target:
    if isinstance(target, OfAll) and target.cuts is not None:
        return replace(target, cuts=target.cuts[block])
    return target


def _findings(targets: Sequence[Target], tallies: Sequence[Tally], place: int) -> tuple[Finding, ...]:
    return tuple(
        Finding(target, int(tally.scope[:, place].sum()), int(tally.missed[:, place].sum()))
        for target, tally in zip(targets, tallies, strict=True)
    )


def _missing(finding: Finding, audited: int, delta: float) -> int:
    """Audits until enough in scope have come, at the pace at which they came so far; at least one."""
    more = max(audits_needed(finding.target.allowed, delta, finding.k) - finding.n, 1)
    return math.ceil(more * audited / finding.n) if finding.n else more


def _check(targets: Sequence[Target], thresholds: NDArray[np.float64], delta: float) -> None:
    inside(delta, "delta")
    if not targets:
        raise CertificateError("nothing is promised: name a target, such as alpha")
    if not len(thresholds):
        raise CertificateError("there is no threshold to try: wait for the first fit answers")
    if (np.diff(thresholds) > 0).any():
        raise CertificateError("thresholds are tried from the strictest on: sort them, falling")
