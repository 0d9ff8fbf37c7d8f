"""Claiming an ask: which one is next, which ones go into a batch, and what the lane is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from datashunt.classifier import Spec
from datashunt.items import ClaimedAsk, Reason, Role
from datashunt.store.engine import row


def for_a_batch(beyond_s: str) -> str:
    """The SQL condition on a row of `asks` that it goes into a batch; not true, or NULL, where it does not.

    A batch asks the first of the models: what falls back to another is asked live.

    Args:
        beyond_s: an SQL expression, the classifier's `llm.batch_beyond_s`.
    """
    return (
        f"(asks.fallback = 0 AND ({beyond_s} < 0"
        f" OR asks.batchable AND asks.deadline > now() + make_interval(secs => {beyond_s})))"
    )


FRONT = 1_000
"""Rows of a classifier's line among which a claim looks first: of a backlog, the very first is due."""
FEW = 10_000
"""Due asks of a classifier that are sorted; where there are more, the line is walked until they are met."""
BY_TIME = "not_before > '-infinity'"
"""True of every ask: with it a statement may use `ix_asks_due`, which knows what is due and nothing of the line.

What goes along the line must not say it. Where the planner takes a backlog for a few rows, as it does until there are
new statistics, it would read all of it by time and sort it.
"""
_LINE = "priority, reason DESC, deadline, id"
_SEEN = "id, priority, reason, deadline, not_before, announced_at, fallback, batchable"


def _at_most(count: int) -> str:
    """A number that the planner does not see.

    It takes such a LIMIT for a tenth of what there is, and reads the index that has the order. A number close to what
    it believes to be there makes it read everything and sort that.
    """
    return f"(SELECT {count})"


def _waiting(classifier: str) -> str:
    return f"SELECT {_SEEN} FROM asks WHERE classifier_id = {classifier} AND state = 'waiting'"  # noqa: S608


def _locked(rows: str, ask: str, most: str) -> str:
    """The SQL of the first of these rows that are such asks still as they are locked, one by one and in their order."""
    return f"""(
        SELECT locked.id FROM ({rows}) AS line, LATERAL (
            SELECT id FROM asks WHERE id = line.id AND state = 'waiting' AND not_before <= now() AND {ask}
               FOR UPDATE SKIP LOCKED) AS locked
         LIMIT {most})"""  # noqa: S608 - our own words


def in_line(classifier: str, ask: str, most: str) -> str:
    """The SQL of the ids of a classifier's first due asks, locked; what others hold is passed over.

    Before them in the line may stand all that wait for tomorrow's budget. So those that are due are found by their
    time, and sorted if they are few.

    Args:
        classifier: an SQL expression.
        ask: a condition on a row of `asks`, by that name.
        most: an SQL expression, how many.
    """
    so_many = "(SELECT count(*) FROM due)"
    few = f"SELECT id FROM due AS asks WHERE {so_many} <= {FEW} AND {ask} ORDER BY {_LINE}"  # noqa: S608
    return f"""
        WITH due AS MATERIALIZED (
            {_waiting(classifier)} AND {BY_TIME} AND not_before <= now() ORDER BY not_before LIMIT {_at_most(FEW + 1)})
        {_locked(few, ask, most)}
        UNION ALL SELECT id FROM (
            SELECT id FROM asks
             WHERE classifier_id = {classifier} AND state = 'waiting' AND not_before <= now() AND {ask}
               AND {so_many} > {FEW}
             ORDER BY {_LINE} LIMIT {most} FOR UPDATE SKIP LOCKED) AS met"""  # noqa: S608 - our own words


def _near(classifier: str, ask: str) -> str:
    """The SQL of the id of a classifier's first due ask, as `in_line`, if it is among the first `FRONT` of the line."""
    front = (
        f"SELECT id, not_before FROM asks WHERE classifier_id = {classifier} AND state = 'waiting'"  # noqa: S608
        f" ORDER BY {_LINE} LIMIT {FRONT}"
    )
    return _locked(f"SELECT id FROM ({front}) AS front WHERE not_before <= now()", ask, "1")  # noqa: S608


def _far(classifier: str) -> str:
    """The SQL of a NULL, if a line is longer than that."""
    return f"""(
        SELECT NULL FROM asks WHERE classifier_id = {classifier} AND state = 'waiting'
         ORDER BY {_LINE} OFFSET {FRONT} LIMIT 1)"""  # noqa: S608 - our own words


