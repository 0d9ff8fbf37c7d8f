"""The score lane's rows: claim a batch of items, and write what became of it in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.items import ClaimedItem, Reason, Role

CLAIM_LIMIT = 256
"""Most rows one claim takes."""
SUSPECT_AFTER = 2
"""Claims that never finished, after which an item is claimed alone: it may be what brings workers down."""

_CLAIM = text("""
    WITH wanted AS MATERIALIZED (
        -- `coalesce`: by the primary key, not through the index of all that is queued.
        SELECT :backlog OR EXISTS (
            SELECT FROM items WHERE id = ANY(CAST(:rows AS bigint[])) AND coalesce(state = 'queued', false)) AS "is"),
    named AS MATERIALIZED (
        SELECT id FROM items
         WHERE :in_turn AND id = ANY(CAST(:rows AS bigint[])) AND classifier_id = :classifier
           AND coalesce(state = 'queued', false) AND attempts >= :suspect
         ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
    fresh AS MATERIALIZED (
        SELECT id FROM items
         WHERE classifier_id = :classifier AND state = 'queued' AND attempts < :suspect AND (SELECT "is" FROM wanted)
           AND NOT EXISTS (SELECT FROM named)
         ORDER BY priority, id LIMIT :most FOR UPDATE SKIP LOCKED),
    busy AS MATERIALIZED (
        SELECT other.id FROM unnest(CAST(:others AS bigint[])) AS other (id)
         WHERE (:backlog OR EXISTS (SELECT FROM fresh))
           AND EXISTS (SELECT FROM items
                        WHERE classifier_id = other.id AND state = 'queued' AND attempts < :suspect)),
    beside AS MATERIALIZED (
        -- What the batch has room for, in equal shares.
        SELECT row.id FROM busy, LATERAL (
            SELECT id FROM items
             WHERE classifier_id = busy.id AND state = 'queued' AND attempts < :suspect
             ORDER BY priority, id
             LIMIT (SELECT ceil(greatest(:most - count(*), 0) / (SELECT count(*) FROM busy)::float8) FROM fresh)
               FOR UPDATE SKIP LOCKED) AS row
         LIMIT (SELECT greatest(:most - count(*), 0) FROM fresh)),  -- rows that change meanwhile may make it more
    suspect AS MATERIALIZED (
        SELECT id FROM items
         WHERE classifier_id = :classifier AND state = 'queued' AND attempts >= :suspect
           AND NOT :backlog AND (SELECT "is" FROM wanted) AND NOT EXISTS (SELECT FROM fresh)
           AND NOT EXISTS (SELECT FROM named)
         ORDER BY priority, id LIMIT 1 FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE items SET state = 'scoring', attempts = attempts + 1, lease_token = :token,
                         lease_until = now() + make_interval(secs => :lease_s)
          FROM (SELECT id FROM named UNION ALL SELECT id FROM fresh UNION ALL SELECT id FROM beside
                UNION ALL SELECT id FROM suspect) AS picked
         WHERE items.id = picked.id
     RETURNING items.id, items.key, items.classifier_id)
    SELECT claimed.id, claimed.key, claimed.classifier_id,
           coalesce(left(texts.text, CAST(:characters AS int)), texts.text) AS text
      FROM claimed JOIN texts ON texts.item_id = claimed.id
""")


def claim(
    tx: Connection,
    classifier_id: int,
    token: UUID,
    *,
    lease_s: float,
    rows: Sequence[int] | None = None,
    others: Sequence[int] = (),
    most: int = CLAIM_LIMIT,
    in_turn: bool = False,
    characters: int | None = None,
) -> list[ClaimedItem]:
    """Lease the oldest queued items of a classifier, at most `most` of them, in one statement.

    What room is left goes to the oldest items of others, in equal shares.

    Args:
        tx: a transaction.
        classifier_id: whose items.
        token: of the lease.
        lease_s: its length.
        rows: only if one of these still waits to be scored; a suspect is then taken alone, and last. None: whatever
            waits, but no suspect.
        others: classifiers whose items can go through the same model pass. No suspect of theirs is taken.
        most: items.
        in_turn: if one of these rows is a suspect, it is taken now, and alone, though others still wait.
        characters: of each text that are read; None: all of them.
    """
    values = {"classifier": classifier_id, "token": token, "lease_s": lease_s, "suspect": SUSPECT_AFTER}
    values |= {"rows": list(rows or ()), "backlog": rows is None, "others": list(others), "most": most}
    values |= {"in_turn": in_turn, "characters": characters}
    return [ClaimedItem(row.id, row.key, row.text, row.classifier_id) for row in tx.execute(_CLAIM, values)]


@dataclass(frozen=True, slots=True)
class Scored:
    """What was decided about one leased item.

    Attributes:
        probabilities: in label order, or None when no bundle serves yet.
        propensity: the audit rate under which it was drawn, or None when it was not.
        held: neither kept nor asked, until a person says what it is.
        reserved: what its ask may cost on the day's budget; None: nothing is reserved.
        waits: its ask is not due before the next day.
    """

    row: int
    keep: bool
    label: str | None
    confidence: float | None
    probabilities: Sequence[float] | None
    role: Role
    propensity: float | None
    offered: Sequence[str] | None
    prior: dict[str, float] | None
    held: bool = False
    reserved: Decimal | None = None
    waits: bool = False

    @property
    def reason(self) -> Reason | None:
        """Why it is asked, or None if it is not."""
        if not self.keep and not self.held:
            return Reason.ESCALATION
        return Reason.AUDIT if self.propensity is not None else None


_HOLD = (
    text("SELECT FROM asks WHERE item_id = ANY(:rows) AND state IN ('waiting', 'calling') ORDER BY id FOR UPDATE"),
    text("SELECT FROM items WHERE id = ANY(:rows) ORDER BY id FOR UPDATE"),
)


def hold(tx: Connection, rows: Sequence[int]) -> None:
    """Lock what `settle` changes: everybody locks rows of days after those of asks and items."""
    for statement in _HOLD:
        tx.execute(statement, {"rows": list(rows)})


_SETTLE = text("""
    WITH verdict AS MATERIALIZED (
        SELECT v.*, CAST(v.probabilities AS real[]) AS vector,
               CASE WHEN kept THEN nextval(sequence.outcomes) END AS outcome_id,
               CASE WHEN v.probabilities IS NOT NULL THEN nextval(sequence.scores) END AS score_id
          FROM (SELECT CAST(pg_get_serial_sequence('outcomes', 'id') AS regclass) AS outcomes,
                       CAST(pg_get_serial_sequence('scores', 'id') AS regclass) AS scores) AS sequence,
               unnest(CAST(:rows AS bigint[]), CAST(:kept AS bool[]), CAST(:labels AS text[]),
                      CAST(:confidences AS real[]), CAST(:probabilities AS text[]), CAST(:reasons AS text[]),
                      CAST(:roles AS text[]), CAST(:propensities AS real[]), CAST(:offered AS text[]),
                      CAST(:priors AS text[]), CAST(:held AS bool[]), CAST(:reserved AS numeric[]),
                      CAST(:waits AS bool[]), CAST(:classifiers AS bigint[]), CAST(:versions AS int[]),
                      CAST(:bundles AS bigint[]), CAST(:thresholds AS float8[]))
            AS v (row_id, kept, label, confidence, probabilities, reason, role, propensity, offered, prior, held,
                  reserved, waits, classifier, version, bundle, threshold)),
    moved AS (
        UPDATE items SET state = CASE WHEN kept THEN 'done' WHEN held THEN 'held' ELSE 'asked' END,
                         lease_token = NULL, lease_until = NULL,
                         label = CASE WHEN kept THEN verdict.label END,
                         source = CASE WHEN kept THEN 'small' END,
                         outcome_id = CASE WHEN kept THEN verdict.outcome_id END,
                         done_at = CASE WHEN kept THEN now() END
          FROM verdict
         -- `coalesce` hides the guard from the planner, which would take it for one row: it would look through an
         -- index on the state, which holds all that was ever scored until it is vacuumed, and compare all with all.
         WHERE items.id = ANY(CAST(:rows AS bigint[])) AND items.id = verdict.row_id
           AND coalesce(items.lease_token = :token AND items.state = 'scoring', false)
     RETURNING verdict.*, items.priority, items.deadline),
    scored AS (
        INSERT INTO scores (id, item_id, bundle_id, spec_version, probabilities, label, confidence, threshold, kept)
        OVERRIDING SYSTEM VALUE
        SELECT score_id, row_id, bundle, version, vector, label, confidence, threshold, kept
          FROM moved WHERE vector IS NOT NULL),
    decided AS (
        INSERT INTO outcomes (id, item_id, classifier_id, spec_version, label, source, confidence,
                              probabilities, bundle_id, threshold, score_id)
        OVERRIDING SYSTEM VALUE
        SELECT outcome_id, row_id, classifier, version, label, 'small', confidence, vector, bundle, threshold, score_id
          FROM moved WHERE kept),
    asked AS (
        INSERT INTO asks (item_id, classifier_id, score_id, spec_version, reason, role, propensity, offered, prior,
                          priority, deadline, budget_day_id, reserved, not_before)
        SELECT row_id, classifier, score_id, version, reason, role, propensity,
               CASE WHEN offered IS NOT NULL
                    THEN ARRAY(SELECT jsonb_array_elements_text(CAST(offered AS jsonb))) END,
               CAST(prior AS jsonb), priority, deadline,
               CASE WHEN reserved IS NOT NULL THEN CAST(:budget_day AS bigint) END, reserved,
               now() + make_interval(secs => CASE WHEN waits THEN :wait_s ELSE 0 END)
          FROM moved
         WHERE reason IS NOT NULL
         ORDER BY row_id
            ON CONFLICT (item_id) WHERE state IN ('waiting', 'calling')
            DO UPDATE SET reason = CASE WHEN excluded.reason = 'escalation' THEN excluded.reason
                                        ELSE asks.reason END
     RETURNING id, classifier_id AS classifier, not_before <= now() AS due,
               CASE WHEN xmax = 0 THEN reserved END AS reserved)
    SELECT classifier, moved, coalesce(asks, '{}') AS asks, coalesce(reserved, 0) AS reserved, coalesce(paid, 0) AS paid
      FROM (SELECT classifier, count(*) AS moved FROM moved GROUP BY classifier) AS of_items
      LEFT JOIN (SELECT classifier, array_agg(id ORDER BY id) FILTER (WHERE due) AS asks, sum(reserved) AS reserved,
                        count(reserved) AS paid
                   FROM asked GROUP BY classifier) AS of_asks USING (classifier)
""")


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was decided about a batch's items of one classifier, and by what.

    Attributes:
        spec_version: the version of the classifier that it was decided under.
        bundle_id: the bundle that scored, or None.
        threshold: below which items escalate.
    """

    classifier_id: int
    scored: Sequence[Scored]
    spec_version: int
    bundle_id: int | None
    threshold: float


@dataclass(frozen=True, slots=True)
class Settled:
    """What was written of one classifier.

    Attributes:
        moved: items; fewer than given when the lease was lost.
        asks: those that are due now.
        reserved: what the new asks may cost, on a budget. paid: how many of them that is for.
    """

    moved: int = 0
    asks: tuple[int, ...] = ()
    reserved: Decimal = Decimal(0)
    paid: int = 0


def settle(
    tx: Connection,
    token: UUID,
    rulings: Sequence[Ruling],
    *,
    budget_day: int | None = None,
    wait_s: float = 0.0,
) -> Mapping[int, Settled]:
    """Write scores, outcomes and asks of the items that are still under this lease, in one statement.

    Args:
        tx: an open transaction.
        token: the lease.
        rulings: what was decided, at most one for each classifier.
        budget_day: the row that reservations are on; the caller holds its lock.
        wait_s: how long asks wait that wait.

    Returns:
        What was written, by classifier; nothing of those whose leases were all lost.
    """
    scored = [one for ruling in rulings for one in ruling.scored]
    of = [ruling for ruling in rulings for _ in ruling.scored]
    found = tx.execute(
        _SETTLE,
        {
            "token": token,
            "classifiers": [ruling.classifier_id for ruling in of],
            "versions": [ruling.spec_version for ruling in of],
            "bundles": [ruling.bundle_id for ruling in of],
            "thresholds": [ruling.threshold for ruling in of],
            "rows": [s.row for s in scored],
            "kept": [s.keep for s in scored],
            "labels": [s.label for s in scored],
            "confidences": [s.confidence for s in scored],
            "probabilities": [_vector(s.probabilities) for s in scored],
            "reasons": [s.reason for s in scored],
            "roles": [s.role for s in scored],
            "propensities": [s.propensity for s in scored],
            "offered": [None if s.offered is None else json.dumps(list(s.offered)) for s in scored],
            "priors": [None if s.prior is None else json.dumps(s.prior) for s in scored],
            "held": [s.held for s in scored],
            "reserved": [s.reserved for s in scored],
            "waits": [s.waits for s in scored],
            "budget_day": budget_day,
            "wait_s": wait_s,
        },
    )
    return {row.classifier: Settled(row.moved, tuple(row.asks), row.reserved, row.paid) for row in found}


def _vector(probabilities: Sequence[float] | None) -> str | None:
    if probabilities is None:
        return None
    return "{" + ",".join(f"{p:.6g}" for p in probabilities) + "}"


def release(tx: Connection, token: UUID, *, classifier_id: int | None = None, counted: bool = False) -> int:
    """Hand unfinished items back, as if they had never been claimed; returns how many.

    Args:
        tx: a transaction.
        token: the lease.
        classifier_id: only its items; None: all that are under the lease.
        counted: the claim counts, since one of them may be what brought its worker down.
    """
    return tx.execute(
        text(
            "UPDATE items SET state = 'queued', attempts = attempts - CASE WHEN :counted THEN 0 ELSE 1 END,"
            " lease_token = NULL, lease_until = NULL,"
            " announced_at = '-infinity' WHERE lease_token = :token AND state = 'scoring'"
            " AND (CAST(:classifier AS bigint) IS NULL OR classifier_id = :classifier)"
        ),
        {"token": token, "classifier": classifier_id, "counted": counted},
    ).rowcount
