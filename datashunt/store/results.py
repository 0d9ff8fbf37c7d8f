"""What a consumer reads: outcomes in a stream that skips nothing, one item, and the state of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, text

from datashunt.errors import UsageError
from datashunt.items import Result, Source
from datashunt.store import cursors, partitions
from datashunt.store.cursors import SETTLED

_COLUMNS = """
    SELECT i.key, o.label, o.confidence, o.source, o.probabilities, s.labels, b.version AS bundle, a.llm_model,
           o.labelled_by,
           coalesce((SELECT sum(coalesce(cost_usd, reserved_usd)) FROM calls JOIN asks ON asks.id = calls.ask_id
                      WHERE asks.item_id = i.id AND calls.item_id = i.id), 0) AS cost_usd,
           i.created_at, o.created_at AS done_at, o.xact, o.id
"""
_JOINS = """
      JOIN specs s ON s.classifier_id = o.classifier_id AND s.version = o.spec_version
      LEFT JOIN bundles b ON b.id = o.bundle_id
      LEFT JOIN answers a ON a.id = o.answer_id AND a.item_id = o.item_id
"""
_STREAM = text(
    _COLUMNS
    + "  FROM outcomes o JOIN items i ON i.id = o.item_id"
    + _JOINS
    + f"""
     WHERE o.classifier_id = :classifier AND (o.xact, o.id) > (:xact, :row) AND o.xact < {SETTLED}
     ORDER BY o.xact, o.id LIMIT :most
"""
)
_CURRENT = text(
    _COLUMNS
    + "  FROM items i JOIN outcomes o ON o.id = i.outcome_id AND o.item_id = i.id"
    + _JOINS
    + " WHERE i.classifier_id = :classifier AND i.key = ANY(:keys)"
)


def stream(tx: Connection, classifier_id: int, after: str | None, most: int) -> list[Result]:
    """The next outcomes after a cursor, in the order they became certain.

    A row is given only when no transaction older than its own is still open, so a later read never finds a row
    before this cursor.

    Raises:
        UsageError: the cursor is none of ours, or of a server that had gone further than this one.
    """
    xact, row = parse_cursor(after)
    found = tx.execute(_STREAM, {"classifier": classifier_id, "xact": xact, "row": row, "most": most}).all()
    if xact and not found and cursors.is_ahead(tx, xact):
        raise UsageError(
            f"the cursor {after} lies ahead of this database, which was restored, or taken over by a server that lacks"
            " its newest transactions: `datashunt db upgrade` if `datashunt doctor` wants it; else read from the start"
            " again, and pass over the ids that you know"
        )
    return [_result(one) for one in found]


def current(tx: Connection, classifier_id: int, keys: Sequence[str]) -> list[Result]:
    """The current outcomes of these items, where they have one."""
    rows = tx.execute(_CURRENT, {"classifier": classifier_id, "keys": list(keys)})
    return [_result(found) for found in rows]


def parse_cursor(cursor: str | None) -> tuple[int, int]:
    """The transaction and row that a cursor names; (0, 0) for None."""
    if cursor is None:
        return 0, 0
    parts = cursor.split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise UsageError(f"{cursor[:40]!r} is no cursor: give the `cursor` of the last result you read")
    return int(parts[0]), int(parts[1])


def _result(row: Any) -> Result:
    probabilities = None
    if row.probabilities is not None:
        pairs = zip(row.labels, row.probabilities, strict=True)
        probabilities = {label: p for label, p in pairs if p is not None}
    return Result(
        id=row.key,
        label=row.label,
        confidence=row.confidence,
        source=Source(row.source),
        probabilities=probabilities,
        bundle=row.bundle,
        llm_model=row.llm_model,
        cost_usd=row.cost_usd,
        created_at=row.created_at,
        done_at=row.done_at,
        cursor=f"{row.xact}-{row.id}",
        by=row.labelled_by,
    )


def states(tx: Connection, classifier_id: int, keys: Sequence[str]) -> dict[str, str]:
    """The state of each of these items that exists."""
    rows = tx.execute(
        text("SELECT key, state FROM items WHERE classifier_id = :classifier AND key = ANY(:keys)"),
        {"classifier": classifier_id, "keys": list(keys)},
    )
    return {row.key: row.state for row in rows}


@dataclass(frozen=True, slots=True)
class Open:
    """What is still on its way, by state. Audits are asks of items that have their outcome."""

    queued: int
    scoring: int
    asked: int
    held: int
    audits: int

    @property
    def moving(self) -> int:
        """Items that will get an outcome without anybody's help."""
        return self.queued + self.scoring + self.asked