def columns_of(asks: str) -> str:
    """What `claimed_ask` reads of such a row. Not all of it: the driver cannot read an `announced_at` of -infinity."""
    names = (
        "id",
        "item_id",
        "classifier_id",
        "reason",
        "role",
        "offered",
        "prior",
        "attempts",
        "misses",
        "fallback",
        "keep_chars",
        "reserved",
    )
    return ", ".join(f"{asks}.{name}" for name in names)


def _claim(next_of_a_classifier: str) -> TextClause:
    """The claim of the ask that this SQL names for the first of the classifiers for which it names any."""
    return text(f"""
    WITH picked AS (
        -- The array's elements come in order, and no more of them than are needed to find one ask.
        SELECT due.id FROM unnest(CAST(:classifiers AS int[]), CAST(:beyond_s AS float[])) AS served (id, beyond_s),
               LATERAL ({next_of_a_classifier}) AS due
         LIMIT 1),
    claimed AS (
        UPDATE asks SET state = 'calling', lease_token = :token,
                        lease_until = now() + make_interval(secs => :lease_s)
          FROM picked WHERE asks.id = picked.id
     RETURNING asks.*)
    -- Two joins less are planned in a third of the time. Not texts: PostgreSQL 18 crashes where a subquery looks for
    -- its partition, and a row that is to be locked has changed.
    SELECT {columns_of("claimed")}, coalesce(texts.text, '') AS text,
           (SELECT key FROM items WHERE id = claimed.item_id) AS key,
           (SELECT labels_hash FROM specs
             WHERE classifier_id = claimed.classifier_id AND version = claimed.spec_version) AS labels_hash,
           -- Not waiting for the disk: a claim that PostgreSQL forgets as it dies is no lease, and books no call.
           set_config('synchronous_commit', 'off', true)
      FROM picked LEFT JOIN claimed ON true LEFT JOIN texts ON texts.item_id = claimed.item_id
""")  # noqa: S608 - our own words


_LIVE = f"{for_a_batch('served.beyond_s')} IS NOT TRUE"
_CLAIM_NEAR = _claim(f"{_near('served.id', _LIVE)} UNION ALL {_far('served.id')} LIMIT 1")
"""Of a backlog. Nothing is claimed, and one row of NULLs found, if a line has to be looked at as a whole."""
_CLAIM = _claim(
    f"{_near('served.id', _LIVE)} UNION ALL SELECT id FROM ({in_line('served.id', _LIVE, '1')}) AS others LIMIT 1"  # noqa: S608
)


def claim(tx: Connection, served: Mapping[int, Spec], token: UUID, *, lease_s: float) -> ClaimedAsk | None:
    """Lease the next ask that is due and not for a batch, or None.

    In order of priority, escalations before audits, the earliest deadline first, then the oldest.

    Args:
        tx: a transaction.
        served: classifier → what it declares, the one to be served first first.
        token: of the lease.
        lease_s: its length.
    """
    values = {
        "classifiers": list(served),
        "beyond_s": [spec.llm.batch_beyond_s for spec in served.values()],
        "token": token,
        "lease_s": lease_s,
    }
    found = row(tx, _CLAIM_NEAR, values)
    if found is not None and found.id is None:
        found = row(tx, _CLAIM, values)
    if found is None or found.id is None:
        return None
    return claimed_ask(found, served[found.classifier_id].labels_hash)


def claimed_ask(found: Any, labels_hash: str) -> ClaimedAsk:
    """The ask of a row with `columns_of`, its item's `key` and `text`, and the `labels_hash` it was made under.

    What it offers of other labels than those of this hash is dropped, and so is its prior.
    """
    same_labels = found.labels_hash == labels_hash
    return ClaimedAsk(
        row=found.id,
        item_row=found.item_id,
        classifier_row=found.classifier_id,
        item_id=found.key,
        text=found.text,
        reason=Reason(found.reason),
        role=Role(found.role),
        candidates=tuple(found.offered) if found.offered is not None and same_labels else None,
        prior=found.prior if same_labels else None,
        attempts=found.attempts,
        misses=found.misses,
        fallback=found.fallback,
        keep_chars=found.keep_chars,
        reserved=found.reserved is not None,
    )
