"""Labels of people: an outcome of source `human` becomes the current one, wherever the item is on its way.

Whoever holds the item loses it: the lease is taken away, so that later writes find nothing of theirs. An ask that
only the outcome waited for is withdrawn; a call of it that is under way is still booked, and its answer kept, but it
changes no outcome. An ask of the audit stays open: what we know of the LLM is drawn at random or worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.store import asks
from datashunt.store.classifiers import Registered


@dataclass(frozen=True, slots=True)
class PersonLabel:
    """What a person says of one item. `line` is where that was read, `id` the producer's."""

    line: int
    id: str
    label: str
    by: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch of labels.

    Attributes:
        new: labels that are now the current outcome.
        known: those that are this person's last word on the item already, current or not; nothing changed.
        unknown: those of items that do not exist.
    """

    new: int
    known: int
    unknown: tuple[PersonLabel, ...]


# Asks before items, as whoever stores an answer locks them; and both before the statement that looks at history.
_LOCK_ASKS = text("""
    SELECT FROM asks JOIN items ON items.id = asks.item_id
     WHERE items.classifier_id = :classifier AND items.key = ANY(:keys) AND asks.state <> 'answered'
     ORDER BY asks.id FOR UPDATE OF asks
""")
_LOCK_ITEMS = text("""
    SELECT id, key FROM items WHERE classifier_id = :classifier AND key = ANY(:keys)
       AND state <> 'forgotten' ORDER BY id FOR UPDATE
""")

_TAKE = text("""
    WITH news AS MATERIALIZED (
        SELECT g.*, nextval(pg_get_serial_sequence('outcomes', 'id')) AS outcome_id
          FROM unnest(CAST(:rows AS bigint[]), CAST(:labels AS text[]), CAST(:people AS text[]))
            AS g (row_id, label, person)
         WHERE g.label IS DISTINCT FROM (
             SELECT o.label FROM outcomes o
              WHERE o.item_id = g.row_id AND o.source = 'human' AND o.labelled_by = g.person
              ORDER BY o.id DESC LIMIT 1)),
    moved AS (
        UPDATE items SET state = 'done', lease_token = NULL, lease_until = NULL, label = news.label,
                         source = 'human', outcome_id = news.outcome_id, done_at = now()
          FROM news WHERE items.id = news.row_id),
    decided AS (
        INSERT INTO outcomes (id, item_id, classifier_id, spec_version, label, source, labelled_by)
        OVERRIDING SYSTEM VALUE
        SELECT outcome_id, row_id, :classifier, :spec_version, label, 'human', person FROM news)
    SELECT row_id FROM news
""")
_AUDITS_STAY = text("""
    WITH audits AS (
        UPDATE asks SET reason = 'audit' WHERE item_id = ANY(:rows) AND role <> 'train' AND state <> 'answered')
    UPDATE dead_letters SET replayed_at = now()
     WHERE item_id = ANY(:rows) AND replayed_at IS NULL
       AND NOT EXISTS (SELECT FROM asks WHERE asks.id = dead_letters.ask_id AND asks.role <> 'train')
""")


def take(tx: Connection, known: Registered, labels: Sequence[PersonLabel]) -> Taken:
    """Make these labels the current outcomes; each item at most once. The labels must be the classifier's.

    What a person said last of an item and says again changes nothing, also where somebody else has had a later word.
    """
    values = {"classifier": known.id, "keys": [one.id for one in labels]}
    tx.execute(_LOCK_ASKS, values)
    rows = {row.key: row.id for row in tx.execute(_LOCK_ITEMS, values)}
    there = [one for one in labels if one.id in rows]
    moved = list(
        tx.execute(
            _TAKE,
            {
                "classifier": known.id,
                "spec_version": known.version,
                "rows": [rows[one.id] for one in there],
                "labels": [one.label for one in there],
                "people": [one.by for one in there],
            },
        ).scalars()
    )
    if moved:
        asks.withdraw(tx, moved, audits_stay=True)
        tx.execute(_AUDITS_STAY, {"rows": moved})
    return Taken(len(moved), len(there) - len(moved), tuple(one for one in labels if one.id not in rows))
