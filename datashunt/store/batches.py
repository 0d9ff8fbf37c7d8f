"""Batches as rows: planned, taken forward step by step under a lease, and harvested line by line.

An ask of a batch is `calling` with the batch's key as its lease's token and no end of the lease, so whatever
guards a live call's ask guards it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.items import BatchState, ClaimedAsk, Wake
from datashunt.store.claims import BY_TIME, claimed_ask, columns_of, for_a_batch, in_line
from datashunt.store.classifiers import Registered

_BEYOND = for_a_batch("CAST(:beyond_s AS float)")


_PLAN = text(f"""
    INSERT INTO batches (classifier_id, spec_version)
    SELECT :classifier, :version
     WHERE (SELECT true FROM asks
             WHERE classifier_id = :classifier AND state = 'waiting' AND {BY_TIME}
               AND not_before <= now() - make_interval(secs => :gather_s) AND {_BEYOND}
             ORDER BY not_before LIMIT 1)
        ON CONFLICT (classifier_id) WHERE state = 'building' DO NOTHING
""")  # noqa: S608 - our own words


def plan(tx: Connection, known: Registered, *, gather_s: float) -> bool:
    """Begin a batch if asks for one have waited so long, and none of this classifier is being built."""
    values = {
        "classifier": known.id,
        "version": known.version,
        "gather_s": gather_s,
        "beyond_s": known.spec.llm.batch_beyond_s,
    }
    return tx.execute(_PLAN, values).rowcount == 1


def due(tx: Connection, *, still_s: float) -> list[Wake]:
    """Batches whose next step is due; what is returned counts as announced."""
    rows = tx.execute(
        text(
            "WITH announced AS (UPDATE batches SET announced_at = now()"
            "    WHERE state <> 'harvested' AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())"
            "      AND (announced_at < due_at OR announced_at < now() - make_interval(secs => :still_s))"
            "    RETURNING classifier_id, id)"
            " SELECT name, announced.id FROM announced JOIN classifiers ON classifiers.id = classifier_id ORDER BY 1, 2"
        ),
        {"still_s": still_s},
    )
    return [Wake("batch", row.name, (row.id,)) for row in rows]


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """A batch under a lease.

    Attributes:
        row: the database's id. key: names it at the endpoint, and is the token of its asks' leases.
        token: of its own lease.
        tries: how often its present step was begun before.
        remote_id: the endpoint's id of it.
        files: ids of its result files. input_file_id: that of its requests.
        created_at: seconds of the epoch. age_s, running_s: seconds since then, and since it was submitted.
    """

    row: int
    classifier_id: int
    spec_version: int
    key: UUID
    token: UUID
    state: BatchState
    tries: int
    input_file_id: str | None
    remote_id: str | None
    files: tuple[str, ...]
    ended_as: str | None
    error: str | None
    created_at: float
    age_s: float
    running_s: float


def claim(tx: Connection, row: int, token: UUID, *, lease_s: float) -> ClaimedBatch | None:
    """Lease this batch if its next step is due and nobody is at it, or None."""
    found = tx.execute(
        text(
            "UPDATE batches SET lease_token = :token, lease_until = now() + make_interval(secs => :lease_s),"
            " tries = tries + 1 WHERE id = :row AND state <> 'harvested' AND due_at <= now()"
            " AND (lease_until IS NULL OR lease_until < now()) RETURNING *,"
            " extract(epoch FROM created_at) AS created, extract(epoch FROM now() - created_at) AS age_s,"
            " extract(epoch FROM now() - coalesce(submitted_at, now())) AS running_s"
        ),
        {"row": row, "token": token, "lease_s": lease_s},
    ).one_or_none()
    if found is None:
        return None
    return ClaimedBatch(
        row=found.id,
        classifier_id=found.classifier_id,
        spec_version=found.spec_version,
        key=found.key,
        token=token,
        state=BatchState(found.state),
        tries=found.tries - 1,
        input_file_id=found.input_file_id,
        remote_id=found.remote_id,
        files=tuple(file for file in (found.output_file_id, found.error_file_id) if file is not None),
        ended_as=found.ended_as,
        error=found.error,
        created_at=float(found.created),
        age_s=float(found.age_s),
        running_s=float(found.running_s),
    )


def renew(tx: Connection, batch: ClaimedBatch, *, lease_s: float) -> bool:
    """Hold it for longer; False when the lease is lost."""
    return _change(tx, batch, "lease_until = now() + make_interval(secs => :lease_s)", lease_s=lease_s)


def go_on(tx: Connection, batch: ClaimedBatch, state: BatchState, **columns: str | None) -> bool:
    """Write down that a step is done; the next one is due at once. False when the lease is lost.

    Args:
        tx: a transaction.
        batch: as it was claimed.
        state: the new one.
        columns: what else is known now, by column.
    """
    known = "".join(f", {name} = :{name}" for name in columns)
    stamp = {BatchState.SUBMITTED: ", submitted_at = now()", BatchState.HARVESTED: ", harvested_at = now()"}
    change = "state = :state, tries = 0, due_at = now(), lease_token = NULL, lease_until = NULL"
    return _change(tx, batch, change + known + stamp.get(state, ""), state=state, **columns)


def postpone(tx: Connection, batch: ClaimedBatch, *, wait_s: float, done: bool, error: str | None = None) -> bool:
    """Let its present step wait; `done`: it was done, as far as that can be. False when the lease is lost."""
    change = (
        "due_at = now() + make_interval(secs => :wait_s), error = :error, lease_token = NULL, lease_until = NULL,"
        " tries = CASE WHEN :done THEN 0 ELSE tries END"
    )
    return _change(tx, batch, change, wait_s=wait_s, done=done, error=error)


def _change(tx: Connection, batch: ClaimedBatch, change: str, **values: Any) -> bool:
    changed = tx.execute(
        text(f"UPDATE batches SET {change} WHERE id = :row AND lease_token = :token"),  # noqa: S608 - our own words
        {"row": batch.row, "token": batch.token, **values},
    )
    return changed.rowcount == 1


_TAKE = text(f"""
    WITH picked AS ({in_line(":classifier", _BEYOND, ":most")}),
    taken AS (
        UPDATE asks SET state = 'calling', lease_token = :key, lease_until = NULL
          FROM picked WHERE asks.id = picked.id
     RETURNING asks.*)
    SELECT {columns_of("taken")}, items.key, coalesce(texts.text, '') AS text, specs.labels_hash
      FROM taken
      JOIN items ON items.id = taken.item_id
      LEFT JOIN texts ON texts.item_id = taken.item_id
      JOIN specs ON specs.classifier_id = taken.classifier_id AND specs.version = taken.spec_version
     ORDER BY taken.priority, taken.reason DESC, taken.deadline, taken.id
