"""How a promise of one bundle is proven: thresholds from `fit` answers, judge answers as a trial reads them, the look.

Decisions only; whoever keeps the trial, the database or a backtest, calls them. Theory: docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate, prune
from datashunt.certificate import Answers, Certificate, Finding, NotYet
from datashunt.classifier import Spec
from datashunt.pipeline import promise, substitutes
from datashunt.policy import TargetPolicy
from datashunt.store.classifiers import Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.store.trials import Judged, Trial, TrialAnswer

LEAST_PLANNED, FEWEST, POWER = 300, 25, 0.9
"""Judge answers that a trial is given at least; the fewest that its thresholds are chosen for."""
PATIENCE = 3
"""A challenger that does not serve after so many times the planned answers gets no certificate."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trial tries. `thresholds`: strictest first. `planned`: judge answers that it is given. `cuts`: JSON."""

    thresholds: list[float]
    planned: int
    cuts: dict[str, Any] | None


def plan(
    known: Registered,
    policy: TargetPolicy,
    probabilities: NDArray[np.floating],
    fit: Sequence[StoredAnswer],
    delta: float,
) -> Plan | None:
    """The thresholds of a trial, chosen by `fit` answers alone; None without any.

    Args:
        known: the classifier.
        policy: its policy.
        probabilities: (n, k) that the bundle on trial gives these answers.
        fit: the answers.
        delta: that the trial may spend.

    Raises:
        SpecError, CertificateError: the promise cannot be proven as the file has it.
    """
    names = known.spec.label_names
    answers = answers_of(probabilities, [names.index(one.label) for one in fit], policy, names)
    wanted = promise.targets(known.spec, policy)
    planned = max(LEAST_PLANNED, 2 * max(certificate.audits_needed(one.allowed, delta) for one in wanted))
    judged = certificate.soonest(wanted, answers, delta=delta, power=POWER, least=FEWEST, most=planned)
    tried = certificate.thresholds(wanted, answers, judged=judged, delta=delta)
    tried = tried[tried > 0.0]  # at 0, what is always asked would count as kept
    if not len(tried):
        return None
    return Plan(tried.tolist(), planned, substitutes.cuts(known, probabilities, fit, tried.tolist()))


def read(spec: Spec, policy: TargetPolicy, one: Judged, probabilities: NDArray[np.float64]) -> TrialAnswer:
    """What a judge answer is to the trial of a bundle that gives its item these probabilities (k,)."""
    names = spec.label_names
    truth = names.index(one.label) if one.label in names else -1
    row = answers_of(probabilities[None, :], [truth], policy, names)
    return TrialAnswer(
        ask=one.ask,
        confidence=float(row.confidence[0]),
        said=int(row.said[0]),
        truth=truth,
        weight=min(1.0, policy.audit_rate / one.propensity) if policy.watched else 1.0,
        kept=one.kept,
        llm=one.llm,
        reach=-np.inf if truth < 0 else float(prune.reach(probabilities[None, :], np.array([truth]))[0]),
    )


def look(
    spec: Spec, policy: TargetPolicy, trial: Trial, read: Sequence[TrialAnswer]
) -> tuple[Certificate | None, int | None, str | None]:
    """What a trial proves so far; or how many answers are missing at least, and why, in words."""
    taken = substitutes.share(spec, trial)
    if taken >= policy.alpha:
        return None, *substitutes.no_room(policy, trial)
    wanted = promise.targets(spec, policy, cuts=substitutes.cuts_of(trial), taken=taken)
    found = proven(wanted, trial, read, delta=substitutes.delta_of_test(spec, trial))
    return (None, found.missing, str(found)) if isinstance(found, NotYet) else (found, None, None)


def proven(
    targets: Sequence[certificate.Target], trial: Trial, read: Sequence[TrialAnswer], *, delta: float
) -> Certificate | NotYet:
    """What a trial's answers prove so far; looking is free, however often."""
    weights = np.array([one.weight for one in read])
    floor = certificate.LEAST_PROPENSITY
    answers = Answers(
        confidence=np.array([one.confidence for one in read], dtype=np.float64),
        said=np.array([one.said for one in read], dtype=np.intp),
        truth=np.array([one.truth for one in read], dtype=np.intp),
        # the weighted test wants propensities; only their ratio to the least one counts
        propensity=None if (weights == 1.0).all() else floor / weights,
        reach=None if trial.cuts is None else np.array([one.reach for one in read], dtype=np.float64),
    )
    return certificate.certify_anytime(targets, np.array(trial.thresholds), answers, delta=delta, floor=floor)


def in_json(finding: Finding, spec: Spec) -> dict[str, Any]:
    """What was seen of one target, as JSON values."""
    target = finding.target
    label = None if target.label is None else spec.label_names[target.label]
    what = promise.in_words(target, spec)
    return {"target": what, "label": label, "allowed": target.allowed, "n": finding.n, "k": finding.k}


def answers_of(
    probabilities: NDArray[np.floating], truth: Sequence[int], policy: TargetPolicy, names: Sequence[str]
) -> Answers:
    """Answers beside what the bundle says; what is always asked has confidence 0, so that no threshold keeps it."""
    said = probabilities.argmax(axis=1)
    never = [names.index(name) for name in policy.always_ask]
    confidence = np.where(np.isin(said, never), 0.0, probabilities.max(axis=1, initial=0.0))
    # stored probabilities are rounded, and may exceed 1 by that
    return Answers(np.minimum(np.nan_to_num(confidence), 1.0), said, np.array(truth, dtype=np.intp))


def kept_by(
    found: Certificate, answers: Sequence[TrialAnswer], serving: Mapping[int, float], threshold: float
) -> tuple[float, float]:
    """Shares of judged items that are kept at what is proven, and that the bundle which serves keeps as it stands now.

    Both are of the items that both bundles scored. What was kept when these were judged is another matter: nothing was
    proven then, or less.

    Args:
        found: what is proven.
        answers: of its trial.
        serving: how sure the bundle that serves is of each ask that its own trial has read; where it has none in
            common with these answers, what it kept then must do.
        threshold: from which on it keeps at present.
    """
    both = [one for one in answers if one.ask in serving]
    then = float(np.mean([one.confidence >= found.threshold for one in both or answers]))
    now = [serving[one.ask] >= threshold for one in both] or [one.kept for one in answers]
    return then, float(np.mean(now))


def grown(n: int, before: int) -> bool:
    """Whether a trial with n answers is looked at again after a look at fewer: at each new one, later at 2 % more.

    Whenever one looks, what is proven is; fewer looks only delay it, and each takes as long as there are answers.
    """
    return n - before >= max(1, before // 50)
