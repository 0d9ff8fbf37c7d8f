"""What a person should look at first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.items import Source
from datashunt.store.classifiers import Registered
from datashunt.store.samples import Sample


@dataclass(frozen=True, slots=True)
class Look:
    """An item for a person.

    Attributes:
        label, source: its current outcome, None while it has none.
        small_label, confidence: the small model's last first choice, None where none scored it.
        llm_label: the LLM's last answer, or None.
        why: it is shown.
    """

    id: str
    text: str
    label: str | None
    source: Source | None
    small_label: str | None
    confidence: float | None
    llm_label: str | None
    why: str


_QUEUE = text("""
    WITH found AS (
        (SELECT id, 1 AS rank, CAST(0 AS real) AS place, 'held' AS why FROM items
          WHERE classifier_id = :classifier AND state = 'held' ORDER BY id LIMIT :most)
         UNION ALL
        (SELECT i.id, 2, 0, 'dead: ' || d.reason FROM dead_letters d JOIN items i ON i.id = d.item_id
          WHERE d.classifier_id = :classifier AND d.replayed_at IS NULL AND i.state = 'dead'
            AND EXISTS (SELECT FROM asks JOIN calls ON calls.ask_id = asks.id AND calls.item_id = i.id
                         WHERE asks.item_id = i.id AND calls.state = 'answered')
          ORDER BY i.id LIMIT :most)
         UNION ALL
        (SELECT i.id, 3, -s.confidence, 'audit: the LLM differs'
           FROM answers a JOIN asks ON asks.id = a.ask_id
           JOIN scores s ON s.id = asks.score_id AND s.item_id = asks.item_id
           JOIN items i ON i.id = a.item_id
          WHERE a.classifier_id = :classifier AND a.labels_hash = :labels AND a.propensity IS NOT NULL
            AND a.label <> s.label AND i.state = 'done' AND i.source <> 'human'
          ORDER BY s.confidence DESC, i.id LIMIT :most)
         UNION ALL
        (SELECT i.id, 4, o.confidence, 'least sure' FROM items i
           JOIN outcomes o ON o.id = i.outcome_id AND o.item_id = i.id
          WHERE i.classifier_id = :classifier AND i.state = 'done' AND i.source <> 'human'
          ORDER BY o.confidence NULLS LAST, i.id LIMIT :most)),
    chosen AS (SELECT DISTINCT ON (id) * FROM found ORDER BY id, rank)
    SELECT i.key, texts.text, i.label, i.source, s.label AS small_label, s.confidence, a.label AS llm_label, why
      FROM chosen JOIN items i USING (id) JOIN texts ON texts.item_id = id
      LEFT JOIN LATERAL (SELECT label, confidence FROM scores WHERE item_id = i.id ORDER BY id DESC LIMIT 1) s
             ON true
      LEFT JOIN LATERAL (SELECT label FROM answers WHERE item_id = i.id ORDER BY id DESC LIMIT 1) a ON true
     ORDER BY rank, place NULLS LAST, id LIMIT :most
""")


def queue(tx: Connection, known: Registered, most: int) -> list[Look]:
    """The items that need a person most, no one twice, and none that a person has labelled.

    First those that are held; then dead ones that the LLM did answer, only not usably; then audited ones where the
    LLM differs from the small model, the most confident of its errors first; then the least sure outcomes.
    """
    rows = tx.execute(_QUEUE, {"classifier": known.id, "labels": known.spec.labels_hash, "most": most})
    return [
        Look(
            id=row.key,
            text=row.text,
            label=row.label,
            source=None if row.source is None else Source(row.source),
            small_label=row.small_label,
            confidence=row.confidence,
            llm_label=row.llm_label,
            why=row.why,
        )
        for row in rows
    ]


def unlabelled(tx: Connection, sample: Sample) -> list[tuple[str, str]]:
    """Id and text of each item of a sample that no person has labelled yet, in the order in which they came."""
    rows = tx.execute(
        text(
            "SELECT i.key, texts.text FROM sampled_items s JOIN items i ON i.id = s.item_id"
            " JOIN texts ON texts.item_id = i.id"
            " WHERE s.sample_id = :sample AND NOT EXISTS ("
            "  SELECT FROM outcomes o WHERE o.item_id = s.item_id AND o.source = 'human') ORDER BY i.id"
        ),
        {"sample": sample.id},
    )
    return [(row.key, row.text) for row in rows]
