"""How often outcomes are right in the eyes of people: a uniform sample, and what it proves. Pure; numpy and scipy.

Source: Angelopoulos, Bates, Fannjiang, Jordan, Zrnic, *Prediction-powered inference* (Science 382, 2023);
its tuning λ: Angelopoulos, Duchi, Zrnic, *PPI++* (arXiv 2311.01453), section 6.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from datashunt import shunt
from datashunt.certificate import share_bound_weighted, upper_bound

FEWEST = 30
"""Labels of people below which no prediction-powered interval is given: it rests on a normal approximation."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An item with an outcome that no person gave. `kept`: that is the small model's label. Rows are the database's."""

    row: int
    id: str
    outcome: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished item that was drawn; `audited`: the audit draw picks it, so the LLM was asked about it too."""

    item: Finished
    audited: bool


@dataclass(frozen=True, slots=True)
class Draw:
    """A simple random sample without replacement.

    Attributes:
        drawn: the items.
        population: how many there were. kept: of those, with the small model's label.
        audited: of the kept, those that the audit draw picks.
        newest: the greatest row of an outcome; 0 where there is none.
    """

    drawn: tuple[Drawn, ...]
    population: int
    kept: int
    audited: int
    newest: int


def draw(finished: Iterable[Finished], size: int, *, key: bytes, seed: int, rate: float) -> Draw:
    """Draw `size` items, all if there are fewer; every set of so many has the same chance.

    Each item has a number of its own, uniform in [0, 1), and the smallest are drawn. The number of a kept item is
    nested in its audit draw: picked ones lie below `rate`. So the kept items of the sample are audited ones where
    that is possible, which is what prediction-powered inference needs, and the sample is uniform all the same: whom
    the audit picks has nothing to do with how a kept item ended. (It does decide which question the LLM gets about
    an escalated one, whose number therefore stands alone.)

    Args:
        finished: all of them, in any order.
        size: at least 1.
        key: of the classifier's draws.
        seed: another one draws another sample; 0 to 2⁶³ − 1.
        rate: of the audit, in [0, 1].
    """
    counts = {"population": 0, "kept": 0, "audited": 0, "newest": 0}

    def numbered() -> Iterable[tuple[float, int, Drawn]]:
        for item in finished:
            number, audited = _number(item, key, seed, rate)
            counts["population"] += 1
            counts["kept"] += item.kept
            counts["audited"] += audited
            counts["newest"] = max(counts["newest"], item.outcome)
            yield number, item.row, Drawn(item, audited)

    drawn = tuple(entry for _, _, entry in heapq.nsmallest(size, numbered(), key=lambda one: one[:2]))
    return Draw(drawn, **counts)


def _number(item: Finished, key: bytes, seed: int, rate: float) -> tuple[float, bool]:
    own = shunt.uniform(key, item.id, b"sample" + seed.to_bytes(8, "big"))
    if not item.kept:
        return own, False
    audited = shunt.audit(key, item.id, rate)
    return (own * rate if audited else rate + own * (1.0 - rate)), audited


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate of a share, with limits that hold it in 1 − δ of all samples."""

    estimate: float
    low: float
    high: float


def exact(right: int, n: int, delta: float) -> Interval:
    """The two-sided exact (Clopper-Pearson) interval of a share; the whole of [0, 1] for n = 0, and nan as estimate.

    Raises:
        ValueError: a count or delta is out of range.
    """
    low, high = 1.0 - upper_bound(n - right, n, delta / 2), upper_bound(right, n, delta / 2)
    return Interval(right / n if n else math.nan, low, high)


