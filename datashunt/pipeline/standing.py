"""How a classifier stands: what it promises, what is proven, what is missing, and how well outcomes agree."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from datashunt import quality, shunt
from datashunt.pipeline import people, promise
from datashunt.pipeline.people import Quality
from datashunt.policy import TargetPolicy
from datashunt.quality import Live
from datashunt.settings import Settings
from datashunt.store import Connection, Store, audits, certificates, classifiers, trials
from datashunt.store.audits import Cost
from datashunt.store.certificates import Granted, Told
from datashunt.store.classifiers import Registered

DELTA = 0.1
"""An interval of agreement misses with this chance."""


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A trial under way. `bundle`: its version. `n`: judge answers read; `missing`: at least so many more."""

    bundle: int
    n: int
    missing: int | None
    note: str | None
    since: datetime

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON values."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "since": self.since.isoformat()}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a classifier stands. `promise` in words; None: nothing is promised. `rate`: share that is audited.

    `live`, `cost`: of the audits of a while. `people`: what they say of the newest sample, if one was drawn.
    """

    name: str
    promise: str | None
    certificate: Granted | None
    trials: tuple[OnTrial, ...]
    rate: float
    live: Live
    people: Quality | None
    cost: Cost
    events: tuple[Told, ...]


def read(store: Store, settings: Settings, name: str, *, since_s: float) -> Standing:
    """How a classifier stands, agreement measured over the last `since_s` seconds.

    Raises:
        UnknownClassifier: there is no such classifier.
    """
    with store.begin() as tx:
        known = classifiers.current(tx, name)
        return Standing(
            name=name,
            promise=promised(known),
            certificate=proven(tx, known),
            trials=tuple(on_trial(tx, known)),
            rate=audit_rate(known),
            cost=audits.cost(tx, known.id, since_s=since_s),
            people=people.newest(tx, known),
            live=agreement(tx, known, settings, since_s=since_s),
            events=tuple(certificates.events(tx, known.id)),
        )


def agreement(tx: Connection, known: Registered, settings: Settings, *, since_s: float) -> Live:
    """How well outcomes agree with the LLM, by the audits of the last `since_s` seconds."""
    audited = audits.recent(tx, known.id, since_s=since_s, patience_s=settings.audit_deadline_s)
    return quality.live(audited, known.spec.label_names, DELTA)


def promised(known: Registered) -> str | None:
    """The promise of a classifier in one sentence; None without a target."""
    policy = known.spec.policy
    if not isinstance(policy, TargetPolicy):
        return None
    overall, *others = (promise.in_words(one, known.spec) for one in promise.targets(known.spec, policy))
    what = "; ".join([overall + promise.counted(known.spec), *others])
    return f"promised: {what}; with probability at least {1 - policy.delta:g} over the classifier's whole life"


def audit_rate(known: Registered) -> float:
    """Share of all items that is audited, or held out while no bundle serves and all are asked."""
    rate = promise.stand(known).rate
    return rate if known.incumbent is not None else max(shunt.COLD_START_AUDIT_RATE, rate)


def proven(tx: Connection, known: Registered) -> Granted | None:
    """The certificate of the bundle that serves."""
    return None if known.incumbent is None else certificates.standing(tx, known.incumbent.id)


def on_trial(tx: Connection, known: Registered) -> list[OnTrial]:
    """The trials under way: of the incumbent, and of a challenger that waits for its certificate."""
    found = [(bundle, trials.open_trial(tx, bundle.id)) for bundle in trials.to_prove(tx, known)]
    return [
        OnTrial(bundle.version, trial.n, trial.missing, trial.note, trial.created_at)
        for bundle, trial in found
        if trial is not None
    ]
