"""Answers that were paid for already, by reuse key (see prompts.reuse_key): nothing is paid twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.items import ProbabilitySource, Reply, Usage


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer as it was given. `row` is its own id, `call` that of the call which was paid for it."""

    row: int
    call: int
    reply: Reply


def alone(tx: Connection, *keys: bytes) -> None:
    """Let nobody else who looks for these keys go on until the transaction ends; only then all see the same."""
    tx.execute(
        text(
            "SELECT pg_advisory_xact_lock(lock) FROM (SELECT DISTINCT hashtextextended(encode(key, 'hex'), 0) AS lock"
            " FROM unnest(CAST(:keys AS bytea[])) AS key ORDER BY lock) AS ordered"
        ),
        {"keys": list(keys)},
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What is there of one key: an answer, which costs nothing, or None; and whether a live call may soon bring one."""

    answer: Stored | None
    under_way: bool


# One statement sees one moment: a call that was in flight then and is no more leaves its answer to the next look.
_LOOK = text("""
    SELECT found.*, EXISTS (
               SELECT FROM calls WHERE classifier_id = :classifier AND reuse_key = :key AND state = 'sent'
                  AND batch_id IS NULL AND ask_id <> :ask
                  AND created_at > now() - make_interval(secs => :deadline_s)) AS under_way
      FROM (VALUES (1)) AS one (row) LEFT JOIN LATERAL (
           SELECT id, call_id, label, probabilities, probability_source, llm_model, fingerprint FROM answers
            WHERE classifier_id = :classifier AND reuse_key = :key AND reused_from IS NULL
            ORDER BY id DESC LIMIT 1) AS found ON true
""")


def look(
    tx: Connection, classifier_id: int, key: bytes, ask: int, labels: Sequence[str], *, deadline_s: float
) -> Known:
    """What was paid for already, or is being paid for by a live call for another ask; nobody waits for a batch.

    Args:
        tx: the transaction.
        classifier_id: whose answers.
        key: the reuse key; it covers the labels, too.
        ask: which looks.
        labels: the classifier's, in order.
        deadline_s: how long a call may be under way.
    """
    row = tx.execute(_LOOK, {"classifier": classifier_id, "key": key, "ask": ask, "deadline_s": deadline_s}).one()
    if row.id is None:
        return Known(None, row.under_way)
    probabilities = None
    if row.probabilities is not None:
        pairs = zip(labels, row.probabilities, strict=True)
        probabilities = {label: p for label, p in pairs if p is not None}
    reply = Reply(
        label=row.label,
        probabilities=probabilities,
        source=ProbabilitySource(row.probability_source),
        model=row.llm_model,
        fingerprint=row.fingerprint,
        usage=Usage(prompt=0, completion=0),
        latency_ms=0.0,
    )
    return Known(Stored(row.id, row.call_id, reply), row.under_way)


@dataclass(frozen=True, slots=True)
class Paid:
    """Keys of which an answer is stored, and those of which a call is under way."""

    answered: frozenset[bytes]
    under_way: frozenset[bytes]


def paid(tx: Connection, classifier_id: int, keys: Sequence[bytes]) -> Paid:
    """What was paid for already, or is being paid for by a live call or in a batch, of these keys."""
    values = {"classifier": classifier_id, "keys": list(keys)}
    # In this order: what was under way and is no more has left its answer.
    sent = tx.execute(
        text(
            "SELECT reuse_key FROM calls WHERE classifier_id = :classifier AND state = 'sent'"
            " AND reuse_key = ANY(:keys)"
        ),
        values,
    ).scalars()
    under_way = frozenset(bytes(key) for key in sent)
    stored = tx.execute(
        text(
            "SELECT reuse_key FROM answers WHERE classifier_id = :classifier AND reused_from IS NULL"
            " AND reuse_key = ANY(:keys)"
        ),
        values,
    ).scalars()
    return Paid(frozenset(bytes(key) for key in stored), under_way)


def votes(tx: Connection, ask: int, key: bytes) -> tuple[str, ...]:
    """The samples that calls for this ask brought so far, oldest first; those of another prompt do not count."""
    found = tx.execute(
        text("SELECT unnest(votes) FROM calls WHERE ask_id = :ask AND reuse_key = :key ORDER BY calls.id"),
        {"ask": ask, "key": key},
    )
    return tuple(found.scalars())
