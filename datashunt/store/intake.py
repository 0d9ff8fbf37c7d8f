"""Submissions: many items in one round trip, idempotent by the producer's id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from datashunt.items import Item, Receipt, Refusal

CHUNK = 5_000
"""Most rows of one INSERT."""
CHUNK_CHARACTERS = 16_000_000
"""Most characters of texts and meta in one INSERT, unless a single item has more: a parameter holds less than 1 GB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An item that is fit to be stored, with its place in the submission and the hash of its text.

    `meta_length`: characters of its meta as JSON.
    """

    position: int
    item: Item
    text_hash: bytes
    meta_length: int = 0


@dataclass(frozen=True, slots=True)
class Added:
    """Rows that are new, ids in the order of submission, and entries whose key holds another text."""

    rows: tuple[int, ...]
    known: int
    conflicts: tuple[Entry, ...]


# One JSON document, not arrays: psycopg would quote each of their elements in Python.
_ADD = text("""
    WITH incoming AS (
        SELECT * FROM json_to_recordset(CAST(:document AS json))
            AS t (id bigint, key text, text_hash text, text text, meta jsonb, deadline_s float,
                  deadline timestamptz, priority smallint)),
    added AS (
        INSERT INTO items (id, classifier_id, key, text_hash, submission_id, priority, deadline)
        OVERRIDING SYSTEM VALUE
        SELECT id, :classifier, key, decode(text_hash, 'hex'), :submission, coalesce(priority, 0),
               coalesce(deadline, now() + make_interval(secs => deadline_s)) FROM incoming
        ON CONFLICT (classifier_id, key) DO NOTHING
        RETURNING id, key),
    stored AS (
        INSERT INTO texts (item_id, text, meta)
        SELECT id, incoming.text, incoming.meta FROM added JOIN incoming USING (id))
    SELECT key FROM added
