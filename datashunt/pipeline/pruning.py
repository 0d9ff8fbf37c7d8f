"""Hard pruning of one classifier: the cut that holds for its bundle at a threshold, and how well it does.

A cut is calibrated on `fit` answers to items that the bundle escalates at a threshold. What it was calibrated for is
kept beside it (`bundles.evaluation`, `pruning`), and it is used for nothing else: at another threshold, for another
coverage, LLM or prompt nothing is pruned until it is calibrated again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datashunt import prompts, prune, quality, shunt
from datashunt.classifier import Spec
from datashunt.items import Role
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline import promise
from datashunt.policy import TargetPolicy
from datashunt.store import Connection, Store, bundles, distillations, offers
from datashunt.store.classifiers import Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.store.offers import Asked, Reference

if TYPE_CHECKING:
    from datashunt.distil import Progress
    from datashunt.small import SmallModel

DELTA = 0.05
"""Chance that the interval of the live coverage does not hold it."""
_SAME = 1e-6
"""Thresholds that differ by less are one: some were stored in single precision."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A cut, and what it was calibrated for.

    Attributes:
        cut: of the conformal label set; None: too few answers.
        answers: how many it was calibrated on, or would have been. missing: how many more it takes.
        up_to: id of the newest `fit` answer that was looked at; 0 without any.
        threshold: below which items escalate; None: all do.
        coverage, prompt_hash: of the classifier at that time.
    """

    cut: float | None
    answers: int
    missing: int
    up_to: int
    threshold: float | None
    coverage: float
    prompt_hash: str

    def to_json(self) -> dict[str, Any]:
        """What is kept beside the cut, which has a column of its own."""
        return {name: value for name, value in asdict(self).items() if name != "cut"}


def calibrate(
    known: Registered,
    model: SmallModel,
    fit: Sequence[StoredAnswer],
    threshold: float,
    progress: Progress = lessons.silent,
) -> Calibration | None:
    """The cut of a bundle, from the `fit` answers to items that it escalates at this threshold.

    Args:
        known: the classifier.
        model: the bundle, loaded.
        fit: reference answers that calibrate; no others may be among them.
        threshold: smallest confidence that is kept; above 1 nothing is.
        progress: called with `prune` and the share done.

    Returns:
        None where the classifier does not prune.

    Raises:
        What `progress` raises.
    """
    if not known.spec.prompt.hard:
        return None
    return calibrate_scored(
        known, lessons.scored(model, [answer.text for answer in fit], progress, "prune"), fit, threshold
    )


def calibrate_scored(
    known: Registered, probabilities: NDArray[np.floating], fit: Sequence[StoredAnswer], threshold: float
) -> Calibration:
    """The same of a classifier that prunes, where the bundle's probabilities (n, k) of these answers are known."""
    coverage = known.spec.prompt.coverage
    _, confidence, keep = shunt.decide(probabilities, threshold, promise.stand(known).never)
    escalated = ~keep & np.isfinite(confidence)  # what is no number is never pruned
    said = lessons.indices(fit, known.spec.label_names)
    weights = _weights(known.spec, [answer.propensity for answer in fit])[escalated]
    return Calibration(
        cut=prune.calibrate(probabilities[escalated], said[escalated], coverage, weights),
        answers=int(escalated.sum()),
        missing=max(0, math.ceil(prune.needed(coverage) - prune.worth(weights) - 1e-9)),
        up_to=max((answer.id for answer in fit), default=0),
        threshold=_stored(threshold),
        coverage=coverage,
        prompt_hash=known.prompt_hash,
    )


def _weights(spec: Spec, propensities: Sequence[float | None]) -> NDArray[np.float64]:
    """(n,) what each answer weighs: 1 / propensity where that depends on the item, else the same.

    A rate that only changes with time draws alike from all items of its time.
    """
    if not (isinstance(spec.policy, TargetPolicy) and spec.policy.watched):
        return np.ones(len(propensities))
    return np.array([1.0 / (one or 1.0) for one in propensities])


def recalibrate(store: Store, known: Registered, model: SmallModel, threshold: float) -> Calibration | None:
    """Calibrate the cut of the serving bundle anew, for this threshold, and write it down.

    Args:
        store: where the answers are.
        known: the classifier.
        model: its incumbent, loaded.
        threshold: in force from now on.

    Returns:
        What was written; None where the classifier does not prune or nobody serves.

    Raises:
        StoreError: nothing was changed.
    """
    if known.incumbent is None:
        return None
    with store.begin() as tx:
        fit = distillations.answers(tx, known, role=Role.FIT)
    found = calibrate(known, model, fit, threshold)
    if found is not None:
        with store.begin() as tx:
            write(tx, known.incumbent.id, found)
    return found


def write(tx: Connection, bundle_id: int, calibration: Calibration) -> None:
    """Give a bundle that is on file this cut."""
    bundles.set_cut(tx, bundle_id, calibration.cut, calibration.to_json())


def noted(evaluation: Mapping[str, Any], calibration: Calibration | None) -> dict[str, Any]:
    """The evaluation of a new bundle with what its cut was calibrated for, if it has one."""
    return dict(evaluation) if calibration is None else {**evaluation, "pruning": calibration.to_json()}


def is_due(known: Registered, threshold: float) -> bool:
    """Whether the classifier prunes, and its bundle was not calibrated for this threshold, coverage, LLM and prompt."""
    return known.incumbent is not None and known.spec.prompt.hard and _record(known, threshold) is None


