"""Finished items of an earlier version of the file, and their way back into the queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.store import asks, texts
from datashunt.store.classifiers import Registered

BEHIND = 1
"""Priority of items that are run again: new ones go first."""

_OLD = """
      FROM items i JOIN outcomes o ON o.id = i.outcome_id AND o.item_id = i.id
     WHERE i.classifier_id = :classifier AND i.state = 'done' AND i.source <> 'human' AND o.spec_version < :before
       AND EXISTS (SELECT FROM texts WHERE item_id = i.id)
"""


def old_texts(tx: Connection, known: Registered, before: int) -> Iterator[str]:
    """The texts of all items whose outcome is of a version before this one, in constant memory."""
    rows = tx.execute(
        text("SELECT t.text FROM (SELECT i.id" + _OLD + ") old JOIN texts t ON t.item_id = old.id"),  # noqa: S608
        {"classifier": known.id, "before": before},
        execution_options={"yield_per": 1_000},
    )
    yield from rows.scalars()


@dataclass(frozen=True, slots=True)
class Requeued:
    """A batch: the rows that are queued again, and the last row that was looked at, None at the end."""

    rows: tuple[int, ...]
    last: int | None


_LOCK_ASKS = text("""
    SELECT FROM asks WHERE item_id = ANY(:rows) AND state <> 'answered' ORDER BY id FOR UPDATE
""")
_LOCK_ITEMS = text("""
    SELECT i.id
      FROM items i JOIN outcomes o ON o.id = i.outcome_id AND o.item_id = i.id
     WHERE i.id = ANY(:rows) AND i.state = 'done' AND i.source <> 'human' AND o.spec_version < :before
     ORDER BY i.id FOR UPDATE OF i
""")
_REQUEUE = text("""
    UPDATE items SET state = 'queued', label = NULL, source = NULL, outcome_id = NULL, done_at = NULL, attempts = 0,
                     priority = greatest(priority, :behind), announced_at = now()
     WHERE id = ANY(:rows)
""")
_REPLAYED = text("UPDATE dead_letters SET replayed_at = now() WHERE item_id = ANY(:rows) AND replayed_at IS NULL")


def requeue(tx: Connection, known: Registered, before: int, *, after: int, most: int) -> Requeued:
    """Queue the next items again whose outcome is of a version before this one; that outcome is history then.

    Asks of theirs that are open are withdrawn: they belong to the old version, and the new score makes its own.

    Args:
        tx: the transaction.
        known: the classifier.
        before: outcomes of earlier versions than this.
        after: `last` of the batch before, 0 at first.
        most: largest batch.
    """
    found = tx.execute(
        text("SELECT i.id" + _OLD + " AND i.id > :after ORDER BY i.id LIMIT :most"),
        {"classifier": known.id, "before": before, "after": after, "most": most},
    )
    rows = list(found.scalars())
    if not rows:
        return Requeued((), None)
    tx.execute(_LOCK_ASKS, {"rows": rows})  # before items, as whoever stores an answer does
    old = list(tx.execute(_LOCK_ITEMS, {"rows": rows, "before": before}).scalars())
    moved = texts.hold(tx, old)
    tx.execute(_REQUEUE, {"rows": moved, "behind": BEHIND})
    asks.withdraw(tx, moved)
    tx.execute(_REPLAYED, {"rows": moved})
    return Requeued(tuple(moved), rows[-1])
