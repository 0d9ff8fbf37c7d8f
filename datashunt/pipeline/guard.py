"""The drift guard at work: it reads the newest scores and audits of a certified bundle, and does what the ladder says.

Raise the audit rate, then suspend the certificate, then distil; every step is an event. Theory: docs/drift.md.
"""

from __future__ import annotations

from dataclasses import replace

from datashunt import drift
from datashunt.drift import AuditGuard, Evidence, Rung, ScoreGuard
from datashunt.drift.ladder import EventKind, Step
from datashunt.pipeline import promise, pruning
from datashunt.policy import TargetPolicy
from datashunt.store import Connection, certificates, classifiers, guards, trials
from datashunt.store.classifiers import Registered
from datashunt.store.guards import Stored
from datashunt.store.trials import Trial
from datashunt.telemetry import event

MOST_SCORES = 10_000
"""Scores that one look reads, about; of more that are new it draws so many, so that it never lags."""


def watch(tx: Connection, known: Registered, policy: TargetPolicy) -> bool:
    """Read on, and act; returns whether a distillation is wanted.

    Args:
        tx: an open transaction.
        known: the classifier.
        policy: its policy.
    """
    if known.incumbent is None or known.certified is None:
        return False
    classifiers.lock(tx, known.id)
    trial = trials.open_trial(tx, known.incumbent.id)
    if trial is None or certificates.standing(tx, known.incumbent.id) is None:
        return False
    stored = guards.find(tx, trial.id)
    if stored is None or not _readable(stored):
        guards.save(tx, trial.id, _fresh(known, policy, trial, *guards.newest(tx)))
        return False
    read = _read(tx, known, policy, trial, stored)
    step = drift.climb(Rung(stored.rung), evidence(read), scores_suspend=policy.on_drift == "suspend")
    guards.save(tx, trial.id, _after(read, step, known, policy, trial))
    return _act(tx, known, policy, step)


def evidence(guard: Stored) -> Evidence:
    """Where a guard on file stands."""
    audits = AuditGuard.from_json(guard.audits)
    return Evidence(scores=guard.scores["evidence"], audits=audits.evidence, calm=audits.calm)


def _readable(stored: Stored) -> bool:
    """Whether this version of the program wrote it."""
    try:
        ScoreGuard.from_json(stored.scores)
        AuditGuard.from_json(stored.audits)
    except ValueError:
        return False
    return True


def _fresh(known: Registered, policy: TargetPolicy, trial: Trial, score: int, ask: int) -> Stored:
    return Stored(
        rung=Rung.CALM,
        scores=ScoreGuard.start(len(known.spec.labels), seed=trial.id).to_json(),
        audits=AuditGuard.start(policy.alpha).to_json(),
        last_score=score,
        last_ask=ask,
    )


def _read(tx: Connection, known: Registered, policy: TargetPolicy, trial: Trial, stored: Stored) -> Stored:
    """The guard after what has come since."""
    seen = guards.scores_after(tx, trial.bundle_id, stored.last_score, MOST_SCORES)
    names = known.spec.label_names
    sure = [min(one, 1.0) for one in seen.confidences]
    scores = ScoreGuard.from_json(stored.scores).update(sure, [names.index(one) for one in seen.labels])
    cut = pruning.cut_of(known, promise.stand(known).threshold)
    new = guards.audits_after(tx, trial, stored.last_ask, of_all=policy.of == "all", cut=cut)
    audits = AuditGuard.from_json(stored.audits)
    audits = audits.update(new.missed, new.weights) if new.missed else audits
    return replace(stored, scores=scores.to_json(), audits=audits.to_json(), last_score=seen.last, last_ask=new.last)


def _after(read: Stored, step: Step, known: Registered, policy: TargetPolicy, trial: Trial) -> Stored:
    kinds = [one.kind for one in step.events]
    if EventKind.CALMED in kinds:
        return _fresh(known, policy, trial, read.last_score, read.last_ask)
    if EventKind.RAISED in kinds:
        return replace(read, rung=step.rung, audits=AuditGuard.from_json(read.audits).anew().to_json())
    return replace(read, rung=step.rung)


def _act(tx: Connection, known: Registered, policy: TargetPolicy, step: Step) -> bool:
    for one in step.events:
        certificates.tell(tx, known.id, one.kind, one.text)
        event("drift", classifier=known.name, kind=one.kind, why=one.text)
        if one.kind is EventKind.RAISED:
            certificates.set_audit_rate(tx, known.id, drift.raised(policy.audit_rate))
        elif one.kind is EventKind.CALMED:
            certificates.set_audit_rate(tx, known.id, policy.audit_rate)
        elif one.kind is EventKind.SUSPENDED:
            certificates.revoke(tx, known.id, f"{trials.DRIFT}: {one.text}")
            trials.end(tx, known.id, trials.DRIFT)
            certificates.set_audit_rate(tx, known.id, None)
    return any(one.kind is EventKind.DISTIL for one in step.events)
