"""Signs of life of workers. Ages are measured by the worker or the database, so that clocks need not agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

KEPT = "1 day"
"""How long a worker is remembered that gives no sign of life."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a worker said of itself last.

    Attributes:
        name: its node name. queues: those that it takes messages from.
        taken: messages since it started.
        up_s, idle_s: seconds since it started, and since it last worked.
        age_s: how long ago it said so; 0 when it does.
    """

    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    taken: int
    up_s: float
    idle_s: float
    age_s: float = 0.0


_REPORT = text(f"""
    WITH forgotten AS (DELETE FROM workers WHERE seen_at < now() - interval '{KEPT}' AND name <> :name)
    INSERT INTO workers (name, host, pid, queues, taken, started_at, seen_at, worked_at)
    VALUES (:name, :host, :pid, :queues, :taken, now() - make_interval(secs => :up_s), now(),
            now() - make_interval(secs => :idle_s))
        ON CONFLICT (name) DO UPDATE
       SET host = excluded.host, pid = excluded.pid, queues = excluded.queues, taken = excluded.taken,
           started_at = excluded.started_at, seen_at = excluded.seen_at,
           worked_at = CASE WHEN workers.pid = excluded.pid AND workers.host = excluded.host
                            THEN greatest(workers.worked_at, excluded.worked_at) ELSE excluded.worked_at END
""")  # noqa: S608 - our own word


def report(tx: Connection, sign: Sign) -> None:
    """Write a worker's sign of life down."""
    tx.execute(
        _REPORT,
        {
            "name": sign.name,
            "host": sign.host,
            "pid": sign.pid,
            "queues": list(sign.queues),
            "taken": sign.taken,
            "up_s": sign.up_s,
            "idle_s": sign.idle_s,
        },
    )


def works(tx: Connection, name: str) -> None:
    """A process that this worker forked works just now."""
    tx.execute(text("UPDATE workers SET worked_at = now() WHERE name = :name"), {"name": name})


def gone(tx: Connection, sign: Sign) -> None:
    """It ended in good order."""
    tx.execute(
        text("DELETE FROM workers WHERE name = :name AND host = :host AND pid = :pid"),
        {"name": sign.name, "host": sign.host, "pid": sign.pid},
    )


def listed(tx: Connection, *, host: str | None = None, queue: str | None = None) -> Sequence[Sign]:
    """The last signs of all workers, of one host or queue if given; by name."""
    rows = tx.execute(
        text(
            "SELECT name, host, pid, queues, taken, extract(epoch FROM seen_at - started_at) AS up_s,"
            " extract(epoch FROM now() - worked_at) AS idle_s, extract(epoch FROM now() - seen_at) AS age_s"
            " FROM workers WHERE host = coalesce(CAST(:host AS text), host)"
            " AND (CAST(:queue AS text) IS NULL OR :queue = ANY(queues)) ORDER BY name"
        ),
        {"host": host, "queue": queue},
    )
    return [
        Sign(
            row.name,
            row.host,
            row.pid,
            tuple(row.queues),
            row.taken,
            float(row.up_s),
            max(0.0, float(row.idle_s)),
            max(0.0, float(row.age_s)),
        )
        for row in rows
    ]