@dataclass(frozen=True, slots=True)
class Group:
    """The outcomes of one source.

    Attributes:
        share: of all outcomes, in [0, 1]; it is known, not estimated.
        right: (n,) whether the outcome is what a person said.
        agreed: (n,) whether it is what the LLM said, of the same items; None where the LLM can say nothing, since
            the outcome is its own or too few were audited.
        others: (N,) the same of items that no person saw, drawn alike; empty where `agreed` is None.
    """

    share: float
    right: NDArray[np.bool_]
    agreed: NDArray[np.bool_] | None
    others: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """An item of a sample that a person has labelled.

    Attributes:
        kept: the outcome that was drawn is the small model's.
        right: it is what the person said.
        audited: the audit draw picks the item. agreed: it was asked for the audit, and the LLM said the same.
        label: that outcome. said: what the person said.
    """

    kept: bool
    right: bool
    audited: bool
    agreed: bool
    label: str = ""
    said: str = ""


def groups(judged: Sequence[Judged], *, kept: float, audited: int, agreed: int) -> tuple[Group, Group]:
    """What `powered` takes: the small model's outcomes and the LLM's.

    A kept item that the LLM was not asked about, or did not answer, counts as one on which it differs: any fixed
    rule will do, as long as it is the same for all.

    Args:
        judged: what people said.
        kept: the share of all outcomes that is the small model's.
        audited: of the kept ones that were there at the draw, those that the audit draw picks.
        agreed: of those, how many that no person saw have the LLM's agreement.
    """
    small = [one for one in judged if one.kept]
    others = audited - len(small)
    nested = others > 0 and all(one.audited for one in small)
    unseen = np.arange(max(others, 0)) < agreed
    return (
        Group(kept, _array(one.right for one in small), _array(one.agreed for one in small), unseen)
        if nested
        else Group(kept, _array(one.right for one in small), None, unseen[:0]),
        Group(1.0 - kept, _array(one.right for one in judged if not one.kept), None, unseen[:0]),
    )


def _array(values: Iterable[bool]) -> NDArray[np.bool_]:
    return np.fromiter(values, dtype=np.bool_)


def powered(groups: Sequence[Group], delta: float) -> Interval | None:
    """The prediction-powered interval of the share of right outcomes; None with fewer than FEWEST labels.

    Of each group the mean is that of the LLM's judgement over the items that no person saw, corrected by what people
    said (post-stratification by source). Each group gets one imagined item that is right and agreed, and one that is
    neither, as Agresti & Caffo (The American Statistician 54, 2000) do for differences of shares: without them the
    interval errs far too often where nearly all is right. The estimate is the middle of the interval before it is cut
    to [0, 1].

    Raises:
        ValueError: delta is outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), found {delta}")
    if sum(len(group.right) for group in groups) < FEWEST:
        return None
    estimate = variance = 0.0
    for group in groups:
        mean, of_mean = _mean(group)
        estimate += group.share * mean
        variance += group.share**2 * of_mean
    half = float(norm.ppf(1.0 - delta / 2)) * math.sqrt(variance)
    return Interval(estimate, max(0.0, estimate - half), min(1.0, estimate + half))


def _mean(group: Group) -> tuple[float, float]:
    """The mean of `right` in one group, and the variance of that estimate."""
    right = np.append(group.right, (True, False)).astype(np.float64)
    n = len(right)
    if group.agreed is None or len(group.others) < 2:
        return float(right.mean()), float(right.var(ddof=1)) / n
    agreed = np.append(group.agreed, (True, False)).astype(np.float64)
    others = group.others.astype(np.float64)
    weight = tuning(right, agreed, others)
    left = right - weight * agreed
    mean = weight * others.mean() + left.mean()
    return float(mean), float(weight**2 * others.var(ddof=1) / len(others) + left.var(ddof=1) / n)


def tuning(right: NDArray[np.float64], agreed: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """λ of PPI++ for a mean (section 6 there), held to [0, 1]: 0 leaves people alone, 1 trusts the LLM in full.

    λ = cov(right, agreed) / ((1 + n / N) var(agreed)).

    Args:
        right: (n,) what people said, n ≥ 2.
        agreed: (n,) what was predicted of the same.
        others: (N,) what was predicted of the rest, N ≥ 1.
    """
    spread = float(np.append(agreed, others).var(ddof=1))
    if spread == 0.0:
        return 0.0
    together = float(np.cov(right, agreed)[0, 1])
    return min(1.0, max(0.0, together / ((1.0 + len(right) / len(others)) * spread)))


@dataclass(frozen=True, slots=True)
class Audited:
    """An item that was audited for its own sake: what the small model and the LLM say of it.

    Attributes:
        said: the small model's label. truth: the LLM's reference answer; None if it never answered.
        kept: the small model's label was taken. propensity: with which it was drawn.
        seen: its text is that of a training answer.
    """

    said: str | None
    truth: str | None
    kept: bool
    propensity: float
    seen: bool

    @property
    def agrees(self) -> bool:
        """Whether its outcome is what the LLM says; what is asked counts as right."""
        return not self.kept or (self.truth is not None and self.said == self.truth)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A share of agreement over `n` audited items, unbiased by how they were drawn."""

    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """One label: of the items kept as it, and of the items that are it for the LLM (kept as it, or asked)."""

    precision: Agreement
    recall: Agreement


