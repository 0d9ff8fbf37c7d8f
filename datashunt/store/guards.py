"""The drift guard of a proven bundle: its state as one row, and what it has not read yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from datashunt.store.trials import Trial


@dataclass(frozen=True, slots=True)
class Stored:
    """A guard on file; see the table."""

    rung: str
    scores: dict[str, Any]
    audits: dict[str, Any]
    last_score: int
    last_ask: int


def find(tx: Connection, trial_id: int) -> Stored | None:
    """The guard of a trial, locked until the transaction ends."""
    row = tx.execute(
        text("SELECT rung, scores, audits, last_score, last_ask FROM guards WHERE trial_id = :trial FOR UPDATE"),
        {"trial": trial_id},
    ).one_or_none()
    return None if row is None else Stored(*row)


def rung(tx: Connection, trial_id: int) -> str | None:
    """How far the guard of a trial has gone; None before it begins."""
    found: str | None = tx.execute(
        text("SELECT rung FROM guards WHERE trial_id = :trial"), {"trial": trial_id}
    ).scalar_one_or_none()
    return found


def newest(tx: Connection) -> tuple[int, int]:
    """The newest score and the newest ask there are: a guard that begins now reads later ones."""
    row = tx.execute(
        text("SELECT coalesce((SELECT max(id) FROM scores), 0), coalesce((SELECT max(id) FROM asks), 0)")
    ).one()
    return row[0], row[1]


def save(tx: Connection, trial_id: int, guard: Stored) -> None:
    """Write a guard down."""
    tx.execute(
        text(
            "INSERT INTO guards (trial_id, rung, scores, audits, last_score, last_ask) VALUES (:trial, :rung,"
            " CAST(:scores AS jsonb), CAST(:audits AS jsonb), :last_score, :last_ask) ON CONFLICT (trial_id) DO UPDATE"
            " SET rung = excluded.rung, scores = excluded.scores, audits = excluded.audits,"
            "     last_score = excluded.last_score, last_ask = excluded.last_ask"
        ),
        {
            "trial": trial_id,
            "rung": guard.rung,
            "scores": json.dumps(guard.scores),
            "audits": json.dumps(guard.audits),
            "last_score": guard.last_score,
            "last_ask": guard.last_ask,
        },
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """Scores that a guard has not read: confidences and predicted labels, in order, and the row of the last."""

    confidences: Sequence[float]
    labels: Sequence[str]
    last: int


# nan, of a model that broke down, is greater than all numbers here
_SCORES = text("""
    WITH fresh AS MATERIALIZED (
        SELECT id, item_id FROM scores WHERE id > :last AND bundle_id = :bundle AND confidence <= 1.001),
    drawn AS (
        SELECT id, item_id FROM fresh
         WHERE (SELECT count(*) FROM fresh) <= :most
            OR ('x' || substr(md5(:bundle || ' ' || id), 1, 13))::bit(52)::bigint
               < :most / (SELECT count(*) FROM fresh)::float8 * 4503599627370496)
    SELECT id, confidence, label, (SELECT max(id) FROM fresh) AS last
      FROM scores JOIN drawn USING (id, item_id) ORDER BY id
""")


SETTLED_S = 60.0
"""A score this old is committed, or passed over: no batch takes so long to write."""
_PASSED = text("""
    SELECT id FROM scores WHERE id > :last AND created_at < now() - make_interval(secs => :settled_s)
     ORDER BY id DESC LIMIT 1
""")


def scores_after(tx: Connection, bundle_id: int, last: int, most: int) -> Seen:
    """The scores of a bundle after this row; what commits late is passed over.

    Where there are none, the last row is the newest of all bundles that is a minute old, so that the next look does not
    read the same scores of others again. No younger one: others number their rows and commit them later.

    Of more than `most`, about so many, drawn by a hash of their rows: each has the same chance, whatever it says and
    wherever it stood in its batch, so that a sample of a stream that does not change does not change either.
    """
    rows = tx.execute(_SCORES, {"bundle": bundle_id, "last": last, "most": most}).all()
    if rows:
        return Seen([row.confidence for row in rows], [row.label for row in rows], rows[-1].last)
    passed: int | None = tx.execute(_PASSED, {"last": last, "settled_s": SETTLED_S}).scalar_one_or_none()
    return Seen([], [], last if passed is None else passed)


@dataclass(frozen=True, slots=True)
class Missed:
    """Audits that a guard has not read: whether each misses, its weight, and the row of the last ask."""

    missed: Sequence[bool]
    weights: Sequence[float]
    last: int


def audits_after(tx: Connection, trial: Trial, last: int, *, of_all: bool, cut: float | None) -> Missed:
    """What a trial read of asks after this row: of kept items, or of all.

    Then those that were asked miss only if the LLM's label was not offered, at the cut by which prompts are pruned.
    """
    rows = tx.execute(
        text(
            "SELECT ask_id, CASE WHEN kept THEN said <> truth ELSE coalesce(reach < CAST(:cut AS float8), false) END"
            "       AS missed, weight FROM trial_answers"
            " WHERE trial_id = :trial AND ask_id > :last AND (kept OR :of_all) ORDER BY ask_id"
        ),
        {"trial": trial.id, "last": last, "of_all": of_all, "cut": cut},
    ).all()
    return Missed([row.missed for row in rows], [row.weight for row in rows], rows[-1].ask_id if rows else last)
