"""Samples for people: what can be drawn, what was drawn, and what people and the LLM said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from datashunt.quality import Draw, Finished, Judged
from datashunt.store.classifiers import Registered

# An item that a person has labelled counts with the last outcome before that: otherwise the sample would miss just
# those that people thought worth a look.
_FINISHED = text("""
    SELECT id, key, outcome_id AS outcome, source = 'small' AS kept FROM items
     WHERE classifier_id = :classifier AND state = 'done' AND source <> 'human'
     UNION ALL
    SELECT i.id, i.key, o.id, o.source = 'small'
      FROM items i
      JOIN LATERAL (SELECT id, source FROM outcomes
                     WHERE item_id = i.id AND source <> 'human' ORDER BY id DESC LIMIT 1) o ON true
     WHERE i.classifier_id = :classifier AND i.state = 'done' AND i.source = 'human'
""")


def finished(tx: Connection, classifier_id: int) -> Iterator[Finished]:
    """Every done item that ever had an outcome which no person gave, with the last such, in constant memory."""
    rows = tx.execute(_FINISHED, {"classifier": classifier_id}, execution_options={"yield_per": 10_000})
    for row in rows:
        yield Finished(row.id, row.key, row.outcome, row.kept)


@dataclass(frozen=True, slots=True)
class Sample:
    """A recorded draw of `size` items; `population`, `kept`, `audited` and `newest` as in `quality.Draw`."""

    id: int
    seed: int
    size: int
    population: int
    kept: int
    audited: int
    audit_rate: float
    newest: int
    created_at: datetime


def find(tx: Connection, classifier_id: int, seed: int | None = None) -> Sample | None:
    """The sample of this seed, or the newest one; None if there is none."""
    row = tx.execute(
        text(
            "SELECT * FROM samples WHERE classifier_id = :classifier"
            " AND (CAST(:seed AS bigint) IS NULL OR seed = :seed) ORDER BY id DESC LIMIT 1"
        ),
        {"classifier": classifier_id, "seed": seed},
    ).one_or_none()
    return None if row is None else _sample(row)


def record(tx: Connection, known: Registered, made: Draw, *, seed: int, rate: float) -> Sample:
    """Write a draw down, with the propensity that each finished item had."""
    row = tx.execute(
        text(
            "INSERT INTO samples (classifier_id, seed, size, population, kept, audit_rate, audited, propensity,"
            " up_to_outcome) VALUES (:classifier, :seed, :size, :population, :kept, :rate, :audited, :propensity,"
            " :newest) RETURNING *"
        ),
        {
            "classifier": known.id,
            "seed": seed,
            "size": len(made.drawn),
            "population": made.population,
            "kept": made.kept,
            "rate": rate,
            "audited": made.audited,
            "propensity": len(made.drawn) / made.population,
            "newest": made.newest,
        },
    ).one()
    tx.execute(
        text(
            "INSERT INTO sampled_items (sample_id, item_id, outcome_id, audited) SELECT :sample, * FROM"
            " unnest(CAST(:items AS bigint[]), CAST(:outcomes AS bigint[]), CAST(:audited AS bool[]))"
        ),
        {
            "sample": row.id,
            "items": [one.item.row for one in made.drawn],
            "outcomes": [one.item.outcome for one in made.drawn],
            "audited": [one.audited for one in made.drawn],
        },
    )
    return _sample(row)


def _sample(row: Row[Any]) -> Sample:
    return Sample(
        id=row.id,
        seed=row.seed,
        size=row.size,
        population=row.population,
        kept=row.kept,
        audited=row.audited,
        audit_rate=row.audit_rate,
        newest=row.up_to_outcome,
        created_at=row.created_at,
    )


_JUDGED = text("""
    SELECT o.source = 'small' AS kept, o.label = said.label AS right, s.audited,
           coalesce(a.label = o.label, false) AS agreed, o.label, said.label AS said
      FROM sampled_items s
      JOIN outcomes o ON o.id = s.outcome_id AND o.item_id = s.item_id
      JOIN LATERAL (SELECT label FROM outcomes
                     WHERE item_id = s.item_id AND source = 'human' ORDER BY id DESC LIMIT 1) said ON true
      LEFT JOIN LATERAL (SELECT label FROM answers
                          WHERE item_id = s.item_id AND propensity IS NOT NULL ORDER BY id DESC LIMIT 1) a ON true
     WHERE s.sample_id = :sample
""")


def judged(tx: Connection, sample: Sample) -> list[Judged]:
    """What of a sample people have labelled; the last word counts, whatever file it came in."""
    return [Judged(*row) for row in tx.execute(_JUDGED, {"sample": sample.id})]


_AGREED = text("""
    SELECT i.key FROM answers a
      JOIN items i ON i.id = a.item_id
      JOIN LATERAL (SELECT label, source FROM outcomes
                     WHERE item_id = i.id AND source <> 'human' AND id <= :up_to ORDER BY id DESC LIMIT 1) o ON true
     WHERE a.classifier_id = :classifier AND a.propensity IS NOT NULL AND o.source = 'small' AND o.label = a.label
       AND a.id = (SELECT max(id) FROM answers WHERE item_id = i.id AND propensity IS NOT NULL)
       AND NOT EXISTS (SELECT FROM sampled_items s
                        WHERE s.sample_id = :sample AND s.item_id = i.id AND EXISTS (
                              SELECT FROM outcomes h WHERE h.item_id = i.id AND h.source = 'human'))
""")


def agreed(tx: Connection, classifier_id: int, sample: Sample) -> list[str]:
    """Ids of items kept before a draw whose audit answer is their outcome, less those `judged` by people."""
    rows = tx.execute(_AGREED, {"classifier": classifier_id, "sample": sample.id, "up_to": sample.newest})
    return list(rows.scalars())
