"""Dead letters: what could not be finished, why, and its way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.items import Wake
from datashunt.store import texts


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. `kind` is `item`, or `audit` when the item itself has its outcome."""

    id: str
    kind: str
    reason: str
    detail: str
    created_at: datetime


def listed(tx: Connection, classifier_id: int) -> list[Letter]:
    """Dead letters that were not replayed, oldest first."""
    rows = tx.execute(
        text(
            "SELECT i.key, CASE WHEN i.state = 'dead' THEN 'item' ELSE 'audit' END AS kind, d.reason, d.detail,"
            " d.created_at FROM dead_letters d JOIN items i ON i.id = d.item_id"
            " WHERE d.classifier_id = :classifier AND d.replayed_at IS NULL ORDER BY d.id"
        ),
        {"classifier": classifier_id},
    )
    return [Letter(*row) for row in rows]


def bury_item(tx: Connection, row: int, token: UUID, *, reason: str, detail: str) -> bool:
    """Give up an item that is still under this lease, with the reason."""
    buried = tx.execute(
        text(
            "WITH buried AS (UPDATE items SET state = 'dead', lease_token = NULL, lease_until = NULL"
            " WHERE id = :row AND lease_token = :token AND state = 'scoring' RETURNING id, classifier_id)"
            " INSERT INTO dead_letters (classifier_id, item_id, reason, detail)"
            " SELECT classifier_id, id, :reason, :detail FROM buried"
        ),
        {"row": row, "token": token, "reason": reason, "detail": detail},
    )
    return buried.rowcount == 1


_FIND = text("""
    SELECT d.item_id FROM dead_letters d JOIN items i ON i.id = d.item_id
     WHERE d.classifier_id = :classifier AND d.replayed_at IS NULL
       AND (CAST(:keys AS text[]) IS NULL OR i.key = ANY(CAST(:keys AS text[])))
""")
_LOCK = (
    text("SELECT FROM asks WHERE item_id = ANY(:rows) AND state = 'dead' ORDER BY id FOR UPDATE"),
    text("SELECT FROM items WHERE id = ANY(:rows) ORDER BY id FOR UPDATE"),
)
_REPLAY = text("""
    WITH letters AS (
        UPDATE dead_letters SET replayed_at = now() WHERE item_id = ANY(:rows) AND replayed_at IS NULL
     RETURNING item_id, ask_id),
    asks_back AS (
        UPDATE asks SET state = 'waiting', attempts = 0, misses = 0, fallback = 0, keep_chars = NULL,
                        not_before = now(), announced_at = now()
          FROM letters WHERE asks.id = letters.ask_id AND asks.state = 'dead'
     RETURNING asks.id, asks.item_id),
    items_asked AS (
        UPDATE items SET state = 'asked' FROM asks_back WHERE items.id = asks_back.item_id AND state = 'dead'),
    items_back AS (
        UPDATE items SET state = 'queued', attempts = 0, announced_at = now()
          FROM letters WHERE letters.ask_id IS NULL AND items.id = letters.item_id AND state = 'dead'
     RETURNING items.id)
    SELECT ARRAY(SELECT id FROM asks_back ORDER BY id) AS asks,
           ARRAY(SELECT id FROM items_back ORDER BY id) AS items
""")


def replay(tx: Connection, classifier_id: int, name: str, keys: Sequence[str] | None) -> list[Wake]:
    """Give dead letters another life, all of them or those of these item ids; returns what to publish."""
    which = {"classifier": classifier_id, "keys": None if keys is None else list(keys)}
    found = list(tx.execute(_FIND, which).scalars())
    for statement in _LOCK:
        tx.execute(statement, {"rows": found})
    row = tx.execute(_REPLAY, {"rows": texts.hold(tx, found)}).one()
    wakes = [Wake("llm", name, tuple(row.asks)), Wake("score", name, tuple(row.items))]
    return [wake for wake in wakes if wake.ids]
