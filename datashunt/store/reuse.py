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


def find(tx: Connection, classifier_id: int, key: bytes, labels: Sequence[str]) -> Stored | None:
    """The newest answer with this key that a call of this classifier brought, at no cost, or None.

    Args:
        tx: the transaction.
        classifier_id: whose answers.
        key: the reuse key; it covers the labels, too.
        labels: the classifier's, in order.
    """
    row = tx.execute(
        text(
            "SELECT id, call_id, label, probabilities, probability_source, llm_model, fingerprint FROM answers"
            " WHERE classifier_id = :classifier AND reuse_key = :key AND reused_from IS NULL"
            " ORDER BY id DESC LIMIT 1"
        ),
        {"classifier": classifier_id, "key": key},
    ).one_or_none()
    if row is None:
        return None
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
    return Stored(row.id, row.call_id, reply)


def in_flight(tx: Connection, classifier_id: int, key: bytes, ask: int, *, deadline_s: float) -> bool:
    """Whether a call for another ask with this key was sent and may soon bring its answer, as no batch does."""
    return bool(
        tx.execute(
            text(
                "SELECT EXISTS (SELECT FROM calls WHERE classifier_id = :classifier AND reuse_key = :key"
                " AND state = 'sent' AND batch_id IS NULL AND ask_id <> :ask"
                " AND created_at > now() - make_interval(secs => :deadline_s))"
            ),
            {"classifier": classifier_id, "key": key, "ask": ask, "deadline_s": deadline_s},
        ).scalar_one()
    )


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
