"""Partitions of what is said of items, a month each; an item's row tells its own, since each month numbers them anew.

The rows of texts, scores, calls, answers and outcomes lie with those of all other items of that month. Items that came
before there were partitions are in the first one, `before`. What finds no partition is in `default`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

TABLES = ("texts", "scores", "outcomes", "calls", "answers")
A_MONTH = 100_000_000_000
"""Rows of items for which a month has numbers (migration 0015); what comes beyond takes those of the next."""
AHEAD = 2
"""Months for which partitions are made beyond the present one."""


@dataclass(frozen=True, slots=True)
class Month:
    """The partitions of a month: of items from `first` to before `end`. `name` is `2026-11`, or `before`."""

    name: str
    first: int
    end: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The partition of each table."""
        suffix = self.name.replace("-", "_")
        return tuple(f"{table}_{suffix}" for table in TABLES)


def there(tx: Connection) -> bool:
    """Whether the database has partitions: not before migration 0015."""
    return bool(tx.execute(text("SELECT to_regclass('removed_months') IS NOT NULL")).scalar_one())


def make(tx: Connection) -> int:
    """Make the partitions of this month and the next; returns how many tables are new.

    New items are numbered from this month's numbers on.

    Raises:
        StoreError: others hold the partition of what has none for too long; try again later.
    """
    made: int = tx.execute(text("SELECT make_partitions(:ahead)"), {"ahead": AHEAD}).scalar_one()
    return made


_BOUNDS = text(r"""
    SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
      FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
     WHERE inhparent = CAST('texts' AS regclass) AND c.relname <> 'texts_default'
""")


def months(tx: Connection) -> list[Month]:
    """All months that have partitions, oldest first."""
    found = []
    for row in tx.execute(_BOUNDS):
        low, high = re.findall(r"\((?:'?(-?\d+|MINVALUE)'?)\)", row.bounds)
        name = row.name.removeprefix("texts_").replace("_", "-")
        found.append(Month(name, 0 if low == "MINVALUE" else int(low), int(high)))
    return sorted(found, key=lambda month: month.end)


def reached(tx: Connection) -> int:
    """The newest row that an item was ever given."""
    newest: int = tx.execute(
        text("SELECT coalesce(pg_sequence_last_value(CAST(pg_get_serial_sequence('items', 'id') AS regclass)), 0)")
    ).scalar_one()
    return newest


def size(tx: Connection, month: Month) -> int:
    """Bytes that a month takes, indexes included."""
    found: int = tx.execute(
        text(
            "SELECT coalesce(sum(pg_total_relation_size(to_regclass(part))), 0)"
            " FROM unnest(CAST(:parts AS text[])) AS part"
        ),
        {"parts": list(month.parts)},
    ).scalar_one()
    return int(found)


_STRAYS = " UNION ALL ".join(
    f"SELECT '{table}', count(*) FROM {table}_default p WHERE NOT EXISTS (SELECT FROM items i JOIN removed_months r"  # noqa: S608
    " ON r.classifier_id = i.classifier_id AND i.id >= r.first_item AND i.id < r.end_item WHERE i.id = p.item_id)"
    for table in TABLES
)


def strays(tx: Connection) -> dict[str, int]:
    """Rows for which no partition was made in time, by table; not those that came after their month was removed."""
    return {table: count for table, count in tx.execute(text(_STRAYS)) if count}


def own(tx: Connection) -> bool:
    """Whether this login may drop partitions: only their owner may."""
    return bool(
        tx.execute(
            text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = CAST('texts' AS regclass)")
        ).scalar_one()
    )
