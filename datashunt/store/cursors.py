"""The order in which outcomes are read, also on another server than the one that wrote the first of them.

`outcomes.xact` is the number of the transaction that wrote a row. A server where a dump was restored has numbers of its
own, smaller ones: its outcomes would stand before a consumer's cursor, and those of the dump in a future that nothing
reads. So from then on the column's default adds to the numbers what the newest of them had, and more than the old
server can have given since the dump: a consumer may have read on there.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

ADDED = r"""
    (SELECT coalesce(max(substring(pg_get_expr(d.adbin, d.adrelid) FROM '\+ ''?(\d+)')::bigint), 0)
       FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
      WHERE d.adrelid = to_regclass('outcomes') AND a.attname = 'xact')
"""
"""SQL: what is added to this server's transaction numbers in `outcomes.xact`."""
SETTLED = f"({ADDED} + (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint)"
"""SQL: the first number whose transaction, or an older one, may still be open."""
_NEXT = f"({ADDED} + (pg_snapshot_xmax(pg_current_snapshot())::text)::bigint)"

ROOM = 2**32
"""More transactions than the old server can have begun after the dump was made."""

_THERE = text("SELECT to_regclass('outcomes') IS NOT NULL")
_NEWEST = """
    SELECT max(of.newest) AS newest FROM classifiers c,
           LATERAL (SELECT max(xact) AS newest FROM outcomes WHERE classifier_id = c.id) AS of
"""
_FOREIGN = text(f"""
    SELECT newest FROM ({_NEWEST}) AS all_of
     WHERE newest >= {_NEXT}
""")  # noqa: S608 - our own words


def foreign(tx: Connection) -> int | None:
    """The newest outcome's number, if it is one that this server cannot have given; else None."""
    if not tx.execute(_THERE).scalar_one():
        return None
    found: int | None = tx.execute(_FOREIGN).scalar_one_or_none()
    return found


def is_ahead(tx: Connection, xact: int) -> bool:
    """Whether no outcome of this server can have had that number yet, so that a cursor with it would skip some."""
    return bool(tx.execute(text(f"SELECT :xact >= {_NEXT}"), {"xact": xact}).scalar_one())


def go_on(tx: Connection) -> None:
    """Let the numbers of outcomes to come go on after those of another server, if there are any."""
    if foreign(tx) is None:
        return
    tx.execute(text("LOCK TABLE outcomes IN ACCESS EXCLUSIVE MODE"))
    newest = foreign(tx)
    if newest is not None:
        default = f"(pg_current_xact_id()::text)::bigint + {newest + ROOM:d}"
        tx.execute(text(f"ALTER TABLE outcomes ALTER COLUMN xact SET DEFAULT {default}"))