""")  # noqa: S608 - our own words


def take(tx: Connection, batch: ClaimedBatch, known: Registered, *, most: int) -> list[ClaimedAsk]:
    """Asks for this batch, in the order of live ones; they are its own from now on."""
    rows = tx.execute(
        _TAKE,
        {
            "classifier": known.id,
            "beyond_s": known.spec.llm.batch_beyond_s,
            "key": batch.key,
            "most": most,
        },
    )
    return [claimed_ask(row, known.spec.labels_hash) for row in rows]


@dataclass(frozen=True, slots=True)
class Booking:
    """What is written down of a request before its file is sent."""

    ask: ClaimedAsk
    reuse_key: bytes
    reserved_tokens: int
    reserved_usd: Decimal


def book(tx: Connection, batch: ClaimedBatch, known: Registered, bookings: Sequence[Booking]) -> None:
    """One call for each of these asks; what was reserved for an ask on a day's budget is the call's from now on."""
    if bookings:
        tx.execute(
            text(
                "WITH before AS (SELECT id, budget_day_id, reserved FROM asks WHERE id = :ask FOR UPDATE),"
                " moved AS (UPDATE asks SET budget_day_id = NULL, reserved = NULL FROM before"
                " WHERE asks.id = before.id)"
                " INSERT INTO calls (ask_id, item_id, classifier_id, attempt, model, prompt_hash, reuse_key,"
                " reserved_tokens, reserved_usd, batch_id, budget_day_id, budget_reserved)"
                " SELECT id, :item, :classifier, :attempt, :model, :prompt_hash, :reuse_key, :tokens, :usd, :batch,"
                " budget_day_id, reserved FROM before"
            ),
            [
                {
                    "ask": one.ask.row,
                    "item": one.ask.item_row,
                    "classifier": known.id,
                    "attempt": one.ask.attempts + one.ask.misses + 1,
                    "model": known.spec.llm.model,
                    "prompt_hash": known.prompt_hash,
                    "reuse_key": one.reuse_key,
                    "tokens": one.reserved_tokens,
                    "usd": one.reserved_usd,
                    "batch": batch.row,
                }
                for one in bookings
            ],
        )


@dataclass(frozen=True, slots=True)
class Booked:
    """One request of a batch: the row of its call, whether nothing is known of it yet, and its ask."""

    call: int
    open: bool
    ask: ClaimedAsk


_BOOKED = f"""
    SELECT {columns_of("asks")}, items.key, coalesce(texts.text, '') AS text, specs.labels_hash, calls.id AS call,
           calls.state AS call_state
      FROM calls
      JOIN asks ON asks.id = calls.ask_id
      JOIN items ON items.id = asks.item_id
      LEFT JOIN texts ON texts.item_id = asks.item_id -- forgotten meanwhile: it is paid for all the same
      JOIN specs ON specs.classifier_id = asks.classifier_id AND specs.version = asks.spec_version
     WHERE calls.batch_id = :batch
