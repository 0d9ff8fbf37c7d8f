"""What is done about drift, one rung after the other, and the way back. Pure.

calm ── the scores or the audits give an alarm ──▶ watching: more is audited
calm, watching ── audits prove a rate above α, or scores change beyond doubt (unless the policy leaves it to the
audits) ──▶ suspended: no promise; distil
watching ── later audits prove a rate below α ──▶ calm: what comes now is the new reference
suspended ── another bundle serves, or a certificate is granted ──▶ new guards, calm
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

FALSE_ALARM = 0.01
"""Chance, over the whole life of a bundle, of an alarm of its scores though nothing changed; and of its audits."""

SUSPENSION = 0.0001
"""Chance that scores alone suspend a certificate though nothing changed."""

RAISE = 4.0
"""How many times as much is audited while there is an alarm."""


class Rung(StrEnum):
    """How far the guard has gone."""

    CALM = "calm"
    WATCHING = "watching"
    SUSPENDED = "suspended"


class EventKind(StrEnum):
    """What the guard did."""

    RAISED = "audit_rate_raised"
    SUSPENDED = "certificate_suspended"
    DISTIL = "distillation_wanted"
    CALMED = "calmed"


@dataclass(frozen=True, slots=True)
class Event:
    """One step, and why, in a sentence for people."""

    kind: EventKind
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the guards stand; all in nats, 0 for none.

    Attributes:
        scores: of a `ScoreGuard`: the stream has changed.
        audits: of an `AuditGuard`: more of the kept disagree than is allowed.
        calm: of the same: since the alarm fewer do.
    """

    scores: float = 0.0
    audits: float = 0.0
    calm: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """Where the guard is next, and what happened on the way; no event if it stays."""

    rung: Rung
    events: tuple[Event, ...] = ()


def climb(rung: Rung, evidence: Evidence, *, scores_suspend: bool = True) -> Step:
    """The next rung. A suspended certificate stays so: only a new one, or a new bundle, makes it good.

    Args:
        rung: where the guard is.
        evidence: what it has seen.
        scores_suspend: whether scores that have changed beyond doubt are enough, whatever the audits say.
    """
    if rung is Rung.SUSPENDED:
        return Step(rung)
    reason = _reason(evidence, FALSE_ALARM, FALSE_ALARM)
    if rung is Rung.WATCHING and evidence.calm >= _alarm(FALSE_ALARM) and evidence.audits < _alarm(FALSE_ALARM):
        return Step(Rung.CALM, (Event(EventKind.CALMED, _calmed(evidence)),))
    if reason is None:
        return Step(rung)
    raising = (Event(EventKind.RAISED, f"{reason}: {RAISE:g} times as much is audited"),)
    beyond = _reason(evidence, SUSPENSION if scores_suspend else 0.0, FALSE_ALARM)
    if beyond is None:
        return Step(Rung.WATCHING, raising if rung is Rung.CALM else ())
    ending = (
        Event(EventKind.SUSPENDED, f"{beyond}: the certificate is suspended"),
        Event(EventKind.DISTIL, "the small model shall learn from what was asked since: a distillation is wanted"),
    )
    return Step(Rung.SUSPENDED, (raising if rung is Rung.CALM else ()) + ending)


def raised(rate: float) -> float:
    """The audit rate while there is an alarm, in [0, 1]."""
    return min(1.0, RAISE * rate)


def _reason(evidence: Evidence, scores: float, audits: float) -> str | None:
    """Which guard gives an alarm at these chances of a false one; the audits first, since they know."""
    if evidence.audits >= _alarm(audits):
        return f"more of the kept items disagree with the LLM than is allowed ({_odds(evidence.audits, audits)})"
    if evidence.scores >= _alarm(scores):
        found = _odds(evidence.scores, scores)
        return f"confidences or predicted labels are no longer distributed as they were ({found})"
    return None


def _calmed(evidence: Evidence) -> str:
    found = _odds(evidence.calm, FALSE_ALARM)
    return f"audits since the alarm agree as often as is promised ({found}): the audit rate is as it was"


def _odds(nats: float, chance: float) -> str:
    return f"evidence of 10^{nats / math.log(10):.1f} to 1, at least 10^{_alarm(chance) / math.log(10):.0f} is needed"


def _alarm(chance: float) -> float:
    return -math.log(chance) if chance > 0.0 else math.inf
