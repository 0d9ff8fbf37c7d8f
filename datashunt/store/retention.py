"""Retention: months whose items are old enough lose what was said of them, and later their ids; sums stay.

A month is dropped as a whole when no classifier needs it any more: nothing is deleted row by row, and nothing is left
to vacuum. Where others still do, one classifier's rows are deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.store.partitions import TABLES, Month

CHUNK = 10_000
"""Items whose ids one transaction removes."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one classifier has in one month.

    Attributes:
        classifier: its row.
        items: how many.
        quiet_s: seconds since the last of them came or ended.
        needed: why nothing of them may go now; empty: nobody needs them.
    """

    classifier: int
    items: int
    quiet_s: float
    needed: tuple[str, ...]


_SHARES = text("""
    SELECT i.classifier_id, count(*) AS items,
           extract(epoch FROM now() - max(greatest(i.created_at, i.done_at)))::float AS quiet_s,
           count(*) FILTER (WHERE i.state IN ('queued', 'scoring', 'asked', 'held')) AS open
      FROM items i
     WHERE i.id >= :first AND i.id < :end
       AND NOT EXISTS (SELECT FROM removed_months r
                        WHERE r.classifier_id = i.classifier_id AND i.id >= r.first_item AND i.id < r.end_item)
     GROUP BY 1 ORDER BY 1
""")
# What an item of the month, `k` its asks, is needed for.
_NEEDS = (
    (
        "{n} questions about them are open",
        "SELECT count(*) FROM asks k WHERE k.classifier_id = :classifier AND k.state IN ('waiting', 'calling')"
        " AND k.item_id >= :first AND k.item_id < :end",
    ),
    (
        "{n} calls about them are not settled: tick does that",
        "SELECT count(*) FROM calls WHERE classifier_id = :classifier AND state = 'sent'"
        " AND item_id >= :first AND item_id < :end",
    ),
    (
        "a distillation learns from them: it is due or runs",
        "SELECT count(*) FROM distillations WHERE classifier_id = :classifier AND state IN ('due', 'running')",
    ),
    (
        "{n} answers about them are evidence of a certificate that stands or is being proven",
        "SELECT count(DISTINCT k.id) FROM trials t JOIN asks k ON k.classifier_id = t.classifier_id"
        " AND k.role = 'judge' AND k.id > t.after_ask AND k.item_id >= :first AND k.item_id < :end"
        " WHERE t.classifier_id = :classifier AND (t.ended_at IS NULL OR EXISTS (SELECT FROM trial_answers a"
        "   JOIN certificates c ON c.trial_id = a.trial_id AND c.revoked_at IS NULL"
        "   WHERE a.trial_id = t.id AND a.ask_id = k.id))",
    ),
    (
        "{n} of them are in the newest sample for people: draw another (datashunt sample)",
        "SELECT count(*) FROM sampled_items s WHERE s.item_id >= :first AND s.item_id < :end"
        " AND s.sample_id = (SELECT max(id) FROM samples WHERE classifier_id = :classifier)",
    ),
)


def shares(tx: Connection, month: Month) -> list[Share]:
    """What each classifier still has in a month, and what it needs of it."""
    found = []
    for row in tx.execute(_SHARES, {"first": month.first, "end": month.end}).all():
        needed = [f"{row.open} of them are on their way"] if row.open else []
        values = {"classifier": row.classifier_id, "first": month.first, "end": month.end}
        for why, counting in _NEEDS:
            n = tx.execute(text(counting), values).scalar_one()
            needed += [why.format(n=n)] if n else []
        found.append(Share(row.classifier_id, row.items, row.quiet_s, tuple(needed)))
    return found


_SUM_CALLS = text("""
    INSERT INTO past_calls AS past (classifier_id, day, model, calls, tokens_in, tokens_cached, tokens_out, usd,
                                    unknown, reused)
    SELECT classifier_id, day, model, sum(calls), sum(tokens_in), sum(tokens_cached), sum(tokens_out), sum(usd),
           sum(unknown), sum(reused)
      FROM (SELECT classifier_id, (created_at AT TIME ZONE 'UTC')::date AS day, model, 1 AS calls,
                   coalesce(prompt_tokens, 0) AS tokens_in, coalesce(cached_tokens, 0) AS tokens_cached,
                   coalesce(completion_tokens, 0) AS tokens_out, coalesce(cost_usd, reserved_usd) AS usd,
                   (state = 'unknown')::int AS unknown, 0 AS reused
              FROM calls WHERE classifier_id = ANY(:gone) AND item_id >= :first AND item_id < :end
             UNION ALL
            SELECT classifier_id, (created_at AT TIME ZONE 'UTC')::date, requested_model, 0, 0, 0, 0, 0, 0, 1
              FROM answers WHERE classifier_id = ANY(:gone) AND reused_from IS NOT NULL
               AND item_id >= :first AND item_id < :end) AS each
     GROUP BY 1, 2, 3
    ON CONFLICT (classifier_id, day, model) DO UPDATE
       SET calls = past.calls + excluded.calls, tokens_in = past.tokens_in + excluded.tokens_in,
           tokens_cached = past.tokens_cached + excluded.tokens_cached,
           tokens_out = past.tokens_out + excluded.tokens_out, usd = past.usd + excluded.usd,
           unknown = past.unknown + excluded.unknown, reused = past.reused + excluded.reused