"""  # noqa: S608 - our own words


def booked(tx: Connection, batch: ClaimedBatch, labels_hash: str, asks: Sequence[int]) -> dict[int, Booked]:
    """Those requests of a batch that are about these asks, by ask and in its order."""
    return _booked(tx, batch, labels_hash, "AND calls.ask_id = ANY(:asks) ORDER BY calls.ask_id", asks=list(asks))


def open_ones(tx: Connection, batch: ClaimedBatch, labels_hash: str, *, after: int, most: int) -> dict[int, Booked]:
    """Requests of a batch of which nothing is known yet, by ask and in its order, from after this ask on."""
    only = "AND calls.state = 'sent' AND calls.ask_id > :after ORDER BY calls.ask_id LIMIT :most"
    return _booked(tx, batch, labels_hash, only, after=after, most=most)


def _booked(tx: Connection, batch: ClaimedBatch, labels_hash: str, which: str, **values: Any) -> dict[int, Booked]:
    rows = tx.execute(text(f"{_BOOKED} {which}"), {"batch": batch.row, **values})
    return {row.id: Booked(row.call, row.call_state == "sent", claimed_ask(row, labels_hash)) for row in rows}


def not_again(tx: Connection, batch: ClaimedBatch) -> None:
    """Let no other batch have the asks of this one."""
    tx.execute(
        text(
            "UPDATE asks SET batchable = false"
            " WHERE lease_token = :key AND state = 'calling' AND lease_until IS NULL AND batchable"
        ),
        {"key": batch.key},
    )


def release(tx: Connection, batch: ClaimedBatch, *, wait_s: float) -> int:
    """Let the asks that a batch still has wait by themselves again; returns how many."""
    return tx.execute(
        text(
            "UPDATE asks SET state = 'waiting', lease_token = NULL, not_before = now() + make_interval(secs => :wait_s)"
            " WHERE lease_token = :key AND state = 'calling' AND lease_until IS NULL"
        ),
        {"key": batch.key, "wait_s": wait_s},
    ).rowcount


@dataclass(frozen=True, slots=True)
class InFlight:
    """A batch that is not harvested: so many requests, begun `age_s` seconds ago."""

    id: int
    state: str
    requests: int
    age_s: float


def in_flight(tx: Connection, classifier_id: int) -> list[InFlight]:
    """The batches of a classifier that are under way, oldest first."""
    rows = tx.execute(
        text(
            "SELECT id, state, (SELECT count(*) FROM calls WHERE batch_id = batches.id) AS requests,"
            " extract(epoch FROM now() - created_at) AS age_s FROM batches"
            " WHERE classifier_id = :classifier AND state <> 'harvested' ORDER BY id"
        ),
        {"classifier": classifier_id},
    )
    return [InFlight(row.id, row.state, row.requests, round(float(row.age_s), 1)) for row in rows]