def still_open(tx: Connection, classifier_id: int) -> Open:
    """Counts of what is on its way; reads only live rows, whatever the history."""
    row = tx.execute(
        text(
            "SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'scoring'),"
            " count(*) FILTER (WHERE state = 'asked'), count(*) FILTER (WHERE state = 'held'),"
            " (SELECT count(*) FROM asks WHERE classifier_id = :classifier AND reason = 'audit'"
            "    AND state IN ('waiting', 'calling'))"
            " FROM items WHERE classifier_id = :classifier AND state IN ('queued', 'scoring', 'asked', 'held')"
        ),
        {"classifier": classifier_id},
    ).one()
    return Open(*row)


def all_readable(tx: Connection, classifier_id: int) -> bool:
    """Whether `stream` gives every outcome there is: no transaction older than the newest of them is open."""
    return bool(
        tx.execute(
            text(
                f"SELECT coalesce(max(xact) < {SETTLED}, true)"  # noqa: S608 - our own words
                " FROM outcomes WHERE classifier_id = :classifier"
            ),
            {"classifier": classifier_id},
        ).scalar_one()
    )


# What retention has removed, on a database that has it (migration 0015).
_PAST = text("""
    SELECT (SELECT coalesce(jsonb_object_agg(state, n), '{}') FROM (
                SELECT state, sum(items) AS n FROM past_items WHERE classifier_id = :c GROUP BY state) s) AS states,
           (SELECT coalesce(jsonb_object_agg(source, n), '{}') FROM (
                SELECT source, sum(items) AS n FROM past_items
                 WHERE classifier_id = :c AND source <> '' GROUP BY source) s) AS sources,
           (SELECT coalesce(sum(asked), 0)::bigint FROM past_items WHERE classifier_id = :c) AS asked,
           (SELECT coalesce(sum(audited), 0)::bigint FROM past_items WHERE classifier_id = :c) AS audited,
           (SELECT coalesce(sum(calls), 0)::bigint FROM past_calls WHERE classifier_id = :c) AS calls,
           (SELECT coalesce(sum(usd), 0) FROM past_calls WHERE classifier_id = :c) AS cost_usd
""")
_NO_PAST = SimpleNamespace(states={}, sources={}, asked=0, audited=0, calls=0, cost_usd=0)
_STATUS = text("""
    SELECT (SELECT jsonb_object_agg(state, n) FROM (
                SELECT state, count(*) AS n FROM items WHERE classifier_id = :c GROUP BY state) s) AS states,
           (SELECT jsonb_object_agg(source, n) FROM (
                SELECT source, count(*) AS n FROM items
                 WHERE classifier_id = :c AND source IS NOT NULL GROUP BY source) s) AS sources,
           (SELECT extract(epoch FROM now() - min(created_at)) FROM items
             WHERE classifier_id = :c AND state IN ('queued', 'scoring', 'asked')) AS oldest_s,
           (SELECT count(DISTINCT item_id) FROM asks WHERE classifier_id = :c) AS asked,
           (SELECT count(DISTINCT item_id) FROM asks WHERE classifier_id = :c AND propensity IS NOT NULL) AS audited,
           (SELECT count(*) FROM asks WHERE classifier_id = :c AND state IN ('waiting', 'calling')) AS open_asks,
           (SELECT count(*) FROM calls WHERE classifier_id = :c) AS calls,
           (SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) FROM calls
             WHERE classifier_id = :c) AS cost_usd,
           (SELECT count(*) FROM dead_letters WHERE classifier_id = :c AND replayed_at IS NULL) AS dead_letters
""")


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    """Counts by name, added up."""
    return {name: sum(one.get(name, 0) for one in counts) for name in sorted(set().union(*counts))}


def status(tx: Connection, classifier_id: int) -> dict[str, Any]:
    """Counts by state and source, backlog, LLM share and cost of one classifier. Shares are fractions of 1."""
    row = tx.execute(_STATUS, {"c": classifier_id}).one()
    past: Any = tx.execute(_PAST, {"c": classifier_id}).one() if partitions.there(tx) else _NO_PAST
    states = _sum(row.states or {}, past.states)
    items = sum(states.values())
    certificate = tx.execute(
        text(
            "SELECT threshold, alpha, delta, n, k, method, valid_from FROM certificates"
            " WHERE classifier_id = :c AND revoked_at IS NULL ORDER BY id DESC LIMIT 1"
        ),
        {"c": classifier_id},
    ).one_or_none()
    return {
        "items": items,
        "states": states,
        "sources": _sum(row.sources or {}, past.sources),
        "backlog": states.get("queued", 0) + states.get("scoring", 0) + states.get("asked", 0),
        "oldest_s": None if row.oldest_s is None else round(float(row.oldest_s), 3),
        "asked": row.asked + past.asked,
        "audited": row.audited + past.audited,
        "open_asks": row.open_asks,
        "llm_calls": row.calls + past.calls,
        "llm_share": (row.asked + past.asked) / items if items else None,
        "cost_usd": float(row.cost_usd + past.cost_usd),
        "dead_letters": row.dead_letters,
        "certificate": None
        if certificate is None
        else {**certificate._mapping, "valid_from": certificate.valid_from.isoformat()},
    }
