"""A classifier with a budget: which items of a batch are asked today, and what becomes of the others.

The decisions are `pacing`'s; here they meet the day's row, under its lock, in the transaction that they belong to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from typing import TYPE_CHECKING

import numpy as np

from datashunt import pacing, prompts
from datashunt.classifier import Spec
from datashunt.day import Day, counted, day_at
from datashunt.errors import SpecError
from datashunt.items import ClaimedAsk, ClaimedItem
from datashunt.pacing import Plan
from datashunt.policy import BudgetPolicy
from datashunt.prompts import Prompt
from datashunt.store import Connection, Store, asks, budgets, scores
from datashunt.store.budgets import OpenDay
from datashunt.store.classifiers import Registered
from datashunt.store.scores import Scored, Settled
from datashunt.telemetry import event

if TYPE_CHECKING:
    from datashunt.pipeline.call import Call

PRICE_WAIT_S = 30.0
"""How long asks wait for somebody to say what they cost."""
Clock = Callable[[Connection], datetime]
"""Says which day it is; the database's clock, but for a simulated day."""
_SMALLEST = Decimal("1e-9")
"""What the tables' amounts are rounded up to."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """A batch with its share of the day's budget, before it is written.

    Attributes:
        scored: the items, with what is reserved for their asks.
        threshold: of the day, at this moment.
        wait_s: seconds until the next day begins.
    """

    scored: list[Scored]
    threshold: float
    wait_s: float
    day: OpenDay
    fraction: float
    plan: Plan

    def book(self, tx: Connection, settled: Settled, bundle: int | None) -> None:
        """Reserve what the batch's new asks may cost; in the transaction that made them.

        Raises:
            StoreError: the budget does not reach for it.
        """
        budgets.book(
            tx,
            self.day,
            reserved=settled.reserved,
            asks=settled.paid,
            arrivals=counted(self.day.account.arrivals, self.fraction, settled.moved),
            confidences=self.plan.confidences,
            bundle=bundle,
            carry=self.plan.carry,
            threshold=self.threshold,
        )


def allot(
    tx: Connection,
    known: Registered,
    policy: BudgetPolicy,
    drafts: Sequence[Scored],
    amounts: Sequence[Decimal],
    clock: Clock,
) -> Allotment:
    """Decide under the day's lock which of these items are asked.

    Args:
        tx: an open transaction; the lock ends with it.
        known: the classifier.
        policy: its policy.
        drafts: the items as they are if they escalate.
        amounts: what asking each of them costs at most.
        clock: says which day it is.
    """
    scores.hold(tx, [one.row for one in drafts])
    day, moment = _today(tx, policy, clock)
    opened = _open(tx, known.id, policy, day)
    account = opened.account
    if (
        known.incumbent is None or opened.bundle != known.incumbent.id
    ):  # confidences of another model mean another thing
        account = replace(account, confidences=())
    confidence = np.array([np.nan if one.confidence is None else one.confidence for one in drafts])
    audited = np.array([one.propensity is not None for one in drafts], dtype=np.bool_)
    fraction = day.fraction(moment)
    rate = policy.audit_rate
    made = pacing.plan(account, fraction, confidence, audited, amounts, rate)
    scored = [
        shared_out(one, policy, escalate=bool(made.escalate[n]), amount=amounts[n] if made.granted[n] else None)
        for n, one in enumerate(drafts)
    ]
    return Allotment(scored, made.threshold, day.left_s(moment), opened, fraction, made)


def shared_out(draft: Scored, policy: BudgetPolicy, *, escalate: bool, amount: Decimal | None) -> Scored:
    """What becomes of one item: kept, asked today, asked later or held.

    Args:
        draft: the item as it is if it escalates.
        policy: says what to do at the cap.
        escalate: whether its confidence is too low today.
        amount: what is reserved for asking it, or None when there is no money for it.
    """
    audited = draft.propensity is not None
    if amount is not None:
        return replace(draft, keep=not escalate, reserved=amount if escalate or audited else None)
    if not escalate:
        return replace(draft, keep=True, offered=None, prior=None, waits=audited)
    sure = draft.confidence is not None and bool(np.isfinite(draft.confidence))
    if policy.at_cap == "keep" and sure:
        return replace(draft, keep=True, offered=None, prior=None, waits=audited)
    return replace(draft, keep=False, held=policy.at_cap == "hold", waits=True)


def is_secured(known: Registered, ask: ClaimedAsk) -> bool:
    """Whether the budget has a place for the next call of this ask, or there is no budget."""
    return ask.reserved or not isinstance(known.spec.policy, BudgetPolicy)


def secure(tx: Connection, call: Call, clock: Clock) -> float | None:
    """Reserve for a call out of what is free now; if nothing is, its ask waits as a row until the next day begins.

    For asks with no place yet: those that waited for this day, and those whose paid call brought no answer.

    Returns:
        None, or so many seconds as the ask waits: for `put_off`, once this transaction is committed.

    Raises:
        SpecError: the budget is in USD, and nobody knows the price; see `tell_of_no_price`.
    """
    known, policy = call.known, call.known.spec.policy
    if not isinstance(policy, BudgetPolicy):
        return None
    amount = price(known.spec, policy, call.prompt, max(1, call.samples), call.models)
    asks.hold(tx, call.ask)
    day, moment = _today(tx, policy, clock)
    opened = _open(tx, known.id, policy, day)
    if budgets.reserve(tx, opened, call.ask.row, call.token, amount):
        return None
    wait_s = day.left_s(moment)
    lost = not asks.put_back(tx, call.ask, call.token, wait_s=wait_s)  # then there may be money: booking sees that
    return None if lost else wait_s


def put_off(store: Store, known: Registered, wait_s: float, stop: Callable[[], bool] = lambda: False) -> None:
    """Let every ask wait that is due and has no place in the budget yet: the next one would find none either.

    Some thousands in each transaction, which holds no row of a day. Several processes that meet this at once share the
    work; what one of them leaves due when it ends is claimed, finds no place and is put off again.

    Args:
        store: of the asks.
        known: their classifier.
        wait_s: how long they wait from now on.
        stop: whether this process shall end.
    """
    with store.single() as tx:
        until = budgets.now(tx) + timedelta(seconds=wait_s)
        more = True
        while more and not stop():
            more = budgets.put_off(tx, known.id, until)


def tell_of_no_price(known: Registered, error: SpecError) -> None:
    """Raise an alarm: asks that have no place in the budget yet wait `PRICE_WAIT_S`, and only a person can help.

    The file was checked when it was applied, but perhaps by a program that knows other prices than this one does.
    """
    event("price_unknown", level=logging.ERROR, classifier=known.name, what=str(error))


def amounts_of(
    known: Registered, policy: BudgetPolicy, batch: Sequence[ClaimedItem], drafts: Sequence[Scored]
) -> list[Decimal]:
    """What asking each item of a batch costs at most, in the budget's unit.

    Raises:
        SpecError: the budget is in USD, and nobody knows the price.
    """
    if policy.unit == "calls":
        return [Decimal(1)] * len(batch)
    spec = known.spec
    return [
        price(
            spec,
            policy,
            prompts.render(spec, item.text, candidates=one.offered, prior=one.prior),
            spec.llm.samples,
            spec.llm.all_models if one.role.may_fall_back else spec.llm.all_models[:1],
        )
        for item, one in zip(batch, drafts, strict=True)
    ]


def price(spec: Spec, policy: BudgetPolicy, prompt: Prompt, samples: int, models: Sequence[str]) -> Decimal:
    """What one call for so many samples costs at most, in the budget's unit, by the dearest of these models.

    Raises:
        SpecError: the budget is in USD, and nobody knows the price.
    """
    if policy.unit == "calls":
        return Decimal(1)
    from datashunt import llm  # the endpoint's client comes with it, and a score worker has no other use for that

    most = [llm.reserve(model, prompt, spec.llm, samples) for model in models]
    told = [usd for usd in most if usd is not None]
    if len(told) < len(most):  # then that of the first is unknown, too
        raise SpecError(
            f"{spec.name}: policy.usd_per_day needs the price of {spec.llm.model}, and nobody knows it:"
            " set llm.input_price and llm.output_price, or give policy.calls_per_day instead"
        )
    return max(told).quantize(_SMALLEST, ROUND_UP)


def check_price(spec: Spec) -> None:
    """Refuse a budget in USD that no call could be counted against.

    Raises:
        SpecError: it says what to set.
    """
    if isinstance(spec.policy, BudgetPolicy):
        price(spec, spec.policy, prompts.render(spec, "any text"), 1, spec.llm.all_models)


def _today(tx: Connection, policy: BudgetPolicy, clock: Clock) -> tuple[Day, datetime]:
    moment = clock(tx)
    return day_at(moment, policy.timezone), moment


def _open(tx: Connection, classifier_id: int, policy: BudgetPolicy, day: Day) -> OpenDay:
    return budgets.open_day(tx, classifier_id, day.date, policy.unit, policy.per_day)
