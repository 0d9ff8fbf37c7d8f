"""A day's budget: one row, reserved on by guarded UPDATEs and settled by whatever ends an ask or a call.

A reservation belongs to an ask until its call is booked, then to the call; both name the row it is on. So a call
settles on its own day, whenever it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.errors import StoreError
from datashunt.pacing import Account
from datashunt.store.claims import BY_TIME

PROFILE_DAYS = 7
"""Age in days above which an earlier day says nothing of the present one."""
CHUNK = 5_000
"""Asks that one transaction puts off."""

RETURNED = """
    returned AS (
        UPDATE asks SET budget_day_id = settled.budget_day_id, reserved = settled.budget_reserved
          FROM settled
         WHERE asks.id = settled.ask_id AND settled.state = 'failed' AND settled.was = 'sent'
           AND settled.budget_day_id IS NOT NULL AND asks.reserved IS NULL AND asks.state IN ('waiting', 'calling')
     RETURNING settled.id)"""
"""What was reserved for a failed call is its ask's again. `settled`: calls, with their former state in `was`."""

_CALLS = """
    SELECT day.id AS day,
           CASE WHEN s.state = 'failed' THEN 0 WHEN day.unit = 'calls' THEN 1 ELSE s.cost_usd END
             - CASE WHEN s.was = 'sent' THEN 0 WHEN day.unit = 'calls' THEN 1 ELSE s.was_usd END AS cost,
           CASE WHEN s.was = 'sent' AND {kept} THEN s.budget_reserved ELSE 0 END AS freed,
           CASE WHEN s.was = 'sent' AND s.state <> 'failed' THEN s.budget_reserved ELSE 0 END AS used
      FROM settled s JOIN budget_days day ON day.id = s.budget_day_id"""
_ASKS = "SELECT day, 0 AS cost, amount AS freed, 0 AS used FROM {closed} WHERE day IS NOT NULL"


def booked(*, calls: bool = False, returned: bool = False, closed: str | None = None) -> str:
    """A CTE that books what ended on its days, in the one UPDATE of each day that a statement may make.

    Args:
        calls: the CTE `settled` holds calls, with their former state in `was` and cost in `was_usd`: what they cost
            takes the place of what was reserved for them.
        returned: after `RETURNED`, whose reservations stay.
        closed: a CTE with asks that will not be called any more: `amount` is what was reserved for them on `day`.
    """
    kept = "NOT EXISTS (SELECT FROM returned WHERE returned.id = s.id)" if returned else "true"
    parts = ([_CALLS.format(kept=kept)] if calls else []) + ([_ASKS.format(closed=closed)] if closed else [])
    return f"""
    booked AS (
        UPDATE budget_days SET spent = spent + ended.cost, reserved = budget_days.reserved - ended.freed,
                               settled = settled + ended.used
          FROM (SELECT day, sum(cost) AS cost, sum(freed) AS freed, sum(used) AS used
                  FROM ({" UNION ALL ".join(parts)}) AS one GROUP BY day) AS ended
         WHERE budget_days.id = ended.day)"""  # noqa: S608 - the parts are constants of ours


@dataclass(frozen=True, slots=True)
class OpenDay:
    """A day's row, locked until the transaction ends. `bundle`: whose confidences the account holds."""

    id: int
    account: Account
    bundle: int | None


def now(tx: Connection) -> datetime:
    """The database's clock, at the beginning of this transaction."""
    moment: datetime = tx.execute(text("SELECT now()")).scalar_one()
    return moment


_OPEN = text(
    "SELECT * FROM budget_days WHERE classifier_id = :classifier AND day = :day AND unit = :unit FOR NO KEY UPDATE"
)

_CREATE = text("""
    INSERT INTO budget_days (classifier_id, day, unit, budget, profile, confidences, bundle_id)
    SELECT :classifier, :day, :unit, :budget, coalesce(before.arrivals, '{}'), coalesce(before.confidences, '{}'),
           before.bundle_id
      FROM (SELECT) AS always
      LEFT JOIN (SELECT arrivals, confidences, bundle_id FROM budget_days
                  WHERE classifier_id = :classifier AND day < :day AND day >= CAST(:day AS date) - :most_days
                  ORDER BY day DESC, id DESC LIMIT 1) AS before ON true
        ON CONFLICT DO NOTHING
""")