""")
_SUM_BUDGETS = text("""
    UPDATE budget_days d SET past = d.past + gone.spent
      FROM (SELECT c.budget_day_id AS day,
                   sum(CASE WHEN c.state = 'failed' THEN 0 WHEN b.unit = 'calls' THEN 1 ELSE c.cost_usd END) AS spent
              FROM calls c JOIN budget_days b ON b.id = c.budget_day_id
             WHERE c.classifier_id = ANY(:gone) AND c.item_id >= :first AND c.item_id < :end GROUP BY 1) AS gone
     WHERE d.id = gone.day
""")
_REMOVED = text("""
    INSERT INTO removed_months (classifier_id, first_item, end_item)
    SELECT gone, :first, :end FROM unnest(CAST(:gone AS int[])) AS gone
""")


def remove(tx: Connection, month: Month, gone: Sequence[int], *, whole: bool) -> None:
    """Remove what was said of a month's items of these classifiers; sums of their calls stay.

    Args:
        tx: a transaction, of nothing else.
        month: which was held, and looked at by `shares`, in the same transaction.
        gone: the classifiers.
        whole: nobody else has anything in this month: its partitions are dropped.

    Raises:
        StoreError: others use the tables for too long; nothing was changed, try again.
    """
    values = {"gone": list(gone), "first": month.first, "end": month.end}
    for statement in (_SUM_CALLS, _SUM_BUDGETS, _REMOVED):
        tx.execute(statement, values)
    if not whole:
        for table in TABLES:
            tx.execute(text(_DELETE[table]), values)
        return
    tx.execute(text("SET LOCAL lock_timeout = '500ms'"))
    tx.execute(text(f"LOCK TABLE {', '.join(f'ONLY {table}' for table in TABLES)} IN ACCESS EXCLUSIVE MODE"))
    for part in month.parts:
        tx.execute(text(f"DROP TABLE {part}"))


_OF_CLASSIFIERS = (
    "DELETE FROM {table} USING items i WHERE i.id = {table}.item_id AND i.classifier_id = ANY(:gone)"
    " AND i.id >= :first AND i.id < :end AND {table}.item_id >= :first AND {table}.item_id < :end"
)
_DELETE = {table: _OF_CLASSIFIERS.format(table=table) for table in TABLES}


def hold(tx: Connection, month: Month) -> None:
    """Nobody writes into a month's partitions, or holds a row there, until the transaction ends; others are untouched.

    Raises:
        StoreError: somebody is writing for too long; try again.
    """
    tx.execute(text("SET LOCAL lock_timeout = '500ms'"))
    tx.execute(text(f"LOCK TABLE {', '.join(month.parts)} IN EXCLUSIVE MODE"))


_GONE = """
      FROM items i JOIN removed_months r ON r.classifier_id = i.classifier_id
       AND i.id >= r.first_item AND i.id < r.end_item
     WHERE i.classifier_id = :classifier AND i.state IN ('done', 'dead')
       AND greatest(i.created_at, i.done_at) < now() - make_interval(days => :days)
       AND NOT EXISTS (SELECT FROM asks k JOIN trial_answers t ON t.ask_id = k.id WHERE k.item_id = i.id)
       AND NOT EXISTS (SELECT FROM sampled_items WHERE item_id = i.id)
       AND NOT EXISTS (SELECT FROM outcomes WHERE item_id = i.id)
