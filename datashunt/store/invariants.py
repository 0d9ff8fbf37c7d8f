"""What must be true of every database of ours at every moment, as SQL: each statement finds the rows that break it.

They only read. All of them look at one snapshot, so that workers may go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

SHOWN = 5
"""Most rows that are named for a broken invariant."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A sentence that must hold. `broken` selects the exceptions: each an `item` (row) or `what` (text)."""

    name: str
    sentence: str
    broken: str


@dataclass(frozen=True, slots=True)
class Broken:
    """How many rows break it, and the first few of them: an item as `classifier/id`, else what the row is."""

    count: int
    some: tuple[str, ...]


# What was said of an item is gone, by its age (see store/retention.py).
_REMOVED = (
    "EXISTS (SELECT FROM removed_months r WHERE r.classifier_id = items.classifier_id"
    " AND items.id >= r.first_item AND items.id < r.end_item)"
)


def _of(table: str) -> str:
    return f"'{table} ' || {table}.id AS what FROM {table}"


ITEMS = (
    Invariant(
        "outcome",
        "A finished item has one current outcome: its own, with its label and source, and the newest it has",
        "SELECT items.id AS item FROM items"  # noqa: S608 - our own words
        " LEFT JOIN outcomes o ON o.id = items.outcome_id AND o.item_id = items.id WHERE items.state = 'done'"
        " AND (o.item_id, o.classifier_id, o.label, o.source)"
        "     IS DISTINCT FROM (items.id, items.classifier_id, items.label, items.source)"
        f" AND NOT (o.id IS NULL AND {_REMOVED})"
        " UNION ALL SELECT items.id FROM items JOIN outcomes later ON later.item_id = items.id"
        " WHERE items.state = 'done' AND later.id > items.outcome_id",
    ),
    Invariant(
        "unfinished",
        "An unfinished item has no current outcome",
        "SELECT id AS item FROM items WHERE state <> 'done'"
        " AND (outcome_id IS NOT NULL OR label IS NOT NULL"
        "      OR state <> 'forgotten' AND (source IS NOT NULL OR done_at IS NOT NULL))",
    ),
    Invariant(
        "outcome_twice",
        "No score and no answer is the reason of two outcomes",
        "SELECT item_id AS item FROM outcomes WHERE source = 'small' GROUP BY item_id, score_id HAVING count(*) > 1"
        " UNION ALL"
        " SELECT item_id FROM outcomes WHERE source = 'llm' GROUP BY item_id, answer_id HAVING count(*) > 1",
    ),
    Invariant(
        "outcome_reason",
        "Every outcome has an item, and a reason with the same label: a score that was kept, an answer, or a person",
        "SELECT o.item_id AS item FROM outcomes o LEFT JOIN items i ON i.id = o.item_id"
        " LEFT JOIN scores s ON s.id = o.score_id AND s.item_id = o.item_id"
        " LEFT JOIN answers a ON a.id = o.answer_id AND a.item_id = o.item_id"
        " WHERE i.id IS NULL OR NOT CASE o.source"
        "   WHEN 'small' THEN"
        "     coalesce(s.kept AND (s.item_id, s.label, s.bundle_id) = (o.item_id, o.label, o.bundle_id), false)"
        "   WHEN 'llm' THEN coalesce((a.item_id, a.label) = (o.item_id, o.label), false)"
        "   ELSE o.labelled_by IS NOT NULL END",
    ),
    Invariant(
        "dead",
        "A dead item has a dead letter that is not replayed and tells a reason",
        "SELECT id AS item FROM items WHERE state = 'dead' AND NOT EXISTS (SELECT FROM dead_letters d"
        " WHERE d.item_id = items.id AND d.replayed_at IS NULL AND d.reason <> '')",
    ),
    Invariant(
        "dead_letter",
        "A dead letter that is not replayed speaks of an item or an ask that is dead",
        "SELECT d.item_id AS item FROM dead_letters d JOIN items i ON i.id = d.item_id LEFT JOIN asks ON asks.id ="
        " d.ask_id WHERE d.replayed_at IS NULL"
        " AND CASE WHEN d.ask_id IS NULL THEN i.state <> 'dead' ELSE asks.state <> 'dead' END",
    ),
    Invariant(
        "item_lease",
        "An item has a lease if, and only if, it is being scored",
        "SELECT id AS item FROM items WHERE (state = 'scoring') <> (lease_token IS NOT NULL)"
        " OR (state = 'scoring') <> (lease_until IS NOT NULL)",
    ),
    Invariant(
        "asked",
        "An item that is asked has an ask that is open, and an open escalation has an item that waits for it",
        "SELECT id AS item FROM items WHERE state = 'asked' AND NOT EXISTS (SELECT FROM asks"
        " WHERE item_id = items.id AND reason = 'escalation' AND asks.state IN ('waiting', 'calling'))"
        " UNION ALL SELECT item_id FROM asks JOIN items ON items.id = item_id"
        " WHERE reason = 'escalation' AND asks.state IN ('waiting', 'calling') AND items.state <> 'asked'",
    ),
    Invariant(
        "text",
        "Every item that has not ended has its text, and one that is forgotten has none",
        "SELECT id AS item FROM items WHERE state NOT IN ('done', 'dead', 'forgotten')"
        " AND NOT EXISTS (SELECT FROM texts WHERE item_id = items.id)"
        " UNION ALL SELECT id FROM items WHERE state = 'forgotten' AND (EXISTS (SELECT FROM texts"
        " WHERE item_id = items.id) OR EXISTS (SELECT FROM outcomes WHERE item_id = items.id)"
        " OR EXISTS (SELECT FROM answers WHERE item_id = items.id))",
    ),
    Invariant(
        "receipt",
        "A receipt counts its items, also those removed since, and its refusals; a call refused as a whole has none",
        "WITH counted AS (SELECT submission_id, count(*) AS n FROM items GROUP BY 1),"
        " turned AS (SELECT submission_id, count(*) AS n FROM refusals GROUP BY 1)"
        " SELECT 'submission ' || id AS what FROM submissions LEFT JOIN counted ON counted.submission_id = id"
        " LEFT JOIN turned ON turned.submission_id = id"
        " WHERE accepted <> coalesce(counted.n, 0) + removed OR refused <> coalesce(turned.n, 0)"
        " OR error IS NOT NULL AND accepted > 0",
    ),
)

