"""Past traffic of a classifier, as `whatif` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datashunt import shunt
from datashunt.certificate import Answers
from datashunt.errors import UsageError
from datashunt.items import Role
from datashunt.store import Store, classifiers, traffic
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.traffic import Audited, Calls
from datashunt.whatif import Traffic

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    tokens_in: float
    tokens_out: float


@dataclass(frozen=True, slots=True)
class Past:
    """The traffic of the bundle that serves.

    Attributes:
        known: the classifier. bundle: that serves.
        threshold: that is in force.
        traffic: what it did.
        left_out: audits drawn at a higher rate than others, which would not have been drawn at the lowest.
        open: audits that wait for their answer.
    """

    known: Registered
    bundle: Bundle
    threshold: float
    traffic: Traffic
    left_out: int
    open: int


def past(store: Store, name: str, *, days: int, price: Price | None) -> Past:
    """The scores of the incumbent in the last days, and the audited answers among them.

    Audits drawn at several rates are thinned to the lowest: the draws are nested, so that those which it would have
    picked are a sample of all items at that one rate.

    Args:
        store: the database.
        name: of the classifier.
        days: at least 1.
        price: instead of what the calls cost.

    Raises:
        UnknownClassifier: there is no such classifier.
        UsageError: no bundle serves, it has scored nothing, no audit is answered, or no call tells its tokens.
    """
    with store.begin() as tx:
        known = classifiers.current(tx, name)
        if known.incumbent is None:
            raise UsageError(
                f"no bundle of {name} serves yet: there are no scores to look at before the first one does"
            )
        found = traffic.window(tx, known, known.incumbent, days)
    if found.threshold is None or not len(found.confidence):
        raise UsageError(
            f"bundle {known.incumbent.version} of {name} scored nothing in the last {days} days: look further back"
            f" (--days), or submit items"
        )
    if not any(one.answer is not None for one in found.audits):
        waiting = f", {found.open} wait for theirs" if found.open else ""
        raise UsageError(
            f"no audit of what bundle {known.incumbent.version} of {name} scored in the last {days} days is"
            f" answered{waiting}: nothing is known of how often it differs from the LLM; wait, look further back"
            f" (--days), or raise policy.audit_rate"
        )
    rate = min(one.propensity for one in found.audits)
    audits = [one for one in found.audits if one.propensity == rate or shunt.audit(known.draw_key, one.id, rate)]
    return Past(
        known,
        known.incumbent,
        found.threshold,
        Traffic(
            confidence=np.sort(found.confidence),
            days=max(1.0, found.days),
            audits=_answers(audits, known.spec.label_names),
            judges=np.array([one.role is Role.JUDGE for one in audits]),
            audit_rate=found.audits[-1].propensity,
            calls_per_ask=found.calls.calls / found.calls.asks if found.calls.asks else 1.0,
            usd_per_call=_usd_per_call(found.calls, price, name, days),
        ),
        len(found.audits) - len(audits),
        found.open,
    )


def _answers(audits: Sequence[Audited], labels: Sequence[str]) -> Answers:
    place = {label: index for index, label in enumerate(labels)}
    return Answers(
        np.array([one.confidence for one in audits], dtype=np.float64),
        np.array([place[one.said] for one in audits], dtype=np.intp),
        np.array([-1 if one.answer is None else place.get(one.answer, -1) for one in audits], dtype=np.intp),
    )


def _usd_per_call(calls: Calls, price: Price | None, name: str, days: int) -> float:
    if price is None:
        return calls.usd / calls.calls if calls.calls else 0.0
    if not calls.counted:
        raise UsageError(
            f"no call of {name} in the last {days} days tells how many tokens it took: leave --llm-price out, or look"
            f" further back (--days)"
        )
    spent = calls.tokens_in * price.tokens_in + calls.tokens_out * price.tokens_out
    return spent / MILLION / calls.counted