def open_day(tx: Connection, classifier_id: int, day: date, unit: str, budget: Decimal) -> OpenDay:
    """The account of a day, made when it is first asked for; nobody else changes it until this transaction ends."""
    key = {"classifier": classifier_id, "day": day, "unit": unit}
    row = tx.execute(_OPEN, key).one_or_none()
    if row is None:
        tx.execute(_CREATE, {**key, "budget": budget, "most_days": PROFILE_DAYS})
        row = tx.execute(_OPEN, key).one()
    account = Account(
        budget=budget,
        spent=row.spent,
        reserved=row.reserved,
        settled=row.settled,
        granted=row.granted,
        asked=row.asked,
        arrivals=row.arrivals,
        profile=row.profile,
        confidences=row.confidences,
        carry=row.carry,
    )
    return OpenDay(row.id, account, row.bundle_id)


def book(
    tx: Connection,
    day: OpenDay,
    *,
    reserved: Decimal,
    asks: int,
    arrivals: list[int],
    confidences: list[float],
    bundle: int | None,
    carry: float,
    threshold: float,
) -> None:
    """Reserve for a batch's asks, and write down what the next batch begins with.

    Raises:
        StoreError: the budget does not reach so far. Under `open_day`'s lock that is a mistake of ours.
    """
    booked = tx.execute(
        text(
            "UPDATE budget_days SET budget = :budget, reserved = reserved + :amount, granted = granted + :amount,"
            " asked = asked + :asks, arrivals = :arrivals, confidences = CAST(:confidences AS real[]),"
            " bundle_id = :bundle, carry = :carry, threshold = :threshold"
            " WHERE id = :id AND (:amount = 0 OR spent + reserved + :amount <= :budget)"
        ),
        {
            "id": day.id,
            "budget": day.account.budget,
            "amount": reserved,
            "asks": asks,
            "arrivals": arrivals,
            "confidences": confidences,
            "bundle": bundle,
            "carry": carry,
            "threshold": threshold,
        },
    )
    if booked.rowcount != 1:
        raise StoreError(f"the day's budget does not reach for {reserved} more: nothing of this batch was stored")


_RESERVE = text("""
    WITH mine AS (
        SELECT id FROM asks
         WHERE id = :ask AND lease_token = :token AND state = 'calling' AND reserved IS NULL FOR UPDATE),
    paid AS (
        UPDATE budget_days SET reserved = reserved + :amount, granted = granted + :amount, asked = asked + 1
          FROM mine WHERE budget_days.id = :day AND spent + reserved + :amount <= :budget
     RETURNING budget_days.id)
    UPDATE asks SET budget_day_id = paid.id, reserved = :amount FROM mine, paid WHERE asks.id = mine.id
""")


def reserve(tx: Connection, day: OpenDay, ask: int, token: UUID, amount: Decimal) -> bool:
    """Reserve for the next call of a leased ask; False when the money does not reach, or the lease is lost."""
    values = {"ask": ask, "token": token, "day": day.id, "budget": day.account.budget, "amount": amount}
    return tx.execute(_RESERVE, values).rowcount == 1


_PUT_OFF = text(f"""
    WITH due AS (
        SELECT id FROM asks
         WHERE classifier_id = :classifier AND state = 'waiting' AND reserved IS NULL
           AND not_before <= now() AND {BY_TIME} AND now() < :until
         LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE asks SET not_before = :until FROM due WHERE asks.id = due.id
""")  # noqa: S608 - our own words


def put_off(tx: Connection, classifier_id: int, until: datetime) -> bool:
    """Let `CHUNK` asks wait until then that are due and have nothing reserved; whether there may be more of them.

    It waits for nobody: at what it passes by somebody else is.
    """
    values = {"classifier": classifier_id, "until": until, "most": CHUNK}
    return tx.execute(_PUT_OFF, values).rowcount == CHUNK


def on_day(tx: Connection, classifier_id: int, day: date, unit: str) -> dict[str, Any] | None:
    """A day's account for people: spent, reserved, asked, items and threshold; None before its first batch."""
    row = tx.execute(
        text(
            "SELECT spent, reserved, asked, threshold, (SELECT coalesce(sum(n), 0) FROM unnest(arrivals) AS n) AS items"
            " FROM budget_days WHERE classifier_id = :classifier AND day = :day AND unit = :unit"
        ),
        {"classifier": classifier_id, "day": day, "unit": unit},
    ).one_or_none()
    return None if row is None else dict(row._mapping)