ASKS = (
    Invariant(
        "ask_lease",
        "An ask has a lease if, and only if, it is being called; without an end only while a batch has it",
        "SELECT item_id AS item FROM asks WHERE (state = 'calling') <> (lease_token IS NOT NULL)"
        " OR state <> 'calling' AND lease_until IS NOT NULL OR state = 'calling' AND lease_until IS NULL"
        " AND NOT EXISTS (SELECT FROM batches WHERE key = asks.lease_token AND batches.state <> 'harvested')",
    ),
    Invariant(
        "answer",
        "An ask is answered if, and only if, it has an answer, which is of its item and for what it was asked for",
        "SELECT asks.item_id AS item FROM asks"  # noqa: S608 - our own words
        " LEFT JOIN answers a ON a.ask_id = asks.id AND a.item_id = asks.item_id"
        " WHERE (asks.state = 'answered') <> (a.id IS NOT NULL)"
        f"   AND NOT (a.id IS NULL AND EXISTS (SELECT FROM items WHERE items.id = asks.item_id AND {_REMOVED}))"
        " OR a.id IS NOT NULL"
        " AND (a.item_id, a.classifier_id, a.role, a.propensity)"
        "     IS DISTINCT FROM (asks.item_id, asks.classifier_id, asks.role, asks.propensity)",
    ),
    Invariant(
        "paid_answer",
        "An answer has a call that brought it; one of its own, unless it repeats an answer to an equal question",
        "SELECT a.item_id AS item FROM answers a LEFT JOIN asks ON asks.id = a.ask_id"
        " LEFT JOIN calls c ON c.id = a.call_id"
        " LEFT JOIN answers first ON first.id = a.reused_from WHERE c.state <> 'answered' OR asks.id IS NULL"
        " OR c.id IS NULL AND a.reused_from IS NULL"  # with the first answer, its call may be removed by its age
        " OR CASE WHEN a.reused_from IS NULL THEN c.ask_id <> a.ask_id ELSE c.id <> first.call_id END",
    ),
    Invariant(
        "reference",
        "An audit is a reference ask: drawn with a propensity, all labels, no prior, its answer never reused",
        "SELECT asks.item_id AS item FROM asks LEFT JOIN answers a ON a.ask_id = asks.id AND a.item_id = asks.item_id"
        " WHERE asks.role <> 'train' AND (NOT coalesce(asks.propensity > 0 AND asks.propensity <= 1, false)"
        " OR asks.offered IS NOT NULL OR asks.prior IS NOT NULL OR a.reused_from IS NOT NULL OR a.had_prior)",
    ),
    Invariant(
        "call",
        "A call is of its ask's item, and one that has ended has a cost that is not negative, and 0 if it failed",
        "SELECT c.item_id AS item FROM calls c LEFT JOIN asks ON asks.id = c.ask_id"
        " WHERE (c.item_id, c.classifier_id) IS DISTINCT FROM (asks.item_id, asks.classifier_id) OR c.state <> 'sent'"
        " AND (c.cost_usd IS NULL OR c.cost_usd < 0 OR c.state = 'failed' AND c.cost_usd <> 0)",
    ),
    Invariant(
        "budget",
        "A day's account is the sum of its calls and of what is reserved for its asks and calls",
        "WITH paid AS (SELECT c.budget_day_id AS day, sum(CASE WHEN c.state IN ('sent', 'failed') THEN 0"
        "     WHEN d.unit = 'calls' THEN 1 ELSE c.cost_usd END) AS spent,"
        "     sum(CASE WHEN c.state = 'sent' THEN c.budget_reserved ELSE 0 END) AS held"
        "     FROM calls c JOIN budget_days d ON d.id = c.budget_day_id GROUP BY 1),"
        " kept AS (SELECT budget_day_id AS day, sum(reserved) AS held FROM asks WHERE reserved IS NOT NULL GROUP BY 1)"
        " SELECT c.name || ' on ' || d.day AS what FROM budget_days d JOIN classifiers c ON c.id = d.classifier_id"
        " LEFT JOIN paid ON paid.day = d.id LEFT JOIN kept ON kept.day = d.id"
        " WHERE abs(d.spent - d.past - coalesce(paid.spent, 0)) > 1e-6"
        " OR abs(d.reserved - coalesce(paid.held, 0) - coalesce(kept.held, 0)) > 1e-6",
    ),
)

