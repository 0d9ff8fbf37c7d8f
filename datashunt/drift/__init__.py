"""Does the stream still look, and are its labels still as good, as when the certificate was given? Pure; numpy only.

    conformal   p-values of new items among all before them: uniform and independent while nothing changes
    bets        against that, and against "at most α of the kept disagree": evidence that a change has begun at any time
    scores      without labels: the guard of a bundle's confidences and predicted labels
    audits      with labels: the guard of the kept items' disagreement
    ladder      what is done about it: raise the audit rate, suspend the certificate, distil; and the way back

All evidence is a logarithm (nats) of a wealth that starts at 1, or below, and reaches 1 / δ with probability ≤ δ over
the whole life of a bundle, however long, while nothing changes (Ville's inequality). Theory: docs/drift.md.

Imports nothing of datashunt.
"""

from datashunt.drift.audits import AuditGuard
from datashunt.drift.ladder import FALSE_ALARM, SUSPENSION, Event, EventKind, Evidence, Rung, Step, climb, raised
from datashunt.drift.scores import ScoreGuard

__all__ = [
    "FALSE_ALARM",
    "SUSPENSION",
    "AuditGuard",
    "Event",
    "EventKind",
    "Evidence",
    "Rung",
    "ScoreGuard",
    "Step",
    "climb",
    "raised",
]
