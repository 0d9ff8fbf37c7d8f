"""Claiming an ask: which one is next, which ones go into a batch, and what the lane is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

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


_CLAIM = text(f"""
    WITH picked AS (
        -- The array's elements come in order, and no more of them than are needed to find one ask.
        SELECT due.id FROM unnest(CAST(:classifiers AS int[]), CAST(:beyond_s AS float[])) AS served (id, beyond_s),
               LATERAL (
            SELECT id FROM asks
             WHERE classifier_id = served.id AND state = 'waiting' AND not_before <= now()
               AND {for_a_batch("served.beyond_s")} IS NOT TRUE
             ORDER BY priority, reason DESC, deadline, id LIMIT 1 FOR UPDATE SKIP LOCKED) AS due
         LIMIT 1),
    claimed AS (
        UPDATE asks SET state = 'calling', lease_token = :token,
                        lease_until = now() + make_interval(secs => :lease_s)
          FROM picked WHERE asks.id = picked.id
     RETURNING asks.*)
    -- Not waiting for the disk: a claim that PostgreSQL forgets as it dies is no lease, and books no call.
    SELECT {columns_of("claimed")}, items.key, coalesce(texts.text, '') AS text, specs.labels_hash,
           set_config('synchronous_commit', 'off', true)
      FROM claimed
      JOIN items ON items.id = claimed.item_id
      LEFT JOIN texts ON texts.item_id = claimed.item_id
      JOIN specs ON specs.classifier_id = claimed.classifier_id AND specs.version = claimed.spec_version
""")  # noqa: S608 - our own words


def claim(tx: Connection, served: Mapping[int, Spec], token: UUID, *, lease_s: float) -> ClaimedAsk | None:
    """Lease the next ask that is due and not for a batch, or None.

    In order of priority, escalations before audits, the earliest deadline first, then the oldest.

    Args:
        tx: a transaction.
        served: classifier → what it declares, the one to be served first first.
        token: of the lease.
        lease_s: its length.
    """
    found = row(
        tx,
        _CLAIM,
        {
            "classifiers": list(served),
            "beyond_s": [spec.llm.batch_beyond_s for spec in served.values()],
            "token": token,
            "lease_s": lease_s,
        },
    )
    return None if found is None else claimed_ask(found, served[found.classifier_id].labels_hash)


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