""")


def add_items(tx: Connection, classifier_id: int, submission_id: str, entries: Sequence[Entry]) -> Added:
    """Store the entries whose key is new; keys must be distinct.

    Rows are numbered in the order of submission, in which they will be scored, and inserted in the order of
    their keys, so that two submissions that overlap cannot deadlock.
    """
    ids = _row_ids(tx, len(entries))
    ordered = sorted(zip(ids, entries, strict=True), key=lambda pair: pair[1].item.id)
    new: set[str] = set()
    for chunk in _chunks(ordered):
        new |= _add_chunk(tx, classifier_id, submission_id, chunk)
    present = [entry for entry in entries if entry.item.id not in new]
    conflicts = _conflicts(tx, classifier_id, present)
    return Added(
        tuple(row for row, entry in zip(ids, entries, strict=True) if entry.item.id in new),
        known=len(present) - len(conflicts),
        conflicts=conflicts,
    )


def queued(tx: Connection, classifier_id: int, most: int) -> int:
    """How many items of a classifier are queued, counted up to `most`, on its index alone."""
    count: int = tx.execute(
        text(
            "SELECT count(*) FROM (SELECT FROM items WHERE classifier_id = :classifier AND state = 'queued'"
            " LIMIT :most) AS found"
        ),
        {"classifier": classifier_id, "most": most},
    ).scalar_one()
    return count


def _row_ids(tx: Connection, count: int) -> list[int]:
    rows = tx.execute(
        text("SELECT nextval(pg_get_serial_sequence('items', 'id')) FROM generate_series(1, :count)"),
        {"count": count},
    )
    return list(rows.scalars())


def _chunks(pairs: Sequence[tuple[int, Entry]]) -> Iterator[Sequence[tuple[int, Entry]]]:
    start, characters = 0, 0
    for end, (_, entry) in enumerate(pairs):
        length = len(entry.item.text) + entry.meta_length
        characters += length
        if end > start and (end - start == CHUNK or characters > CHUNK_CHARACTERS):
            yield pairs[start:end]
            start, characters = end, length
    if start < len(pairs):
        yield pairs[start:]


def _add_chunk(tx: Connection, classifier_id: int, submission_id: str, pairs: Sequence[tuple[int, Entry]]) -> set[str]:
    """The keys that were new."""
    document = [
        {
            "id": row,
            "key": entry.item.id,
            "text_hash": entry.text_hash.hex(),
            "text": entry.item.text,
            "meta": entry.item.meta,
            **_urgency(entry.item),
        }
        for row, entry in pairs
    ]
    rows = tx.execute(
        _ADD,
        {
            "classifier": classifier_id,
            "submission": submission_id,
            "document": json.dumps(document, ensure_ascii=False, default=dict),
        },
    )
    return set(rows.scalars())


def _urgency(item: Item) -> dict[str, float | str]:
    """Priority and deadline, as far as the item has them."""
    priority = {"priority": item.priority} if item.priority else {}
    return {**priority, **_deadline(item)}


def _deadline(item: Item) -> dict[str, float | str]:
    if item.deadline is None:
        return {}
    if isinstance(item.deadline, datetime):
        return {"deadline": item.deadline.isoformat()}
    return {"deadline_s": item.deadline}


def _conflicts(tx: Connection, classifier_id: int, present: Sequence[Entry]) -> tuple[Entry, ...]:
    if not present:
        return ()
    stored = {
        row.key: bytes(row.text_hash)
        for row in tx.execute(
            text("SELECT key, text_hash FROM items WHERE classifier_id = :classifier AND key = ANY(:keys)"),
            {"classifier": classifier_id, "keys": [entry.item.id for entry in present]},
        )
    }
    return tuple(entry for entry in present if stored[entry.item.id] != entry.text_hash)


def open_submission(tx: Connection, submission_id: str, classifier: str, payload_hash: bytes) -> bool:
    """Take the id for this payload; False when it is taken already (another transaction is waited for).

    A call that was refused as a whole stored nothing, so it leaves its id free.
    """
    taken = tx.execute(
        text(
            "INSERT INTO submissions (id, classifier, payload_hash, accepted, known, refused)"
            " VALUES (:id, :classifier, :payload, 0, 0, 0) ON CONFLICT (id) DO UPDATE"
            " SET classifier = excluded.classifier, payload_hash = excluded.payload_hash, error = NULL"
            " WHERE submissions.error IS NOT NULL RETURNING id"
        ),
        {"id": submission_id, "classifier": classifier, "payload": payload_hash},
    ).scalar_one_or_none()
    return taken is not None


def close_submission(tx: Connection, receipt: Receipt) -> None:
    """Write down what became of it, each refusal with its reason."""
    tx.execute(
        text(
            "UPDATE submissions SET accepted = :accepted, known = :known, refused = :refused, error = :error"
            " WHERE id = :id"
        ),
        {
            "id": receipt.submission_id,
            "accepted": receipt.accepted,
            "known": receipt.known,
            "refused": len(receipt.refused),
            "error": receipt.error,
        },
    )
    if receipt.refused:
        tx.execute(
            text(
                "INSERT INTO refusals (submission_id, position, key, reason, detail)"
                " SELECT :id, * FROM unnest(CAST(:positions AS int[]), CAST(:keys AS text[]),"
                " CAST(:reasons AS text[]), CAST(:details AS text[]))"
            ),
            {
                "id": receipt.submission_id,
                "positions": [r.position for r in receipt.refused],
                "keys": [r.id for r in receipt.refused],
                "reasons": [r.reason for r in receipt.refused],
                "details": [r.detail for r in receipt.refused],
            },
        )


_IDS_SINCE = text("""
    SELECT until FROM removed_ids JOIN classifiers ON classifiers.id = classifier_id WHERE name = :name
""")
# Not before migration 0017, nor for a login whose role was not given the right to it yet.
_CAN_TELL = text("SELECT coalesce(has_table_privilege(to_regclass('removed_ids'), 'SELECT'), false)")


def ids_since(tx: Connection, classifier: str) -> datetime | None:
    """Up to when ids of ended items were removed by their age; None: none of this classifier that we know of."""
    if not tx.execute(_CAN_TELL).scalar_one():
        return None
    found: datetime | None = tx.execute(_IDS_SINCE, {"name": classifier}).scalar_one_or_none()
    return found


@dataclass(frozen=True, slots=True)
class StoredSubmission:
    """A submission that was closed before."""

    receipt: Receipt
    payload_hash: bytes


def find_submission(tx: Connection, submission_id: str) -> StoredSubmission | None:
    """What became of an earlier submission, or None."""
    row = tx.execute(text("SELECT * FROM submissions WHERE id = :id"), {"id": submission_id}).one_or_none()
    if row is None:
        return None
    refused = tx.execute(
        text("SELECT position, key, reason, detail FROM refusals WHERE submission_id = :id ORDER BY position"),
        {"id": submission_id},
    )
    refusals = tuple(Refusal(*entry) for entry in refused)
    since = ids_since(tx, row.classifier) if row.error is None else None
    receipt = Receipt(submission_id, row.classifier, row.accepted, row.known, refusals, row.error, since)
    return StoredSubmission(receipt, bytes(row.payload_hash))