MODELS = (
    Invariant(
        "score",
        "A score is of a bundle of its item's classifier: one probability for each of its labels, and one of them said",
        "SELECT s.item_id AS item FROM scores s JOIN items i ON i.id = s.item_id JOIN bundles b ON b.id = s.bundle_id"
        " WHERE b.classifier_id <> i.classifier_id OR cardinality(s.probabilities) <> cardinality(b.labels)"
        " OR s.label <> ALL (b.labels)",
    ),
    Invariant(
        "kept",
        "A kept score has its outcome, and its confidence is not below its threshold; on a budget its rank decides",
        "SELECT s.item_id AS item FROM scores s LEFT JOIN outcomes o ON o.score_id = s.id"
        " AND o.item_id = s.item_id AND o.source = 'small' LEFT JOIN items i ON i.id = s.item_id"
        " LEFT JOIN specs p ON p.classifier_id = i.classifier_id AND p.version = s.spec_version"
        " WHERE s.kept AND (o.id IS NULL OR NOT s.confidence >= s.threshold"
        " AND p.document #>> '{policy,mode}' IS DISTINCT FROM 'budget')",
    ),
    Invariant(
        "incumbent",
        "What serves is a promoted bundle of its classifier, for the labels of its file",
        "SELECT c.name AS what FROM classifiers c JOIN bundles b ON b.id = c.incumbent_id"
        " JOIN specs ON specs.classifier_id = c.id AND specs.version = c.spec_version"
        " WHERE b.classifier_id <> c.id OR b.state <> 'promoted' OR b.labels_hash <> specs.labels_hash",
    ),
    Invariant(
        "distillation",
        "A distillation has a lease if, and only if, it runs, and a bundle if it was judged",
        f"SELECT {_of('distillations')} WHERE (state = 'running') <> (lease_token IS NOT NULL AND lease_until IS NOT"
        " NULL) OR state IN ('promoted', 'rejected', 'overtaken', 'uncertified') AND bundle_id IS NULL",
    ),
    Invariant(
        "certificate",
        "A certificate that stands is of a bundle of its classifier, with no more errors than answers",
        f"SELECT {_of('certificates')} JOIN bundles b ON b.id = bundle_id"
        " WHERE b.classifier_id <> certificates.classifier_id OR k > n OR k < 0",
    ),
)

ALL = (*ITEMS, *ASKS, *MODELS)


def check(tx: Connection, invariants: Sequence[Invariant] = ALL) -> list[tuple[Invariant, Broken]]:
    """Look at each of them, in one snapshot and writing nothing; what is broken has a count above 0.

    Args:
        tx: a transaction in which nothing was read yet.
        invariants: what to look at.
    """
    tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    return [(one, _broken(tx, one)) for one in invariants]


def _broken(tx: Connection, one: Invariant) -> Broken:
    named = "to_jsonb(b) ->> 'what'" if "AS what" in one.broken else "c.name || '/' || i.key"
    joined = (
        ""
        if "AS what" in one.broken
        else " LEFT JOIN items i ON i.id = b.item LEFT JOIN classifiers c ON c.id = i.classifier_id"
    )
    found = tx.execute(
        text(
            f"WITH b AS MATERIALIZED ({one.broken}) SELECT (SELECT count(*) FROM b) AS n, ARRAY("  # noqa: S608
            f"SELECT coalesce({named}, 'an item that does not exist') FROM b{joined} ORDER BY 1 LIMIT :shown) AS some"
        ),
        {"shown": SHOWN},
    ).one()
    return Broken(found.n, tuple(found.some))