"""
_OLD_IDS = text("SELECT count(*)" + _GONE)
_NEXT_IDS = text("SELECT i.id" + _GONE + " ORDER BY i.id LIMIT :most FOR UPDATE OF i SKIP LOCKED")
_SUM_ITEMS = text("""
    INSERT INTO past_items AS past (classifier_id, state, source, items, asked, audited)
    SELECT i.classifier_id, i.state, coalesce(i.source, ''), count(*), count(k.item_id),
           count(k.item_id) FILTER (WHERE k.audited)
      FROM items i
      LEFT JOIN (SELECT item_id, bool_or(propensity IS NOT NULL) AS audited FROM asks
                  WHERE item_id = ANY(:rows) GROUP BY 1) AS k ON k.item_id = i.id
     WHERE i.id = ANY(:rows) GROUP BY 1, 2, 3
    ON CONFLICT (classifier_id, state, source) DO UPDATE
       SET items = past.items + excluded.items, asked = past.asked + excluded.asked,
           audited = past.audited + excluded.audited
""")
_CAN_TELL = text("SELECT to_regclass('removed_ids') IS NOT NULL")
_UNTIL = text("""
    INSERT INTO removed_ids (classifier_id, until)
    SELECT i.classifier_id, max(greatest(i.created_at, i.done_at, d.created_at))
      FROM items i LEFT JOIN dead_letters d ON d.item_id = i.id
     WHERE i.id = ANY(:rows) GROUP BY 1
    ON CONFLICT (classifier_id) DO UPDATE SET until = greatest(removed_ids.until, excluded.until)
""")
_COUNT_RECEIPTS = text("""
    UPDATE submissions s SET removed = removed + gone.n
      FROM (SELECT submission_id, count(*) AS n FROM items WHERE id = ANY(:rows) GROUP BY 1) AS gone
     WHERE s.id = gone.submission_id
""")
_IDS = (
    text("DELETE FROM dead_letters WHERE item_id = ANY(:rows)"),
    text("DELETE FROM asks WHERE item_id = ANY(:rows)"),
    text("DELETE FROM items WHERE id = ANY(:rows)"),
)
_RECEIPTS = text("""
    DELETE FROM submissions WHERE classifier = :name AND removed = accepted
       AND created_at < now() - make_interval(days => :days)
""")


def old_ids(tx: Connection, classifier_id: int, days: int) -> int:
    """How many ids `remove_ids` would take, in all its rounds."""
    count: int = tx.execute(_OLD_IDS, {"classifier": classifier_id, "days": days}).scalar_one()
    return count


def remove_ids(tx: Connection, classifier_id: int, name: str, days: int) -> int:
    """Remove the oldest ids of items whose month was removed and that ended so many days ago; returns how many.

    At most `CHUNK` at once. Their counts stay, and up to when ids went. Items whose answers are evidence of a
    certificate, or that people were given, keep theirs; so do those that were forgotten, or they could come in again.
    Receipts that speak of nothing but removed items go, too.
    """
    rows = list(tx.execute(_NEXT_IDS, {"classifier": classifier_id, "days": days, "most": CHUNK}).scalars())
    if rows:
        until = (_UNTIL,) if tx.execute(_CAN_TELL).scalar_one() else ()  # not before migration 0017
        for statement in (_SUM_ITEMS, *until, _COUNT_RECEIPTS, *_IDS):
            tx.execute(statement, {"rows": rows})
    else:
        tx.execute(_RECEIPTS, {"name": name, "days": days})
    return len(rows)
