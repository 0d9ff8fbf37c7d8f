"""What items said: who goes back to work on an item holds its text, and who removes texts by age leaves those alone."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

CHUNK = 5_000
"""Texts that one transaction removes."""

_HOLD = text("SELECT item_id FROM texts WHERE item_id = ANY(:rows) ORDER BY item_id FOR SHARE")


def hold(tx: Connection, rows: Sequence[int]) -> list[int]:
    """Those of these items, in order, whose text is there and stays until the transaction ends.

    Call it after the items were locked, as `forget` locks them before their texts.
    """
    return list(tx.execute(_HOLD, {"rows": list(rows)}).scalars()) if rows else []


_ENDED_BEFORE = """
      FROM texts JOIN items ON items.id = texts.item_id
     WHERE items.classifier_id = :classifier AND items.state IN ('done', 'dead')
       AND coalesce(items.done_at, (SELECT max(created_at) FROM dead_letters WHERE item_id = items.id))
           < now() - make_interval(secs => :older_s)
       AND NOT EXISTS (SELECT FROM asks WHERE item_id = items.id AND asks.state IN ('waiting', 'calling'))
"""
_NEXT_OLD = text(f"""
    SELECT texts.item_id {_ENDED_BEFORE} AND texts.item_id > :after
     ORDER BY texts.item_id LIMIT :most FOR UPDATE OF texts SKIP LOCKED
""")
# A statement of its own, which sees what whoever held a text before has made of its item.
_REMOVE_OLD = text(f"""
    DELETE FROM texts WHERE item_id = ANY(:rows)
       AND item_id IN (SELECT texts.item_id {_ENDED_BEFORE} AND texts.item_id = ANY(:rows))
""")  # noqa: S608 - our own words


def remove_old(tx: Connection, classifier_id: int, older_s: float, *, after: int) -> tuple[int, int | None]:
    """Remove the next texts of items that ended so many seconds ago; their outcomes stay.

    Args:
        tx: a transaction, of nothing else: it keeps others from these items.
        classifier_id: whose items.
        older_s: seconds.
        after: what the call before returned, 0 at first.

    Returns:
        How many were removed, and the last item that was looked at, None at the end.
    """
    found = {"classifier": classifier_id, "older_s": older_s}
    rows = list(tx.execute(_NEXT_OLD, {**found, "after": after, "most": CHUNK}).scalars())
    if not rows:
        return 0, None
    return tx.execute(_REMOVE_OLD, {**found, "rows": rows}).rowcount, rows[-1]