def cut_of(known: Registered, threshold: float) -> float | None:
    """The cut by which prompts of items that escalate at this threshold are pruned; None: they are not."""
    if known.incumbent is None or not known.spec.prompt.hard or _record(known, threshold) is None:
        return None
    return known.incumbent.prune_cut


def _record(known: Registered, threshold: float) -> Mapping[str, Any] | None:
    """What the bundle's calibration says of itself, if it is one for this threshold and this classifier."""
    found: Mapping[str, Any] | None = known.incumbent.evaluation.get("pruning") if known.incumbent else None
    if found is None or found["prompt_hash"] != known.prompt_hash or found["coverage"] != known.spec.prompt.coverage:
        return None
    wanted = _stored(threshold)
    if wanted is None or found["threshold"] is None:
        return found if wanted == found["threshold"] else None
    return found if math.isclose(wanted, found["threshold"], abs_tol=_SAME) else None


def _stored(threshold: float) -> float | None:
    """Above 1, where no item is kept, all thresholds are one; infinity is no number in JSON."""
    return float(threshold) if threshold <= 1.0 else None


# how well it does


@dataclass(frozen=True, slots=True)
class Report:
    """What hard pruning does at present, of the bundle that serves.

    Attributes:
        target: the coverage that is promised.
        active: whether prompts are pruned.
        missing: if not, how many more `fit` answers to escalated items that takes; 0: the next distillation has
            them, or calibrates anew for what was changed.
        covered, audited: of so many items that escalate, drawn at random and not used to calibrate, how many have
            their reference label in the set that is offered.
        coverage: that share; None without any. low, high: its exact interval (Clopper-Pearson, 95 %).
        asks: pruned ones that were answered. fell_back: of those, asked again over all labels.
        tokens: of their prompts, those of all calls. tokens_full: estimate of what they were over all labels.
    """

    target: float
    active: bool
    missing: int
    covered: int
    audited: int
    coverage: float | None
    low: float
    high: float
    asks: int
    fell_back: int
    tokens: int
    tokens_full: int


def report(tx: Connection, known: Registered, threshold: float) -> Report | None:
    """How pruning does at this threshold; None where the classifier does not prune."""
    if not known.spec.prompt.hard:
        return None
    never = [known.spec.label_names[index] for index in promise.stand(known).never]
    references = offers.references(tx, known, threshold=threshold, never=never)
    return reported(known, threshold, references, offers.asked(tx, known))


def reported(known: Registered, threshold: float, references: Sequence[Reference], asked: Sequence[Asked]) -> Report:
    """The same of what was read. Answers that the cut was calibrated on do not judge it."""
    record, cut = _record(known, threshold), cut_of(known, threshold)
    up_to = record["up_to"] if record else 0
    flags, weights = _covered(known.spec, cut, up_to, references)
    share = quality.weighted(flags, 1.0 / weights, DELTA)
    covered, audited = int(flags.sum()), len(flags)
    tokens = (0, 0, 0, 0) if known.incumbent is None else _tokens(known.spec, known.incumbent.prune_cut, asked)
    return Report(
        known.spec.prompt.coverage,
        cut is not None,
        0 if cut is not None else _missing(known.spec, record, references),
        covered,
        audited,
        share.estimate if audited else None,
        share.low,
        share.high,
        *tokens,
    )


def _missing(spec: Spec, record: Mapping[str, Any] | None, references: Sequence[Reference]) -> int:
    """Answers that the last calibration had not yet, and those that have come since, count as there."""
    up_to = record["up_to"] if record else 0
    there = record["answers"] if record else 0
    if record and record["missing"] > 0:
        there = prune.needed(spec.prompt.coverage) - record["missing"]  # as many as they are worth
    there += sum(one.role is Role.FIT and one.answer > up_to for one in references)
    return max(0, prune.needed(spec.prompt.coverage) - there)


def _covered(
    spec: Spec, cut: float | None, up_to: int, references: Sequence[Reference]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) which references that did not calibrate lie in their set, and what each weighs; none without a cut."""
    fresh = [one for one in references if one.role is Role.JUDGE or one.answer > up_to]
    if cut is None or not fresh:
        return np.zeros(0, dtype=np.bool_), np.zeros(0)
    sets = prune.offered(np.array([one.probabilities for one in fresh]), cut)
    places = [spec.label_names.index(one.label) for one in fresh]
    return sets[np.arange(len(fresh)), places], _weights(spec, [one.propensity for one in fresh])


def _tokens(spec: Spec, cut: float | None, asked: Sequence[Asked]) -> tuple[int, int, int, int]:
    """Pruned asks, those that fell back, tokens of their prompts, and an estimate of those over all labels.

    An ask that fell back has lost what it offered: the cut tells whether that was all labels. Its last prompt is the
    full one. Of the others the labels that were left out are estimated.
    """
    asks = fell_back = paid = full = 0
    spared: dict[tuple[str, ...], int] = {}
    whole = prompts.render(spec, "").tokens()
    for one in asked:
        if one.offered is None:
            if cut is None or prune.offered(np.array([one.probabilities]), cut).all():
                continue
            fell_back += 1
            full += one.last
        else:
            if one.offered not in spared:
                spared[one.offered] = whole - prompts.render(spec, "", candidates=one.offered).tokens()
            full += one.tokens + one.calls * spared[one.offered]
        asks += 1
        paid += one.tokens
    return asks, fell_back, paid, full