@dataclass(frozen=True, slots=True)
class Live:
    """How outcomes agree with the LLM.

    Attributes:
        kept: of the kept items. kept_unseen: of those whose texts were not trained on. all: of all items.
        labels: by label.
        unanswered: audits that the LLM never answered; they agree with nothing.
    """

    kept: Agreement
    kept_unseen: Agreement
    all: Agreement
    labels: dict[str, LabelAgreement]
    unanswered: int


def live(audited: Sequence[Audited], labels: Sequence[str], delta: float) -> Live:
    """The agreement of outcomes with the LLM, from audits, each share with its two-sided interval at 1 − delta.

    Raises:
        ValueError: delta is out of range.
    """
    kept = [one for one in audited if one.kept]
    floor = min((one.propensity for one in audited), default=1.0)
    return Live(
        kept=agreement(kept, delta, floor),
        kept_unseen=agreement([one for one in kept if not one.seen], delta, floor),
        all=agreement(audited, delta, floor),
        labels={
            label: LabelAgreement(
                precision=agreement([one for one in kept if one.said == label], delta, floor),
                recall=agreement([one for one in audited if one.truth == label], delta, floor),
            )
            for label in labels
        },
        unanswered=sum(one.truth is None for one in audited),
    )


def agreement(audited: Sequence[Audited], delta: float, floor: float | None = None) -> Agreement:
    """The share of all items like these whose outcome agrees, each weighted by 1 / propensity; see `weighted`.

    Raises:
        ValueError, CertificateError: delta is out of range.
    """
    agrees = np.fromiter((one.agrees for one in audited), dtype=np.bool_)
    propensity = np.array([one.propensity for one in audited])
    return Agreement(weighted(agrees, propensity, delta, floor), len(audited))


def weighted(
    flags: NDArray[np.bool_], propensity: NDArray[np.floating], delta: float, floor: float | None = None
) -> Interval:
    """A share of all items from those that were drawn, each with its own chance, and a two-sided interval that holds.

    The estimate weighs by 1 / propensity (Hájek). Where all have the same, the interval is the exact one; elsewhere it
    is that of two bets against the share (`certificate.share_bound_weighted`).

    Args:
        flags: (n,) whether each counts.
        propensity: (n,) in (0, 1].
        delta: chance that the interval does not hold the share.
        floor: the least propensity of any item that could have been drawn; None: the least of these.

    Raises:
        ValueError, CertificateError: delta is out of range.
    """
    if not len(flags) or (propensity == propensity[0]).all():
        return exact(int(flags.sum()), len(flags), delta)
    weight = (propensity.min() if floor is None else floor) / propensity.astype(np.float64)
    share = float(weight[flags].sum() / weight.sum())
    low, high = 1.0 - share_bound_weighted(~flags, weight, delta / 2), share_bound_weighted(flags, weight, delta / 2)
    return Interval(share, min(low, share), max(high, share))
